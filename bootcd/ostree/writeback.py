"""The way of written data to the disk: begun while an import goes on, waited for at its end.

Left alone, the kernel keeps what is written in memory for half a minute, which is longer than an import
takes; all of it would then be waited for at once, with nothing else left to do meanwhile.
"""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

STEP_BYTES = 32 << 20
"Written since the last flush: enough to make the disk busy, few enough to keep the journal's commits short."


class Writeback:
    """Flushes a file system from a thread as it is written to.

    Only a beginning: whoever needs the data on the disk calls `sync_file_system` with a descriptor of its
    own, since a write that failed is told once to each.
    """

    def __init__(self, directory: Path) -> None:
        self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._mutex = threading.Lock()
        self._written = 0
        self._thread: threading.Thread | None = None

    def wrote(self, count: int) -> None:
        """Count bytes written. Safe from any thread."""
        with self._mutex:
            self._written += count
            if self._written < STEP_BYTES or (self._thread and self._thread.is_alive()):
                return
            self._written = 0
            self._thread = threading.Thread(target=_syncfs, args=(self._fd,), name="writeback", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Wait for a flush that has begun; nothing may be counted any more."""
        if self._thread:
            self._thread.join()
        os.close(self._fd)


def sync_file_system(fd: int) -> None:
    """Return when all that was written to the file system of a descriptor is on the disk.

    Raises OSError if a write failed since the descriptor was opened or last used for this.
    """
    if code := _syncfs(fd):
        raise OSError(code, os.strerror(code))


def _syncfs(fd: int) -> int:
    return ctypes.get_errno() if _libc.syncfs(fd) != 0 else 0


_libc = ctypes.CDLL(None, use_errno=True)
