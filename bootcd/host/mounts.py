"""Mounts: a namespace of this process's own (mount_namespaces(7)), and where a path is mounted."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_CLONE_NEWNS = 0x00020000


def unshare_mounts() -> bool:
    """Move to a mount namespace of our own, where libostree may make /sysroot and /boot writable.

    False where that is not allowed; then libostree works with what it finds. For a process with one thread,
    as others stay behind.
    """
    return os.geteuid() == 0 and ctypes.CDLL(None).unshare(_CLONE_NEWNS) == 0


def mount_point(path: Path) -> Path:
    """Return the mount point that holds an absolute path without links, be it a bind mount. Blocks.

    Field 5 of proc_pid_mountinfo(5). Mount points whose names have blanks are not found.
    """
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = {Path(line.split(" ", 5)[4]) for line in lines}
    return next(above for above in (path, *path.parents) if above in points or above == Path("/"))
