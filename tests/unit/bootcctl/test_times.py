from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from bootcctl.exitcodes import Failure
from bootcctl.times import parse_moment, parse_span, shown

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)  # a Thursday, 13:00 in Berlin


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("3d", timedelta(days=3)),
        ("1h 30min", timedelta(minutes=90)),
        ("90 minutes", timedelta(minutes=90)),
        ("1w", timedelta(weeks=1)),
        ("366d", timedelta(days=366)),
    ],
)
def test_span_is_the_sum_of_its_parts(text: str, span: timedelta) -> None:
    assert parse_span(text) == span


@pytest.mark.parametrize(
    "text", ["", " ", "3", "d", "0s", "-1d", "367d", "3d x", "1e9d", "1y", "9" * 99 + "s"]
)
def test_span_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Failure, match="span"):
        parse_span(text)


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("18:30", "2026-01-15 18:30"),
        ("9:00", "2026-01-16 09:00"),
        ("13:00", "2026-01-16 13:00"),
        ("tomorrow", "2026-01-16 00:00"),
        ("Tomorrow 08:00", "2026-01-16 08:00"),
        ("today 23:59", "2026-01-15 23:59"),
        ("thu 12:00", "2026-01-22 12:00"),
        ("Thursday 14:00", "2026-01-15 14:00"),
        ("Mon", "2026-01-19 00:00"),
        ("2026-12-24 18:00", "2026-12-24 18:00"),
        ("2026-12-24T18:00", "2026-12-24 18:00"),
        ("2026-07-01", "2026-07-01 00:00"),
    ],
)
def test_moment_is_the_next_one_of_the_local_clock(text: str, local: str) -> None:
    expected = datetime.fromisoformat(local).replace(tzinfo=BERLIN)
    assert parse_moment(text, NOW, BERLIN) == expected


@pytest.mark.parametrize(
    "text", ["", "noon", "25:00", "12:60", "2026-02-30", "today", "2026-01-15 12:59", "1999-01-01", "12"]
)
def test_moment_that_is_none_or_past_is_refused(text: str) -> None:
    with pytest.raises(Failure, match=r"time|past"):
        parse_moment(text, NOW, BERLIN)


def test_moment_the_clock_jumps_over_comes_as_much_later() -> None:
    spring = datetime(2026, 3, 28, 12, tzinfo=UTC)
    assert parse_moment("2026-03-29 02:30", spring, BERLIN) == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


def test_moment_is_shown_in_a_zone() -> None:
    assert shown(int(NOW.timestamp()) * 10**6, BERLIN) == "Thu 2026-01-15 13:00"
