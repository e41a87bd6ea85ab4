"""Whole files, written so that a crash leaves the old one or the new one, and read with a bound.

A write goes to `.<name>.<random>.new` beside the target, is synced, renamed over it, and the
directory is synced: rename(2) is atomic, fsync(2) of the directory makes the new name last.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from pathlib import Path

_TEMPORARY = ".*.new"
_ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace the file `path` by `data`; readers see the old content or the new, never a mix.

    `mode` holds whatever the umask. Without `durable` nothing is synced: for files that need not
    survive a power cut, such as those below /run. Blocks; raises OSError with nothing changed.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(data)
            file.flush()
            os.fchmod(descriptor, mode)
            if durable:
                os.fsync(descriptor)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make creations, renames and removals in the directory `path` last."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bounded(path: Path, limit: int) -> bytes:
    """Read the regular file `path` of at most `limit` bytes.

    Raises OSError: EFBIG if it is longer, EINVAL if it is a pipe, a device or a directory (never
    waits for a writer), and whatever open(2) and read(2) say.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"Longer than {limit} bytes", str(path))
    return data


def sealed_memory(name: str, data: bytes) -> int:
    """Return a descriptor of a file in memory that holds `data` and that nobody can change any more."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _ALL_SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def remove_leftovers(directory: Path) -> None:
    """Delete the temporaries that writers which were killed left in `directory`.

    For the owner of the directory, at its start, while nobody writes there.
    """
    for temporary in directory.glob(_TEMPORARY):
        temporary.unlink(missing_ok=True)
