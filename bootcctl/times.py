"""Spans and points of time as people type them: the common forms of systemd.time(7). No I/O."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from bootcctl.exitcodes import Failure

LONGEST_SPAN = timedelta(days=366)

_SECONDS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86400),
    **dict.fromkeys(("w", "week", "weeks"), 7 * 86400),
}
_PART = re.compile(r"\s*([0-9]{1,9}) *([a-z]+)\s*")
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MOMENT = re.compile(r"(?:([A-Za-z]+|[0-9]{4}-[0-9]{2}-[0-9]{2})(?:[ T]|$))?(?:([0-9]{1,2}):([0-9]{2}))?")
_SPANS = "write it like 3d, 90min or 1h 30min"
_MOMENTS = "write it like 18:30, tomorrow, Mon 02:00 or 2026-12-24 18:00"


def parse_span(text: str) -> timedelta:
    """Parse a span such as "3d" or "1h 30min". Raises Failure."""
    seconds, position = 0, 0
    while (part := _PART.match(text, position)) and part[2] in _SECONDS:
        seconds += int(part[1]) * _SECONDS[part[2]]
        position = part.end()
    if not text.strip() or position < len(text):
        raise Failure("InvalidArguments", f"{text[:60]!r} is no span of time", _SPANS)
    if not 0 < seconds <= LONGEST_SPAN.total_seconds():
        raise Failure("InvalidArguments", f"{text[:60]!r} is no span of up to {LONGEST_SPAN.days} days")
    return timedelta(seconds=seconds)


def parse_moment(text: str, now: datetime, zone: tzinfo | None = None) -> datetime:
    """Parse a time of the local clock, or of a zone: the next one that is meant. Raises Failure.

    Without a day it is the next such time, without a time the beginning of the day.
    """
    match = _MOMENT.fullmatch(text.strip())
    if match is None or not text.strip():
        raise Failure("InvalidArguments", f"{text[:60]!r} is no time", _MOMENTS)
    today = now.astimezone(zone).date()
    try:
        clock = time(int(match[2] or 0), int(match[3] or 0))
        when = _local(_day(match[1] or "today", today), clock, zone)
    except ValueError:
        raise Failure("InvalidArguments", f"{text[:60]!r} is no time", _MOMENTS) from None
    if when <= now and not match[1]:
        when = _local(today + timedelta(days=1), clock, zone)
    elif when <= now and match[1].lower() in _names():
        when = _local(today + timedelta(days=7), clock, zone)
    if when <= now:
        raise Failure("InvalidArguments", f"{text[:60]!r} is in the past")
    return when


def _day(name: str, today: date) -> date:
    match name.lower():
        case "today":
            return today
        case "tomorrow":
            return today + timedelta(days=1)
        case word if word in _names():
            return today + timedelta(days=(_names()[word] - today.weekday()) % 7)
        case _:
            return date.fromisoformat(name)


def _names() -> dict[str, int]:
    return {name: day for day, full in enumerate(_DAYS) for name in (full, full[:3])}


def _local(day: date, clock: time, zone: tzinfo | None) -> datetime:
    # Without a zone, astimezone takes it for one of the host's own.
    return datetime.combine(day, clock, zone).astimezone(UTC)


def microseconds(when: datetime) -> int:
    return (when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def shown(usec: int, zone: tzinfo | None = None) -> str:
    """Show a time for people, of the local clock or of a zone."""
    return f"{datetime.fromtimestamp(usec / 1e6, UTC).astimezone(zone):%a %Y-%m-%d %H:%M}"
