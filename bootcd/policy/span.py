"""Time spans as people write them in configuration files: those of systemd.time(7). No I/O."""

from __future__ import annotations

import re
from datetime import timedelta

LONGEST_SPAN = timedelta(days=366)
"More than any interval that makes sense; keeps all arithmetic with times in range."

# Months and years are the 30.44 and 365.25 days of systemd.time(7).
_SECONDS = {
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec"), 1e-3),
    **dict.fromkeys(("us", "usec", "µs", "μs"), 1e-6),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
    **dict.fromkeys(("w", "week", "weeks"), 7 * 86400.0),
    **dict.fromkeys(("M", "month", "months"), 30.44 * 86400),
    **dict.fromkeys(("y", "year", "years"), 365.25 * 86400),
}
_PART = re.compile(r"\s*([0-9]{1,12}(?:\.[0-9]{1,9})?)(?![0-9.])\s*([a-zA-Zµμ]*)\s*")


def parse_span(text: str) -> timedelta:
    """Parse a time span such as "6h", "1h 30min" or "90", which is seconds.

    Raises ValueError with a message for people.
    """
    seconds, position = 0.0, 0
    while position < len(text):
        part = _PART.match(text, position)
        if part is None or part[2] not in _SECONDS:
            break
        seconds += float(part[1]) * _SECONDS[part[2]]
        position = part.end()
    if not text.strip() or position < len(text):
        raise ValueError(f"{quoted(text)} is no time span such as 6h, 30min or 90s")
    if seconds > LONGEST_SPAN.total_seconds():
        raise ValueError(f"{quoted(text)} is longer than {LONGEST_SPAN.days} days")
    return timedelta(seconds=seconds)


def quoted(text: str) -> str:
    """Show a value from a file in a message: one line, cut to a length that leaves it readable."""
    shown = text if len(text) <= 60 else text[:60] + "..."
    return '"' + shown.encode("unicode_escape").decode("ascii") + '"'
