"""A mount namespace of this process's own (unshare(2), mount_namespaces(7))."""

from __future__ import annotations

import ctypes
import os

_CLONE_NEWNS = 0x00020000


def unshare_mounts() -> bool:
    """Move to a mount namespace of our own, where libostree may make /sysroot and /boot writable.

    False where that is not allowed; then libostree works with what it finds. For a process with one thread,
    as others stay behind.
    """
    return os.geteuid() == 0 and ctypes.CDLL(None).unshare(_CLONE_NEWNS) == 0
