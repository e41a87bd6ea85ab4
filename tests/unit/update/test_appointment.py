from datetime import UTC, datetime, timedelta

import pytest

from bootcd.model.errors import InvalidArguments
from bootcd.model.job import JobOptions, Requester, SoftReboot
from bootcd.update.appointment import make_appointment

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_appointment_has_what_was_asked_for_and_is_missed_an_hour_after_its_time() -> None:
    options = JobOptions(soft_reboot=SoftReboot.AUTO, ignore_inhibitors=True)
    made = make_appointment(NOW, NOW + HOUR, Requester(uid=5), options, "b")
    assert (made.options, made.boot_id, made.requester.uid) == (options, "b", 5)
    assert not made.is_missed(NOW + 2 * HOUR)
    assert made.is_missed(NOW + 2 * HOUR + timedelta(seconds=1))


@pytest.mark.parametrize("when", [NOW, NOW - HOUR, NOW + timedelta(days=32)], ids=["now", "past", "too far"])
def test_appointment_in_the_past_or_too_far_ahead_is_refused(when: datetime) -> None:
    with pytest.raises(InvalidArguments):
        make_appointment(NOW, when, Requester(), JobOptions(), "")
