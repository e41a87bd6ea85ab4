from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.jobs.pace import Pace
from bootcd.model.job import Progress

MEGABYTE = 1_000_000


def fetched(done: int, total: int = 100 * MEGABYTE) -> Progress:
    return Progress(bytes_done=done, bytes_total=total)


def test_pace_without_a_second_report_knows_nothing() -> None:
    pace = Pace()
    assert pace.remaining_secs(fetched(0)) == 0.0
    pace.note(fetched(MEGABYTE), 1.0)
    assert pace.remaining_secs(fetched(MEGABYTE)) == 0.0


def test_steady_fetch_is_predicted_exactly() -> None:
    pace = Pace()
    for second in range(11):
        pace.note(fetched(second * 2 * MEGABYTE), float(second))
    assert pace.remaining_secs(fetched(20 * MEGABYTE)) == pytest.approx(40.0)


def test_lasting_change_of_rate_is_followed() -> None:
    pace = Pace()
    for second in range(11):
        pace.note(fetched(second * MEGABYTE), float(second))
    for second in range(11, 41):
        pace.note(fetched((10 + (second - 10) * 2) * MEGABYTE), float(second))
    assert pace.remaining_secs(fetched(70 * MEGABYTE)) == pytest.approx(15.0, rel=0.05)


def test_short_burst_hardly_moves_the_estimate() -> None:
    pace = Pace()
    for second in range(30):
        pace.note(fetched(second * MEGABYTE), float(second))
    pace.note(fetched(30 * MEGABYTE), 29.1)
    assert pace.remaining_secs(fetched(30 * MEGABYTE)) == pytest.approx(70.0, rel=0.2)


def test_nothing_left_is_no_time() -> None:
    pace = Pace()
    pace.note(fetched(0), 0.0)
    pace.note(fetched(100 * MEGABYTE), 1.0)
    assert pace.remaining_secs(fetched(100 * MEGABYTE)) == 0.0


def test_counter_that_goes_back_starts_anew() -> None:
    pace = Pace()
    pace.note(fetched(50), 0.0)
    pace.note(fetched(60), 1.0)
    pace.note(fetched(10), 2.0)
    assert pace.remaining_secs(fetched(10)) == 0.0


@given(st.lists(st.tuples(st.integers(0, 2**62), st.floats(0, 100)), max_size=30))
def test_estimate_is_never_negative(steps: list[tuple[int, float]]) -> None:
    pace, now = Pace(), 0.0
    for done, elapsed in steps:
        now += elapsed
        pace.note(fetched(done), now)
        assert pace.remaining_secs(fetched(done)) >= 0.0
