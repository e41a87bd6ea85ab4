"""The wall clock and the boot clock: the only place that asks the system for the time.

Everything else gets a `Clock` or a plain value, so that a test decides what time it is.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """Wall-clock time, aware, in UTC; may jump either way."""

    def boottime(self) -> float:
        """Seconds since boot, counting suspend; never goes back (clock_gettime(2), CLOCK_BOOTTIME)."""


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def boottime(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
