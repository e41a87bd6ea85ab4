"""The times at which background work is due: intervals, jitter and back-off. No I/O.

Times are wall-clock times, because they are kept across restarts, and the wall clock may jump. A
stored time that lies in the future is known to be wrong and counts as long past, so that no jump
makes a host wait longer than one delay; the work then done stores a right time again.

A service start is not a good moment for work: many hosts start together after an outage. The first
check therefore waits for 10 to 90 per cent of the interval, but of no more than an hour.

Where in these spans a machine acts is drawn from its identity: a fleet is spread over them, and each machine
is found at its place again, by whoever looks at a log or waits for it.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime, timedelta

FIRST_CHECK_WITHIN = timedelta(hours=1)
"Long enough to spread a fleet that was switched on together, short enough for a laptop's day."

FIRST_RETRY = timedelta(minutes=5)
"A failure at wake-up, before the network is there, must not cost a whole interval."

LONGEST_RETRY = timedelta(days=1)
"A registry that is gone for weeks sees each host once a day, and so does one that is back."

_DOUBLINGS = 32
"More than from a second to a century; bounds the arithmetic, not the wait."


def steady_chance(identity: bytes) -> float:
    """Return the machine's own number in [0, 1). `identity` is the machine's and secret."""
    drawn = hmac.digest(identity, b"schedule", hashlib.sha256)
    return int.from_bytes(drawn[:6], "big") / (1 << 48)


def retry_delay(interval: timedelta, failures: int) -> timedelta:
    """Return the wait after `failures` (at least 1) failures in a row of what runs every `interval`.

    Doubles from five minutes, or from the interval if that is shorter, up to a day, or to the
    interval if that is longer.
    """
    first = min(interval, FIRST_RETRY)
    longest = max(interval, LONGEST_RETRY)
    return min(first * (1 << min(failures - 1, _DOUBLINGS)), longest)


def due_after(last: datetime, delay: timedelta, now: datetime) -> datetime:
    """Return when `delay` after `last` is; `now` if `last` lies in the future."""
    return now if last > now else last + delay


def next_check(
    last: datetime | None,
    *,
    started: datetime,
    interval: timedelta,
    jitter: timedelta,
    chance: float,
    failures: int,
    now: datetime,
) -> datetime:
    """Return when the next check is due; at or before `now` means at once.

    `last` is the end of the last check whatever its result, None if there was none; `started` is
    when the service came up. `chance`, in [0, 1), is the machine's own and says how much of
    `jitter` is added; never more than the delay itself, so that short intervals stay short.
    """
    share = 0.1 + 0.8 * chance
    first = due_after(started, share * min(interval, FIRST_CHECK_WITHIN), now)
    if last is None:
        return first
    delay = retry_delay(interval, failures) if failures > 0 else interval
    return max(first, due_after(last, delay + chance * min(jitter, delay), now))
