"""What a worker that was killed had written of layers fetched in parts, kept so that it is not fetched again.

Such content was verified by a table that the image's manifest vouches for, before it was complete under its
name; whether it was complete at the moment of the kill, or ever reached the disk, its name tells, which is
its checksum. Nothing refers to what is kept: if no later pull has a use for it, pruning removes it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from bootcd.ostree.writeback import sync_file_system
from bootcd.ostreefmt.objects import file_header

log = logging.getLogger(__name__)

_SUFFIX = ".file"
_READ_BYTES = 1 << 20


def salvage(content: Path, objects: Path) -> None:
    """Move the files of a staging directory that are whole to the objects of its repository. Blocks.

    Nobody else writes to either. Raises OSError.
    """
    whole = [name for name in _names(content) if _is_whole(content, name)]
    if not whole:
        return
    fd = os.open(objects, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # What was read above may be in memory alone, and a name must not be durable before its content.
        sync_file_system(fd)
        for name in whole:
            (objects / name[:2]).mkdir(mode=0o755, exist_ok=True)
            (content / name).rename(objects / name)
        sync_file_system(fd)
    finally:
        os.close(fd)
    log.info("%d files that were fetched before are kept", len(whole))


def _names(content: Path) -> Iterator[str]:
    for directory in sorted(content.glob("[0-9a-f][0-9a-f]")):
        for path in directory.iterdir():
            if path.suffix == _SUFFIX:
                yield f"{directory.name}/{path.name}"


def _is_whole(content: Path, name: str) -> bool:
    """Whether a file is a regular one that has the checksum it is named by."""
    try:
        fd = os.open(content / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return False
        xattrs = sorted((key.encode(), os.getxattr(fd, key)) for key in os.listxattr(fd))
        digest = hashlib.sha256(file_header(status.st_uid, status.st_gid, status.st_mode, "", xattrs))
        while block := os.read(fd, _READ_BYTES):
            digest.update(block)
        return f"{name[:2]}{name[3 : -len(_SUFFIX)]}" == digest.hexdigest()
    except OSError:
        return False
    finally:
        os.close(fd)
