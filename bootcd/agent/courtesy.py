"""What people who are logged in are told of a reboot they did not ask for, and when it is taken back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from bootcd.host.clock import Clock

Tell = Callable[[datetime | None], Awaitable[None]]
"Tell people when the host reboots, or with None that it does not; raises nothing."

_GOOD_FOR = timedelta(minutes=15)
"After the time people were told: a reboot that was refused is tried again within it, and surprises nobody."


class Courtesy:
    """Follows the plans: who was told once is told again only of another time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: datetime | None = None
        self._tell: Tell | None = None
        self._task: asyncio.Task[None] | None = None
        self._untold = False

    def by(self, tell: Tell) -> None:
        """Have people told by this."""
        self._tell = tell

    @property
    def until(self) -> datetime | None:
        """When people were told that the host reboots; None if they know of nothing."""
        if self._until and self._clock.now() >= self._until + _GOOD_FOR:
            self._until = None
        return self._until

    def follow(self, notice: datetime | None) -> None:
        """Take when the host reboots as of now, if people have to be told."""
        before = self.until
        if notice is None and before is not None and before <= self._clock.now():
            return  # It is time; what was told stays good for a reboot that has to be tried again.
        if notice == before:
            return
        self._until = notice
        self._untold = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._keep_telling())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _keep_telling(self) -> None:
        """Tell the newest time; one that changed meanwhile is told next."""
        while self._untold and self._tell is not None:
            self._untold = False
            await self._tell(self._until)
