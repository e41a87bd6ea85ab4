"""What people who are logged in are told of a reboot they did not ask for, and when it is taken back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from bootcd.agent.alarm import Alarm
from bootcd.host.clock import Clock
from bootcd.update.courtesy import CALLED_OFF, REHEARSED_FOR, Told

log = logging.getLogger(__name__)


class Teller(Protocol):
    """The part of `bootcd.agent.interface.Outside` that is about people."""

    async def tell(self, when: datetime | None) -> None: ...
    async def called_off(self) -> bool: ...


class Courtesy:
    """Follows the plans: who was told once is told again only of another time.

    Whether somebody has called the reboot off is asked when it is time for it, whatever else is in its way
    then, and before people are told anything else. `on_off` is called when somebody has.
    """

    def __init__(self, clock: Clock, on_off: Callable[[], None]) -> None:
        self._clock = clock
        self._on_off = on_off
        self._told = Told()
        self._announced: datetime | None = None
        "What people were told last; by then they may have to be told something else."
        self.off: datetime | None = None
        "The time of the reboot that was called off last."
        self._off_until: datetime | None = None
        self._asked_in_time = False
        "Whether it was asked when the time had come that people were told."
        self._taken_back = 0
        self._teller: Teller | None = None
        self._alarm = Alarm(clock, self._ring)
        self._task: asyncio.Task[None] | None = None
        self._untold = False

    def by(self, teller: Teller) -> None:
        """Have people told by this."""
        self._teller = teller

    @property
    def until(self) -> datetime | None:
        """When people were told that the host reboots; None if they know of nothing."""
        return self._told.at(self._clock.now())

    def follow(self, notice: datetime | None) -> None:
        """Take when the host reboots as of now, if people have to be told."""
        now = self._clock.now()
        before, self._told = self._told.at(now), self._told.after(notice, now)
        if self._told.until == before:
            return
        self._untold = True
        self._begin()

    @property
    def off_until(self) -> datetime | None:
        """Until when a reboot that was called off does not come."""
        return self._off_until

    async def called_off(self, when: datetime | None = None) -> bool:
        """Tell whether the reboot people were told of is not to come, or was not at a time that is over.

        `when` is the time of one that somebody has asked for, which stands where nobody can know.
        """
        before, taken_back = self._off_until, self._taken_back
        self._begin()
        if self._task is not None:
            await asyncio.wait([self._task])
        if when is None:
            return self._taken_back != taken_back
        return self._off_until != before or self.off == when

    async def stop(self) -> None:
        self._alarm.set(None)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _ring(self) -> None:
        self._begin()

    def _begin(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._keep_telling())

    async def _keep_telling(self) -> None:
        """Ask whether it is called off; then tell the newest time, and one that changed meanwhile next."""
        await self._ask()
        while self._untold and self._teller is not None:
            self._untold = False
            self._announced, self._asked_in_time = self._told.until, False
            self._alarm.set(self._announced)
            await self._teller.tell(self._announced)
            if self._untold:
                await self._ask()

    async def _ask(self) -> None:
        """Forget what people were told if one of them has called it off, or may have."""
        when, now = self._announced, self._clock.now()
        if self._teller is None or when is None:
            return
        if now < when + REHEARSED_FOR:
            if not await self._teller.called_off():
                self._asked_in_time = now >= when
                return
            log.info("somebody who is logged in has called the reboot off")
            self.off = when
            self._off_until = self._clock.now() + CALLED_OFF
        elif self._asked_in_time:
            return
        else:
            # Such as where the host slept: the rehearsal, which would tell, is gone by now.
            log.info("whether the reboot was called off cannot be known: people are told anew")
        self._told, self._announced = Told(), None
        self._taken_back += 1
        self._on_off()
