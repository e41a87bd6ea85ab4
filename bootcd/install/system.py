"""What an installation adds to the deployed image: mounts, a key for root, and where it came from.

Formats: fstab(5); tmpfiles.d(5); `.bootc-aleph.json` of https://github.com/bootc-dev/bootc,
crates/lib/src/install/aleph.rs.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from pathlib import Path

from bootcd.host.files import write_atomic
from bootcd.model.errors import BackendFailed, NotBootable
from bootcd.oci.manifest import CREATED, ImageConfig, normalise_timestamp
from bootcd.ostreefmt.origin import TrackedImage

ALEPH = ".bootc-aleph.json"
ROOT_KEYS = "etc/tmpfiles.d/bootc-root-ssh.conf"
FSTAB = "etc/fstab"


def first_kargs(
    root: Sequence[str],
    settings: Sequence[str],
    image: Sequence[str],
    deletes: Sequence[str],
    added: Sequence[str],
) -> list[str]:
    """Return the kernel arguments of the first deployment.

    `deletes` take out what comes before `added`: `KEY=VALUE` that argument, `KEY` all of that key.
    """
    there = [*root, *settings, *image]
    kept = [karg for karg in there if karg not in deletes and karg.partition("=")[0] not in deletes]
    return [*kept, *added]


def _own(deployment: Path, name: str) -> Path:
    """Return the path of a deployment's own file, which no link of the image leads out of it.

    Raises NotBootable.
    """
    path = deployment
    for part in Path(name).parts:
        path /= part
        if path.is_symlink():
            raise NotBootable(f"/{path.relative_to(deployment)} of the image is a symbolic link")
    return path


def boot_fstab_line(source: str) -> str:
    return f"{source} /boot auto ro 0 0\n"


def add_fstab_line(deployment: Path, line: str) -> None:
    """Add a line to a deployment's own fstab. Raises BackendFailed, NotBootable."""
    path = _own(deployment, FSTAB)
    try:
        old = path.read_text() if path.exists() else ""
        if line not in old:
            separator = "" if not old or old.endswith("\n") else "\n"
            write_atomic(path, f"{old}{separator}{line}".encode(), mode=0o644, durable=False)
    except OSError as error:
        raise BackendFailed(f"/{FSTAB} of the deployment cannot be written: {error.strerror}") from error


def root_keys_line(home: str, keys: bytes) -> str:
    """Return the line of tmpfiles.d that gives root its keys; `home` has no slash at the start."""
    return f"f~ /{home}/.ssh/authorized_keys 600 root root - {base64.b64encode(keys).decode()}\n"


def add_root_keys(deployment: Path, keys: bytes) -> None:
    """Let these SSH keys in as root from the first boot on. Raises BackendFailed, NotBootable.

    /root is usually a link into /var, which tmpfiles.d does not follow.
    """
    path = _own(deployment, ROOT_KEYS)
    home = deployment / "root"
    try:
        place = str(home.readlink()).lstrip("/") if home.is_symlink() else "root"
        path.parent.mkdir(mode=0o755, exist_ok=True)
        write_atomic(path, root_keys_line(place, keys).encode(), mode=0o644, durable=False)
    except OSError as error:
        raise BackendFailed(f"/{ROOT_KEYS} of the deployment cannot be written: {error.strerror}") from error


def aleph(
    *, source: TrackedImage, target: TrackedImage, digest: str, config: ImageConfig, selinux: str
) -> bytes:
    """Return the provenance document, canonical JSON as bootc writes it.

    Args:
        selinux: state at the installation, such as `disabled`.
    """
    document: dict[str, object] = {
        "digest": digest,
        "kernel": os.uname().release,
        "selinux": selinux,
        "target-image": target.name,
        "timestamp": normalise_timestamp(config.labels.get(CREATED)),
        "version": config.version,
    }
    if not source.name.startswith("/tmp"):  # noqa: S108  # a place nobody finds again is not worth a record
        document["image"] = source.name
    if config.labels:
        document["labels"] = config.labels
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def write_aleph(root: Path, document: bytes) -> None:
    """Write the provenance document to the physical root. Raises BackendFailed."""
    try:
        write_atomic(root / ALEPH, document, mode=0o644, durable=False)
    except OSError as error:
        raise BackendFailed(f"{ALEPH} cannot be written: {error.strerror}") from error
