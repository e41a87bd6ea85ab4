"""When to try again: exponential backoff with full jitter, and what the server says in Retry-After.

Full jitter (a wait between zero and the bound) spreads a fleet that lost its registry at one moment.
Retry-After: https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from bootcd.model.errors import BootcdError

MAX_RETRY_AFTER_SECS = 300
"A job does not wait longer for a server; one that asks for more ends the job."
_FIRST_BOUND_SECS = 0.5
_LAST_BOUND_SECS = 30.0
_MAX_STATED_SECS = 7 * 24 * 3600


def parse_retry_after(value: str, now: datetime) -> int | None:
    """Read a Retry-After header, seconds or an HTTP date, as whole seconds from `now`, or None."""
    value = value.strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return min(int(value), _MAX_STATED_SECS)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return min(max(0, -int((now - when).total_seconds() // 1)), _MAX_STATED_SECS)


def backoff(attempt: int, chance: float) -> float:
    """Return how long to wait before retry number `attempt` (from 0), with `chance` in [0, 1)."""
    return chance * min(_FIRST_BOUND_SECS * 2.0 ** min(attempt, 16), _LAST_BOUND_SECS)


class Attempts:
    """The retries of one operation. An operation that got further may forget what failed before."""

    def __init__(
        self, limit: int, chance: Callable[[], float], sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self._limit = limit
        self._chance = chance
        self._sleep = sleep
        self._failed = 0

    async def failed(self, error: BootcdError) -> None:
        """Wait until the operation may be tried again, or raise `error` if that is of no use."""
        if not error.retryable or self._failed >= self._limit:
            raise error
        wait = backoff(self._failed, self._chance())
        stated = error.fields.get("retry_after_secs")
        if isinstance(stated, int):
            if stated > MAX_RETRY_AFTER_SECS:
                raise error
            wait = max(wait, stated)
        self._failed += 1
        await self._sleep(wait)

    def progressed(self) -> None:
        """Allow the full number of retries again."""
        self._failed = 0
