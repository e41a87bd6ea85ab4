"""A bound of the bytes received per second, for all connections together.

Who has received bytes waits until they are paid for; the kernel's own flow control then slows the
sender. What was not used is forgotten after a moment, so that a pause is no credit for a burst.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

_CREDIT_SECS = 0.25


class Bandwidth:
    """At most `bytes_per_sec`; 0 is no bound."""

    def __init__(
        self,
        bytes_per_sec: int = 0,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bytes_per_sec = bytes_per_sec
        self._sleep = sleep
        self._monotonic = monotonic
        self._paid_until = float("-inf")

    async def spend(self, count: int) -> None:
        """Wait until so many bytes more fit into the bound, in the order of the calls."""
        if not self.bytes_per_sec:
            return
        now = self._monotonic()
        self._paid_until = max(self._paid_until, now - _CREDIT_SECS) + count / self.bytes_per_sec
        if self._paid_until > now:
            await self._sleep(self._paid_until - now)
