"""What people who are logged in are told of a reboot they did not ask for, and when it is taken back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime

from bootcd.host.clock import Clock
from bootcd.update.courtesy import CALLED_OFF, Told

Tell = Callable[[datetime | None], Awaitable[None]]
"Tell people when the host reboots, or with None that it does not; raises nothing."


class Courtesy:
    """Follows the plans: who was told once is told again only of another time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told = Told()
        self._off_until: datetime | None = None
        self._tell: Tell | None = None
        self._task: asyncio.Task[None] | None = None
        self._untold = False

    def by(self, tell: Tell) -> None:
        """Have people told by this."""
        self._tell = tell

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
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._keep_telling())

    @property
    def off_until(self) -> datetime | None:
        """Until when a reboot that was called off does not come."""
        return self._off_until

    def call_off(self) -> None:
        """Forget what people were told, as one of them has called it off."""
        self._told = Told()
        self._off_until = self._clock.now() + CALLED_OFF

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _keep_telling(self) -> None:
        """Tell the newest time; one that changed meanwhile is told next."""
        while self._untold and self._tell is not None:
            self._untold = False
            await self._tell(self._told.until)
