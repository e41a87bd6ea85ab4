"""RFC 3339 times as image metadata carries them: any offset, up to nanoseconds.

A datetime stops at microseconds and status documents show what the image says, so the text form is
made here and not through a datetime. https://www.rfc-editor.org/rfc/rfc3339#section-5.6
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

# date-time; like other readers this takes a space for the T, and lower-case letters.
_DATE_TIME = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ](?P<minute>[0-9]{2}:[0-9]{2}):(?P<second>[0-9]{2})"
    r"(?:\.(?P<fraction>[0-9]{1,32}))?"
    r"(?:[Zz]|(?P<sign>[+-])(?P<hours>[01][0-9]|2[0-3]):(?P<minutes>[0-5][0-9]))"
)


def normalise_timestamp(text: str | None) -> str | None:
    """Bring a time to UTC with `Z`, its fraction to 0, 3, 6 or 9 digits; None if it is no time."""
    split = _split(text)
    if split is None:
        return None
    minute, second, nanoseconds = split
    fraction = ""
    if nanoseconds:
        fraction = f".{nanoseconds:09}"
        while fraction.endswith("000"):
            fraction = fraction[:-3]
    return f"{minute.isoformat()[:16]}:{second:02}{fraction}Z"


def parse_timestamp(text: str | None) -> datetime | None:
    """Read a time, cut to microseconds; None if it is no time."""
    split = _split(text)
    if split is None:
        return None
    minute, second, nanoseconds = split
    try:
        return minute + timedelta(seconds=second, microseconds=nanoseconds // 1000)
    except OverflowError:
        return None


def _split(text: str | None) -> tuple[datetime, int, int] | None:
    """Take a time apart into minute in UTC, seconds up to the leap second 60, and nanoseconds."""
    match = _DATE_TIME.fullmatch(text) if text is not None else None
    if match is None or int(match["second"]) > 60:
        return None
    try:
        minute = datetime.fromisoformat(f"{match['date']}T{match['minute']}").replace(tzinfo=UTC)
        if match["sign"]:
            offset = timedelta(hours=int(match["hours"]), minutes=int(match["minutes"]))
            minute += -offset if match["sign"] == "+" else offset
    except (ValueError, OverflowError):
        return None
    return minute, int(match["second"]), int((match["fraction"] or "")[:9].ljust(9, "0"))
