"""Directories watched for changes others make, without waking up when nothing happens.

inotify(7) through ctypes, as no library for it is worth a dependency. A directory that is not there
yet is awaited in its parent. Changes are only a hint to look again: they come late, together, or once
more than needed, and an overflow of the kernel's queue counts as a change of everything.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

log = logging.getLogger(__name__)

_IN_ATTRIB, _IN_MOVED_FROM, _IN_MOVED_TO = 0x004, 0x040, 0x080
_IN_CREATE, _IN_DELETE, _IN_DELETE_SELF, _IN_MOVE_SELF = 0x100, 0x200, 0x400, 0x800
_IN_ONLYDIR = 0x01000000
_IN_Q_OVERFLOW, _IN_IGNORED = 0x4000, 0x8000
_CONTENT = (
    _IN_ATTRIB | _IN_MOVED_FROM | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE | _IN_DELETE_SELF | _IN_MOVE_SELF
)
_APPEARANCE = _IN_CREATE | _IN_MOVED_TO
_EVENT = struct.Struct("=iIII")
"wd, mask, cookie, len; `len` bytes of name padded with NUL follow."
_BUFFER = 64 << 10

_libc = ctypes.CDLL(None, use_errno=True)


class DirectoryWatch:
    """Calls `changed` when something was created, removed, renamed or touched in one of the directories.

    `settle_secs` after the first event of a burst, so that a burst is one call.
    """

    def __init__(
        self, paths: Iterable[Path], changed: Callable[[], None], *, settle_secs: float = 0.2
    ) -> None:
        self._paths = tuple(paths)
        self._changed = changed
        self._settle_secs = settle_secs
        self._descriptor = -1
        self._awaited: dict[int, set[bytes]] = {}
        "Watch descriptor of a parent: names of children that matter."
        self._watched: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch. Blocks for a few system calls."""
        descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if descriptor < 0:
            log.warning(
                "cannot watch for changes by others: %s; proceeding without", os.strerror(ctypes.get_errno())
            )
            return
        self._descriptor = descriptor
        self._arm()
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _arm(self) -> None:
        """Watch every directory that is there, and the parents of the others; safe to repeat.

        Watching what is watched already returns the same descriptor (inotify_add_watch(2)).
        """
        self._watched.clear()
        self._awaited.clear()
        for path in self._paths:
            if (watch := self._add(path, _CONTENT)) >= 0:
                self._watched.add(watch)
        for path in self._paths:
            # Also where it is there: it may be removed and made again, or be a link that is renamed.
            if (watch := self._add(path.parent, _CONTENT)) >= 0:
                self._awaited.setdefault(watch, set()).add(os.fsencode(path.name))

    def _add(self, path: Path, mask: int) -> int:
        watch: int = _libc.inotify_add_watch(self._descriptor, os.fsencode(path), mask | _IN_ONLYDIR)
        return watch

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, _BUFFER)
        except BlockingIOError:
            return
        relevant = False
        offset = 0
        while offset < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size
            name = data[offset : offset + length].rstrip(b"\0")
            offset += length
            own = watch in self._watched and not mask & _IN_IGNORED
            relevant |= bool(mask & _IN_Q_OVERFLOW) or own or name in self._awaited.get(watch, ())
        if relevant and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._settle_secs, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._arm()
        self._changed()
