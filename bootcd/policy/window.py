"""Weekly maintenance windows: when one is open, and when the next one opens. No I/O.

A window starts at a time of the local clock on some days of the week, written as systemd.time(7) writes
them, and stays open for a length of real time, so that a change of the clock makes none shorter or longer.
A start the clock jumps over comes as much later as the clock jumps; one it shows twice counts once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from bootcd.policy.span import quoted

LONGEST_WINDOW = timedelta(days=7)
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FULL_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_START = re.compile(r"(?:([a-z]+(?:(?:\.\.|,)[a-z]+)*) +)?([0-9]{1,2}):([0-9]{2})", re.ASCII | re.IGNORECASE)
_AHEAD = 15
"Days; a weekly start that was just missed comes within eight."


@dataclass(frozen=True, slots=True)
class Window:
    days: frozenset[int]
    "Of the week, Monday is 0."
    start: time
    length: timedelta


@dataclass(frozen=True, slots=True)
class Opening:
    """A span of time in which a window is open, or several that follow without a gap."""

    opens: datetime
    closes: datetime

    def contains(self, moment: datetime) -> bool:
        return self.opens <= moment < self.closes


def parse_window(start: str, length: timedelta) -> Window:
    """Return the window with a start such as "Mon..Fri 22:00", "Sat,Sun 02:00" or "03:30", which is daily.

    Raises ValueError with a message for people.
    """
    match = _START.fullmatch(start.strip())
    if match is None or int(match[2]) > 23 or int(match[3]) > 59:
        raise ValueError(f"{quoted(start)} is no start of a window such as Mon..Fri 22:00")
    if not timedelta(0) < length <= LONGEST_WINDOW:
        raise ValueError(f"a window is longer than nothing and no longer than {LONGEST_WINDOW.days} days")
    days = _parse_days(match[1]) if match[1] else frozenset(range(7))
    return Window(days, time(int(match[2]), int(match[3])), length)


def next_opening(windows: Sequence[Window], zone: tzinfo, now: datetime) -> Opening | None:
    """Return the opening that is under way at `now`, else the next one; None where there is no window.

    Times are in UTC. Of windows that leave no gap, what lies more than about two weeks ahead is not seen.
    """
    today = now.astimezone(zone).date()
    merged: list[Opening] = []
    for opening in sorted(_openings(windows, zone, today), key=lambda opening: opening.opens):
        if merged and opening.opens <= merged[-1].closes:
            last = merged.pop()
            opening = Opening(last.opens, max(last.closes, opening.closes))
        merged.append(opening)
    return next((opening for opening in merged if opening.closes > now), None)


def _openings(windows: Sequence[Window], zone: tzinfo, today: date) -> list[Opening]:
    found = []
    for offset in range(-LONGEST_WINDOW.days - 1, _AHEAD):
        day = today + timedelta(days=offset)
        for window in windows:
            if day.weekday() in window.days:
                opens = datetime.combine(day, window.start, zone).astimezone(UTC)
                found.append(Opening(opens, opens + window.length))
    return found


def _parse_days(text: str) -> frozenset[int]:
    days: set[int] = set()
    for part in text.split(","):
        first, *rest = (_day(name) for name in part.split(".."))
        last = rest[0] if rest else first
        if len(rest) > 1 or last < first:
            raise ValueError(f"{quoted(part)} is no range of days such as Mon..Fri")
        days.update(range(first, last + 1))
    return frozenset(days)


def _day(name: str) -> int:
    for names in (_DAYS, _FULL_DAYS):
        if name.lower() in names:
            return names.index(name.lower())
    raise ValueError(f"{quoted(name)} is no day of the week such as Mon")
