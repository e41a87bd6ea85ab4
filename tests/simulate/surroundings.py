"""What is around the service of a simulated machine (`Outside`): logind, UPower, NetworkManager, people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from typing import Any

from bootcd.update.surroundings import ShutdownBlock, Source, Surroundings
from tests.simulate.time import RunningClock

_REHEARSED = timedelta(seconds=30)
"After its time what logind was told to announce is gone."
_OF: dict[Source, tuple[str, ...]] = {
    Source.NETWORK: ("metered",),
    Source.POWER: ("on_battery", "battery_percent"),
    Source.PROFILE: ("power_saver",),
    Source.SESSIONS: ("people",),
    Source.SHUTDOWN: ("shutdown_blocks",),
    Source.BOOT: ("boot_undecided",),
}


class Around:
    """`now` is what is so, whether anybody asks or not; `told` hears what people are told."""

    def __init__(self, random: Random, clock: RunningClock, told: Callable[[datetime | None], None]) -> None:
        self._random = random
        self._clock = clock
        self._told = told
        self.now = Surroundings(people=(), shutdown_blocks=(), boot_undecided=False)
        self._seen: Callable[[Surroundings], None] | None = None
        self._sources: frozenset[Source] = frozenset()
        self._unread: frozenset[Source] = frozenset()
        self.announced: datetime | None = None
        "What logind announces, for this service."
        self._rehearsed = False

    @property
    def all_read(self) -> bool:
        return not self._unread

    def part(self) -> None:
        """Have no service to tell anything."""
        self._seen, self._rehearsed = None, False

    def change(self, **changes: Any) -> None:
        self.now = replace(self.now, **changes)
        self._tell()

    def answer(self) -> None:
        """Have all that were asked answer for the first time."""
        self._unread = frozenset()
        self._tell()

    def call_off(self) -> bool:
        """Do what `shutdown -c` does; tell whether there was anything to call off."""
        if self.announced is None or self._clock.shown > self.announced + _REHEARSED:
            return False
        self.announced = None
        return True

    def change_one(self) -> None:
        """Something changes, or somebody comes or goes."""
        known, random = self.now, self._random
        match random.randrange(6):
            case 0 | 1:
                self.change(people=() if known.people else ("ann",))
            case 2:
                self.change(metered=random.choice((None, False, True)))
            case 3:
                self.change(on_battery=random.random() < 0.5, battery_percent=random.randrange(101))
            case 4:
                self.change(power_saver=random.random() < 0.3)
            case _:
                blocks = () if known.shutdown_blocks else (ShutdownBlock("backup", "copying"),)
                self.change(shutdown_blocks=blocks)

    # What the service calls

    def watch(self, sources: frozenset[Source], seen: Callable[[Surroundings], None]) -> None:
        self._sources, self._unread, self._seen = sources, sources, seen
        self._tell()

    async def tell(self, when: datetime | None) -> None:
        self.announced = when
        self._rehearsed = when is not None
        self._told(when)

    async def called_off(self) -> bool:
        gone = self.announced is None or self._clock.now() > self.announced + _REHEARSED
        return self._rehearsed and gone

    def _tell(self) -> None:
        if self._seen is None:
            return
        known = {name for source in self._sources - self._unread for name in _OF[source]}
        answers = {name: getattr(self.now, name) for name in known}
        self._seen(Surroundings(unread=self._unread, **answers))
