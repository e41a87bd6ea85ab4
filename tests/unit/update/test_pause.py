from datetime import UTC, datetime, timedelta

import pytest

from bootcd.model.errors import InvalidArguments
from bootcd.update.pause import begin_pause

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize("until", [None, NOW + DAY, NOW + 366 * DAY], ids=["open", "a day", "a year"])
def test_pause_lasts_until_its_end(until: datetime | None) -> None:
    pause = begin_pause(NOW, until, 1000)
    assert (pause.since, pause.until, pause.uid) == (NOW, until, 1000)
    assert not pause.is_over(NOW + DAY - timedelta(seconds=1))
    assert pause.is_over(NOW + 366 * DAY) is (until is not None)


@pytest.mark.parametrize("until", [NOW, NOW - DAY, NOW + 367 * DAY], ids=["now", "past", "too long"])
def test_pause_with_an_end_in_the_past_or_too_far_is_refused(until: datetime) -> None:
    with pytest.raises(InvalidArguments):
        begin_pause(NOW, until, 0)


def test_pause_moved_lasts_as_long_from_then_on() -> None:
    back = NOW - 9999 * DAY
    assert begin_pause(NOW, NOW + DAY, 0).moved(back).until == back + DAY
    assert begin_pause(NOW, None, 0).moved(back).until is None
