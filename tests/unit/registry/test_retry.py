from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.model.errors import NotFound, RegistryRateLimited, RegistryUnavailable
from bootcd.registry.retry import MAX_RETRY_AFTER_SECS, Attempts, backoff, parse_retry_after

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        pytest.param("0", 0, id="zero"),
        pytest.param(" 120 ", 120, id="seconds"),
        pytest.param("999999999", 604800, id="seconds-beyond-a-week"),
        pytest.param("99999999999999999999", None, id="seconds-beyond-reason"),
        pytest.param("Wed, 04 Mar 2026 05:07:07 GMT", 60, id="date"),
        pytest.param("Wed, 04 Mar 2026 07:07:07 +0200", 60, id="date-in-a-zone"),
        pytest.param("Wed, 04 Mar 2026 05:00:00 GMT", 0, id="date-in-the-past"),
        pytest.param("Wednesday, 04-Mar-26 05:07:07 GMT", 60, id="rfc850-date"),
        pytest.param("-5", None, id="negative"),
        pytest.param("١٢", None, id="other-digits"),
        pytest.param("soon", None, id="word"),
        pytest.param("Wed, 99 Mar 2026 05:07:07 GMT", None, id="impossible-date"),
        pytest.param("", None, id="empty"),
    ],
)
def test_retry_after_value_gives_seconds(value: str, seconds: int | None) -> None:
    assert parse_retry_after(value, NOW) == seconds


def test_retry_after_fraction_is_never_waited_too_short() -> None:
    assert parse_retry_after("Wed, 04 Mar 2026 05:06:09 GMT", NOW + timedelta(milliseconds=400)) == 2


@given(st.text())
def test_retry_after_any_text_gives_bounded_seconds_or_none(value: str) -> None:
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or 0 <= seconds <= 604800


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_backoff_any_attempt_stays_in_its_bound(attempt: int, chance: float) -> None:
    assert 0 <= backoff(attempt, chance) <= 30


def test_backoff_bound_doubles() -> None:
    assert [backoff(n, 0.5) for n in range(4)] == [0.25, 0.5, 1.0, 2.0]


class Waits(list[float]):
    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


async def test_attempts_used_up_raises_the_last_error() -> None:
    waits = Waits()
    attempts = Attempts(2, lambda: 0.5, waits)
    for _ in range(2):
        await attempts.failed(RegistryUnavailable("down"))
    last = RegistryUnavailable("still down")
    with pytest.raises(RegistryUnavailable) as caught:
        await attempts.failed(last)
    assert caught.value is last
    assert waits == [0.25, 0.5]


async def test_attempts_error_that_stays_is_raised_at_once() -> None:
    waits = Waits()
    with pytest.raises(NotFound):
        await Attempts(5, lambda: 0.5, waits).failed(NotFound("gone"))
    assert waits == []


@pytest.mark.parametrize(
    ("stated", "waited"),
    [(7, 7.0), (0, 0.25), (MAX_RETRY_AFTER_SECS, float(MAX_RETRY_AFTER_SECS))],
    ids=["longer", "now", "longest"],
)
async def test_attempts_stated_wait_is_honoured_up_to_the_bound(stated: int, waited: float) -> None:
    waits = Waits()
    await Attempts(5, lambda: 0.5, waits).failed(RegistryRateLimited("slow down", retry_after_secs=stated))
    assert waits == [waited]


async def test_attempts_stated_wait_beyond_the_bound_is_raised_at_once() -> None:
    waits = Waits()
    error = RegistryRateLimited("slow down", retry_after_secs=MAX_RETRY_AFTER_SECS + 1)
    with pytest.raises(RegistryRateLimited):
        await Attempts(5, lambda: 0.5, waits).failed(error)
    assert waits == []


async def test_attempts_after_progress_start_over() -> None:
    waits = Waits()
    attempts = Attempts(1, lambda: 0.5, waits)
    for _ in range(10):
        await attempts.failed(RegistryUnavailable("cut"))
        attempts.progressed()
    assert waits == [0.25] * 10
