from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.policy.window import Opening, Window, next_opening, parse_window

HOUR = timedelta(hours=1)
BERLIN = ZoneInfo("Europe/Berlin")
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"])
WINDOWS = st.builds(
    Window,
    st.frozensets(st.integers(0, 6), min_size=1),
    st.times().map(lambda moment: moment.replace(second=0, microsecond=0)),
    st.integers(1, 7 * 24 * 60).map(lambda minutes: timedelta(minutes=minutes)),
)
MOMENTS = st.floats(1451606400, 2114380799).map(lambda secs: datetime.fromtimestamp(secs, UTC))


@pytest.mark.parametrize(
    ("text", "days", "start"),
    [
        pytest.param("Mon..Fri 22:00", {0, 1, 2, 3, 4}, time(22), id="range"),
        pytest.param("sat,Sunday 2:30", {5, 6}, time(2, 30), id="list"),
        pytest.param("Mon,Wed..Fri 00:00", {0, 2, 3, 4}, time(0), id="both"),
        pytest.param("03:30", set(range(7)), time(3, 30), id="daily"),
    ],
)
def test_parse_window_of_a_start_gives_days_and_time(text: str, days: set[int], start: time) -> None:
    assert parse_window(text, HOUR) == Window(frozenset(days), start, HOUR)


@pytest.mark.parametrize(
    "text", ["", "Mon", "Mon 24:00", "Mon 22:60", "Fri..Mon 1:00", "Mon..Tue..Wed 1:00", "Foo 1:00"]
)
def test_parse_window_of_what_is_no_start_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        parse_window(text, HOUR)


@pytest.mark.parametrize("hours", [0, -1, 169])
def test_parse_window_of_an_impossible_length_is_refused(hours: int) -> None:
    with pytest.raises(ValueError, match="longer"):
        parse_window("Mon 22:00", hours * HOUR)


def test_next_opening_across_midnight_and_week_end_is_one() -> None:
    window = parse_window("Sun 23:00", 3 * HOUR)
    now = datetime(2026, 1, 12, 0, 30, tzinfo=UTC)  # a Monday
    assert next_opening([window], UTC, now) == Opening(
        datetime(2026, 1, 11, 23, tzinfo=UTC), datetime(2026, 1, 12, 2, tzinfo=UTC)
    )


def test_next_opening_of_windows_that_touch_is_one() -> None:
    windows = [parse_window("Mon 01:00", HOUR), parse_window("Mon 02:00", HOUR)]
    opening = next_opening(windows, UTC, datetime(2026, 1, 12, tzinfo=UTC))
    assert opening
    assert opening.closes - opening.opens == 2 * HOUR


def test_next_opening_at_a_start_the_clock_jumps_over_comes_later() -> None:
    opening = next_opening([parse_window("02:30", HOUR)], BERLIN, datetime(2026, 3, 29, 0, tzinfo=UTC))
    assert opening
    assert opening.opens == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


def test_next_opening_at_a_start_the_clock_shows_twice_counts_once() -> None:
    window = parse_window("02:30", timedelta(minutes=10))
    first = next_opening([window], BERLIN, datetime(2026, 10, 25, 0, tzinfo=UTC))
    assert first
    assert first.opens == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    second = next_opening([window], BERLIN, first.closes)
    assert second
    assert second.opens == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


def test_next_opening_of_no_window_is_none() -> None:
    assert next_opening([], UTC, datetime(2026, 1, 12, tzinfo=UTC)) is None


@given(window=WINDOWS, zone=ZONES, now=MOMENTS)
def test_next_opening_of_one_window_is_not_over_and_soon(window: Window, zone: str, now: datetime) -> None:
    opening = next_opening([window], ZoneInfo(zone), now)
    assert opening
    assert now < opening.closes
    assert opening.opens <= now + timedelta(days=8)
    assert opening.closes - opening.opens >= window.length


@given(window=WINDOWS, zone=ZONES, now=MOMENTS)
def test_next_opening_is_open_at_its_start_and_not_at_its_end(
    window: Window, zone: str, now: datetime
) -> None:
    opening = next_opening([window], ZoneInfo(zone), now)
    assert opening
    assert opening.contains(opening.opens)
    assert not opening.contains(opening.closes)
