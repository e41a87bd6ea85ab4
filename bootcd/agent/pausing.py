"""The pause that is in force: kept across restarts by whoever owns it, ended when its time is over."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from bootcd.agent.alarm import Alarm
from bootcd.host.clock import Clock
from bootcd.update.pause import Pause


class Pausing:
    """`on_end` is called when the time of a pause is over; what it is asked to keep is `kept`."""

    def __init__(self, clock: Clock, on_end: Callable[[], None]) -> None:
        self._clock = clock
        self._alarm = Alarm(clock, on_end)
        self._moved: Pause | None = None
        "The one that is kept, as long as the clock is behind its beginning."
        self.kept: Pause | None = None

    def keep(self, pause: Pause | None) -> None:
        self.kept, self._moved = pause, None
        self._alarm.set(pause.until if pause else None)

    def stop(self) -> None:
        self._alarm.set(None)

    def current(self) -> Pause | None:
        """Return what is in force now."""
        pause = self._known(self._clock.now())
        return None if pause is None or pause.is_over(self._clock.now()) else pause

    def _known(self, now: datetime) -> Pause | None:
        if self.kept is None or now >= self.kept.since:
            self._moved = None
            return self.kept
        if self._moved is None or now < self._moved.since:
            self._moved = self.kept.moved(now)
            self._alarm.set(self._moved.until)
        return self._moved
