"""The package database of an image, read from the files it consists of.

That of rpm is read by the program rpm of this machine, from a copy; dpkg's and apk's are text.
"""

from __future__ import annotations

import posixpath
import subprocess
import tempfile
from pathlib import Path

from bootcd.image.flatten import Spool, Tree
from bootcd.image.owners import (
    RPM_QUERY,
    Owners,
    apk_installed,
    apk_owners,
    dpkg_owners,
    dpkg_status,
    is_database,
    rpm_directory,
    rpm_owners,
)
from bootcd.model.errors import BackendFailed, InvalidLayer
from bootcd.oci.tar import EntryType

_MAX_BYTES = 1 << 30
"Of all files of a database; that of a large system has a hundred megabytes."
_RPM_SECS = 300


def find_owners(tree: Tree, spool: Spool) -> tuple[Owners, str]:
    """Return who owns what, and the kind of database that says so: nobody and "" if there is none. Blocks.

    Raises BackendFailed for a database of rpm where rpm does not read it.
    """
    files = {
        path: node for path, node in tree.items() if is_database(path) and node.entry.type is EntryType.FILE
    }
    if sum(node.entry.size for node in files.values()) > _MAX_BYTES:
        raise InvalidLayer(f"the package database of the image is larger than {_MAX_BYTES} bytes")

    def read(path: str) -> bytes:
        return b"".join(spool.chunks(files[path]))

    if (directory := rpm_directory(files)) is not None:
        with tempfile.TemporaryDirectory(prefix="bootcd-rpm-") as copy:
            for path in files:
                if posixpath.dirname(path) == directory:
                    (Path(copy) / posixpath.basename(path)).write_bytes(read(path))
            return rpm_owners(_query_rpm(copy)), "rpm"
    if (status := dpkg_status(files)) is not None:
        texts = {path: read(path).decode(errors="surrogateescape") for path in files}
        return dpkg_owners(status, texts), "dpkg"
    if (installed := apk_installed(files)) is not None:
        return apk_owners(read(installed).decode(errors="surrogateescape")), "apk"
    return {}, ""


def _query_rpm(database: str) -> str:
    command = ["rpm", "--dbpath", database, "-qa", "--qf", RPM_QUERY]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_RPM_SECS, check=True)
    except FileNotFoundError as error:
        raise BackendFailed(
            "the image has a database of rpm, which only rpm reads, and rpm is not installed here",
            hint="install rpm",
        ) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise BackendFailed("the rpm of this machine cannot read the image's database") from error
    return done.stdout.decode(errors="surrogateescape")
