"""Inhibitors held by file descriptors: who closes theirs, or ends, has let go of it.

Each is a pipe in the runtime directory. Its taker has the end to read from, of which nothing ever
comes; the service has the other, at which the kernel reports that nobody reads any more. A service
that is started anew opens its ends again, which works as long as there is a reader: so inhibitors
outlive it, and none outlives its taker (fifo(7), O_NONBLOCK for writing only).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from bootcd.agent.alarm import Alarm
from bootcd.host.clock import Clock
from bootcd.host.documents import load_document
from bootcd.host.files import remove_leftovers, write_atomic
from bootcd.model.errors import BackendFailed
from bootcd.update.inhibit import Inhibitor, Inhibitors, Wish

log = logging.getLogger(__name__)

_INDEX_LIMIT = 1 << 20


class Inhibition:
    """`on_change` is called after every change of `held`; files are in `directory`."""

    def __init__(self, directory: Path, clock: Clock, on_change: Callable[[], None]) -> None:
        self._directory = directory
        self._index = directory / "index.json"
        self._clock = clock
        self._on_change = on_change
        self._all = Inhibitors()
        self._ends: dict[int, int] = {}
        "Descriptors by number of the inhibitor."
        self._alarm = Alarm(clock, self._expire)
        self._writing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def held(self) -> tuple[Inhibitor, ...]:
        return self._all.held

    async def start(self) -> None:
        """Take up those of an earlier service whose takers are still there."""
        self._all, ends = await asyncio.to_thread(self._restore)
        for number, descriptor in ends.items():
            self._watch(number, descriptor)
        self._expire()

    async def stop(self) -> None:
        """Leave all to the next service."""
        self._alarm.set(None)
        for descriptor in self._ends.values():
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
        self._ends.clear()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def take(self, wish: Wish) -> int:
        """Return a descriptor that holds it; it is the caller's to pass on and close.

        Raises InvalidArguments, LimitsExceeded and BackendFailed.
        """
        self._all = self._all.with_one(wish, self._clock.now())
        new = self._all.held[-1]
        try:
            taken, descriptor = await asyncio.to_thread(self._make, new.number)
        except OSError as error:
            self._all = self._all.without([new.number])
            raise BackendFailed(f"cannot make an inhibitor: {error.strerror}") from error
        self._watch(new.number, descriptor)
        log.info("%s of user %d inhibits %s (%s): %s", new.who, new.uid, new.names, new.how, new.why)
        try:
            await self._save()
        except BaseException:
            os.close(taken)
            raise
        self._expire()
        return taken

    def _watch(self, number: int, descriptor: int) -> None:
        self._ends[number] = descriptor
        # Nothing can be read here: it is called for the error that says that the reader has gone.
        asyncio.get_running_loop().add_reader(descriptor, self._drop, [number])

    def _drop(self, numbers: list[int]) -> None:
        for number in numbers:
            descriptor = self._ends.pop(number, None)
            if descriptor is not None:
                asyncio.get_running_loop().remove_reader(descriptor)
                os.close(descriptor)
        log.debug("inhibitors %s have ended", numbers)
        self._all = self._all.without(numbers)
        task = asyncio.get_running_loop().create_task(self._forget(numbers))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._expire()

    def _expire(self) -> None:
        """End those whose time is over, come back for the next one, and tell."""
        now = self._clock.now()
        if over := self._all.expired(now):
            self._drop(over)
            return
        self._alarm.set(self._all.next_end())
        self._on_change()

    # Files

    async def _save(self) -> None:
        async with self._writing:
            data = self._all.model_dump_json().encode()
            try:
                await asyncio.to_thread(write_atomic, self._index, data, durable=False)
            except OSError as error:
                log.warning("cannot write %s, proceeding: %s", self._index, error.strerror)

    async def _forget(self, numbers: list[int]) -> None:
        for number in numbers:
            await asyncio.to_thread(self._pipe(number).unlink, missing_ok=True)
        await self._save()

    def _pipe(self, number: int) -> Path:
        return self._directory / f"{number}.pipe"

    def _make(self, number: int) -> tuple[int, int]:
        """Return the end to read from and the end to write to of a new pipe."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        path = self._pipe(number)
        # One of a service that was killed before its index named it.
        path.unlink(missing_ok=True)
        os.mkfifo(path, 0o600)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return reader, os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except BaseException:
            os.close(reader)
            raise

    def _restore(self) -> tuple[Inhibitors, dict[int, int]]:
        with contextlib.suppress(OSError):
            remove_leftovers(self._directory)
        known = load_document(self._index, _INDEX_LIMIT, Inhibitors) or Inhibitors()
        ends = {}
        for inhibitor in known.held:
            path = self._pipe(inhibitor.number)
            try:
                ends[inhibitor.number] = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                # ENXIO: nobody reads.
                path.unlink(missing_ok=True)
        return known.without({item.number for item in known.held} - ends.keys()), ends
