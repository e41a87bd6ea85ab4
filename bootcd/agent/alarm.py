"""A call at a time of the wall clock, which may be set, and goes on while the host sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from bootcd.host.clock import Clock

LONGEST_SLEEP_SECS = 600.0
"A timer of the event loop stands still while the host sleeps and knows nothing of a wall clock that was set."


class Alarm:
    """Calls `ring` once the time it is set to has come; set to None it is silent."""

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None

    def set(self, when: datetime | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when is not None:
            secs = (when - self._clock.now()).total_seconds()
            secs = min(max(secs, 0.0), LONGEST_SLEEP_SECS)
            self._timer = asyncio.get_running_loop().call_later(secs, self._look, when)

    def _look(self, when: datetime) -> None:
        self._timer = None
        if self._clock.now() >= when:
            self._ring()
        else:
            self.set(when)
