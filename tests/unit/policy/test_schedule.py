from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.policy.schedule import (
    FIRST_CHECK_WITHIN,
    FIRST_RETRY,
    LONGEST_RETRY,
    due_after,
    next_check,
    retry_delay,
    steady_chance,
)

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
LONG_AGO = NOW - timedelta(days=400)

times = st.datetimes(
    min_value=datetime(1970, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    max_value=datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
intervals = st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=366))
jitters = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=366))
chances = st.floats(min_value=0, max_value=1, exclude_max=True)


def check_at(
    last: datetime | None = None,
    *,
    started: datetime = LONG_AGO,
    interval: timedelta = 6 * HOUR,
    jitter: timedelta = timedelta(0),
    chance: float = 0.0,
    failures: int = 0,
) -> datetime:
    return next_check(
        last,
        started=started,
        interval=interval,
        jitter=jitter,
        chance=chance,
        failures=failures,
        now=NOW,
    )


@pytest.mark.parametrize(
    ("interval", "failures", "delay"),
    [
        pytest.param(6 * HOUR, 1, timedelta(minutes=5), id="first retry comes soon"),
        pytest.param(6 * HOUR, 2, timedelta(minutes=10), id="then it doubles"),
        pytest.param(6 * HOUR, 8, timedelta(minutes=640), id="past the interval"),
        pytest.param(6 * HOUR, 10, timedelta(days=1), id="up to a day"),
        pytest.param(6 * HOUR, 10**9, timedelta(days=1), id="for ever"),
        pytest.param(48 * HOUR, 99, 48 * HOUR, id="a longer interval is the cap"),
        pytest.param(timedelta(seconds=2), 1, timedelta(seconds=2), id="a short interval is the start"),
        pytest.param(timedelta(seconds=2), 4, timedelta(seconds=16), id="and doubles too"),
    ],
)
def test_retry_delay_grows_from_short_to_capped(interval: timedelta, failures: int, delay: timedelta) -> None:
    assert retry_delay(interval, failures) == delay


@given(interval=intervals, failures=st.integers(min_value=1, max_value=10**6))
def test_retry_delay_never_shrinks_and_stays_in_bounds(interval: timedelta, failures: int) -> None:
    delay = retry_delay(interval, failures)
    assert min(interval, FIRST_RETRY) <= delay <= max(interval, LONGEST_RETRY)
    assert delay <= retry_delay(interval, failures + 1) <= 2 * delay


def test_due_after_a_time_in_the_future_is_now() -> None:
    assert due_after(NOW + timedelta(seconds=1), 6 * HOUR, NOW) == NOW
    assert due_after(NOW, 6 * HOUR, NOW) == NOW + 6 * HOUR


@pytest.mark.parametrize(
    ("interval", "chance", "wait"),
    [
        pytest.param(6 * HOUR, 0.0, timedelta(minutes=6), id="least, of an hour"),
        pytest.param(6 * HOUR, 0.5, timedelta(minutes=30), id="middle, of an hour"),
        pytest.param(timedelta(seconds=100), 0.0, timedelta(seconds=10), id="least, of a short interval"),
        pytest.param(timedelta(seconds=100), 0.5, timedelta(seconds=50), id="middle, of a short interval"),
    ],
)
def test_next_check_after_a_start_waits_a_share_of_the_interval(
    interval: timedelta, chance: float, wait: timedelta
) -> None:
    assert check_at(started=NOW, interval=interval, chance=chance) == NOW + wait


def test_next_check_after_a_start_long_after_the_last_check_waits_too() -> None:
    assert check_at(LONG_AGO, started=NOW) == NOW + timedelta(minutes=6)


def test_next_check_soon_after_the_last_one_is_not_brought_forward_by_a_start() -> None:
    assert check_at(NOW - HOUR, started=NOW) == NOW + 5 * HOUR


@pytest.mark.parametrize(
    ("chance", "failures", "wait"),
    [
        pytest.param(0.0, 0, 6 * HOUR, id="interval alone"),
        pytest.param(0.5, 0, 6.5 * HOUR, id="half the jitter"),
        pytest.param(0.0, 1, timedelta(minutes=5), id="retry"),
        pytest.param(0.5, 1, timedelta(minutes=7.5), id="jitter of a retry is bounded by the retry"),
    ],
)
def test_next_check_after_the_last_adds_its_share_of_jitter(
    chance: float, failures: int, wait: timedelta
) -> None:
    assert check_at(NOW, jitter=HOUR, chance=chance, failures=failures) == NOW + wait


def test_next_check_with_the_last_one_in_the_future_is_now() -> None:
    assert check_at(NOW + timedelta(days=3650)) == NOW
    assert check_at(NOW + timedelta(days=3650), failures=9) == NOW


@given(
    last=st.none() | times,
    started=times,
    interval=intervals,
    jitter=jitters,
    chance=chances,
    failures=st.integers(min_value=0, max_value=1000),
    now=times,
)
def test_next_check_never_waits_longer_than_one_delay_and_its_jitter(
    last: datetime | None,
    started: datetime,
    interval: timedelta,
    jitter: timedelta,
    chance: float,
    failures: int,
    now: datetime,
) -> None:
    at = next_check(
        last,
        started=started,
        interval=interval,
        jitter=jitter,
        chance=chance,
        failures=failures,
        now=now,
    )
    delay = retry_delay(interval, failures) if failures else interval
    assert at - now <= max(delay + min(jitter, delay), min(interval, FIRST_CHECK_WITHIN))
    if last is not None and last <= now:
        assert at - last >= delay
    if started <= now:
        assert at - started >= 0.09 * min(interval, FIRST_CHECK_WITHIN)


def test_steady_chance_is_a_machines_own_and_spreads_a_fleet() -> None:
    assert steady_chance(b"one") == steady_chance(b"one") != steady_chance(b"two")
    fleet = sorted(steady_chance(number.to_bytes(16, "big")) for number in range(1000))
    assert 0 <= fleet[0] <= fleet[-1] < 1
    tenths = [sum(tenth / 10 <= chance < (tenth + 1) / 10 for chance in fleet) for tenth in range(10)]
    assert min(tenths) > 60
