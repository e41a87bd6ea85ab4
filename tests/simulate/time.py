"""Time that passes as fast as it can: a clock that runs while the service thinks, and a loop that goes by it.

Whoever reads the clock finds it later than before, as with every real one: mostly by far less than a
millisecond, now and then by as much as a busy machine takes for a step. Where nothing is left to do but to
wait, the time waited for has passed at once. The loop stands still while the machine sleeps, as that of
asyncio does (CLOCK_MONOTONIC of clock_gettime(2)).
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from datetime import datetime, timedelta
from random import Random
from typing import Any

_A_MOMENT, _A_STEP = 0.001, 0.3
_STEPS = 0.01
"How often a look at the clock comes after a step that took long."


class RunningClock:
    """Both clocks of a machine (`bootcd.host.clock.Clock`); people may set the one on the wall."""

    def __init__(self, random: Random, begins: datetime) -> None:
        self._random = random
        self._begins = begins
        self.awake = 0.0
        "Seconds the machine has been up and not asleep."
        self._slept = 0.0
        self.skew = timedelta(0)
        "By which the clock on the wall is wrong."

    @property
    def elapsed(self) -> float:
        return self.awake + self._slept

    @property
    def shown(self) -> datetime:
        """What the clock on the wall shows, for who looks on and takes no time."""
        return self._begins + timedelta(seconds=self.elapsed) + self.skew

    @property
    def true(self) -> datetime:
        """What it ought to show."""
        return self._begins + timedelta(seconds=self.elapsed)

    def sleep(self, secs: float) -> None:
        self._slept += secs

    def now(self) -> datetime:
        self.run()
        return self.shown

    def boottime(self) -> float:
        self.run()
        return self.elapsed

    def run(self) -> None:
        chance = self._random.random()
        self.awake += chance / _STEPS * _A_STEP if chance < _STEPS else chance * _A_MOMENT


class WaitlessLoop(asyncio.SelectorEventLoop):
    """A loop whose timers are by `clock`; `passes` is called with each span in which nothing happens."""

    def __init__(self, clock: RunningClock, passes: Callable[[float], None]) -> None:
        self._clock = clock
        super().__init__(_Waitless(clock, passes))

    def time(self) -> float:
        return self._clock.awake

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Do it on the loop, but later, as a thread would."""
        future: asyncio.Future[Any] = self.create_future()
        self.call_soon(self._run, future, func, args)
        return future

    def _run(self, future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._clock.run()
        try:
            result = func(*args)
        except Exception as error:
            if not future.cancelled():
                future.set_exception(error)
        else:
            if not future.cancelled():
                future.set_result(result)


class _Waitless(selectors.DefaultSelector):
    def __init__(self, clock: RunningClock, passes: Callable[[float], None]) -> None:
        super().__init__()
        self._clock = clock
        self._passes = passes

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if ready or timeout == 0:
            return ready
        assert timeout is not None, "nothing is waited for that could ever happen"
        # Of a negative one asyncio makes none.
        self._passes(timeout)
        self._clock.awake += timeout
        return ready
