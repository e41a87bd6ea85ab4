"""Moments as the interfaces carry them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from bootcd.model.errors import InvalidArguments

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(when: datetime) -> int:
    """Return microseconds since the epoch; a time of no zone is one of UTC."""
    return ((when if when.tzinfo else when.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)


def from_microseconds(number: int) -> datetime | None:
    """Return the time of a number of them; None for 0. Raises InvalidArguments past the year 9999."""
    try:
        return _EPOCH + timedelta(microseconds=number) if number else None
    except OverflowError:
        raise InvalidArguments("a time is further away than can be told") from None
