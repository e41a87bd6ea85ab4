"""The daemon with a day that is over within seconds: `python -m tests.support.hurried ARGUMENTS`.

Once the file `BEGIN` is there, time jumps on to the next timer whenever the daemon has nothing to do but
wait for it: its loop, its wall clock and its boot clock alike. Nothing that is at work is hurried: as
long as a child or a thread runs, time is the real one. After a day the file `OVER` appears, and time is
real again.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
import threading
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bootcd.host.clock import SystemClock

BEGIN, OVER = Path("/run/hurry"), Path("/run/day-over")
DAY_SECS = 86400.0
_IDLE_SECS = 0.02
"As long as nothing happens for that time, nothing will but by a timer."


class _Time(selectors.EpollSelector):
    skipped = 0.0
    pool: ThreadPoolExecutor | None = None

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is not None and timeout <= 0:
            return super().select(timeout)
        ready = super().select(_IDLE_SECS if timeout is None else min(timeout, _IDLE_SECS))
        left = DAY_SECS - _Time.skipped
        if not ready and left > 0 and BEGIN.exists() and not _has_children() and not _has_work(_Time.pool):
            # What ended just now has written to the loop before it did.
            if ready := super().select(0):
                return ready
            _Time.skipped += left if timeout is None else min(timeout, left)
            if _Time.skipped >= DAY_SECS:
                OVER.touch()
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        super().__init__(_Time())

    def time(self) -> float:
        return time.monotonic() + _Time.skipped

    def set_default_executor(self, executor: Executor) -> None:  # type: ignore[override]
        assert isinstance(executor, ThreadPoolExecutor)
        _Time.pool = executor
        super().set_default_executor(executor)


class _Policy(asyncio.DefaultEventLoopPolicy):
    _loop_factory = _Loop


def _has_children() -> bool:
    return any(path.read_text().strip() for path in Path("/proc/self/task").glob("*/children"))


def _has_work(pool: ThreadPoolExecutor | None) -> bool:
    """Tell whether a thread is at work, or one that waits for a child has yet to tell of its end."""
    if any(thread.name.startswith("waitpid-") for thread in threading.enumerate()):
        return True
    return pool is not None and pool._idle_semaphore._value < len(pool._threads)


def _now(_: SystemClock) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=_Time.skipped)


def _boottime(_: SystemClock) -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) + _Time.skipped


if __name__ == "__main__":
    from bootcd import __main__

    asyncio.set_event_loop_policy(_Policy())
    SystemClock.now = _now  # type: ignore[method-assign]
    SystemClock.boottime = _boottime  # type: ignore[method-assign]
    sys.exit(__main__.main())
