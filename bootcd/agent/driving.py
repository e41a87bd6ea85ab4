"""Drivers that are at work: files in a directory that root alone can write to, and their processes."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bootcd.host.files import read_bounded
from bootcd.host.watch import DirectoryWatch
from bootcd.update.driver import Driver, parse_driver, unreadable

log = logging.getLogger(__name__)

_SUFFIX = ".toml"
_FILE_LIMIT = 4096
_FILES = 16


@dataclass(frozen=True, slots=True)
class _Claim:
    driver: Driver
    process: int | None = None
    "A descriptor of the process (pidfd_open(2)) that has to run for it."


class Driving:
    """`on_change` is called after every change of `drivers`."""

    def __init__(self, directory: Path, on_change: Callable[[], None]) -> None:
        self._directory = directory
        self._on_change = on_change
        self._watch = DirectoryWatch((directory,), self._look_soon)
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._claims: tuple[_Claim, ...] = ()

    @property
    def drivers(self) -> tuple[Driver, ...]:
        """In the order of the names of their files."""
        return tuple(claim.driver for claim in self._claims)

    async def start(self) -> None:
        self._watch.start()
        await self._look()

    async def stop(self) -> None:
        self._watch.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._let_go()

    def _look_soon(self) -> None:
        task = asyncio.get_running_loop().create_task(self._look())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(self) -> None:
        async with self._turn:
            before = self.drivers
            claims = await asyncio.to_thread(_read, self._directory)
            self._let_go()
            self._claims = claims
            for claim in claims:
                if claim.process is not None:
                    # Readable once the process has ended.
                    asyncio.get_running_loop().add_reader(claim.process, self._ended, claim)
            if self.drivers != before:
                names = ", ".join(driver.name for driver in self.drivers)
                log.info("other programs that decide when this host is updated: %s", names or "none")
                self._on_change()

    def _ended(self, claim: _Claim) -> None:
        log.info("%s has ended, and its file counts no more", claim.driver.name)
        self._close(claim)
        self._claims = tuple(other for other in self._claims if other is not claim)
        self._on_change()

    def _let_go(self) -> None:
        for claim in self._claims:
            self._close(claim)
        self._claims = ()

    def _close(self, claim: _Claim) -> None:
        if claim.process is not None:
            asyncio.get_running_loop().remove_reader(claim.process)
            os.close(claim.process)


def _read(directory: Path) -> tuple[_Claim, ...]:
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(_SUFFIX))  # noqa: PTH208
    except OSError:
        return ()
    found = (_claim(directory / name) for name in names[:_FILES])
    return tuple(claim for claim in found if claim is not None)


def _claim(path: Path) -> _Claim | None:
    """Return what a file claims; None if it is gone, or was left behind by a process that is."""
    try:
        driver = parse_driver(read_bounded(path, _FILE_LIMIT).decode(), path.name)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        driver = unreadable(path.name)
    if not driver.pid:
        return _Claim(driver)
    try:
        return _Claim(driver, os.pidfd_open(driver.pid))
    except OSError:
        log.debug("%s is of a process that does not run", path)
        return None
