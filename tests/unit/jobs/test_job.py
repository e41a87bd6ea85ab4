from __future__ import annotations

import errno

import pytest

from bootcd.jobs.job import conclude, unrecorded
from bootcd.model.errors import BootcdError, InternalError, Interrupted, OutOfSpace, Stalled
from bootcd.model.job import JobState, Outcome

LEFT_DONE = Outcome(state=JobState.DONE, changed=True)
LEFT_CANCELLED = Outcome(state=JobState.CANCELLED, bytes_fetched=5)


@pytest.mark.parametrize(
    ("state", "left", "stalled_secs", "ends", "error"),
    [
        (JobState.RUNNING, LEFT_DONE, 0, JobState.DONE, None),
        (JobState.RUNNING, LEFT_CANCELLED, 0, JobState.CANCELLED, None),
        (JobState.RUNNING, None, 0, JobState.INTERRUPTED, Interrupted.name),
        (JobState.CANCELLING, LEFT_DONE, 0, JobState.DONE, None),
        (JobState.CANCELLING, LEFT_CANCELLED, 0, JobState.CANCELLED, None),
        (JobState.CANCELLING, None, 0, JobState.CANCELLED, None),
        (JobState.RUNNING, LEFT_DONE, 600, JobState.DONE, None),
        (JobState.RUNNING, LEFT_CANCELLED, 600, JobState.FAILED, Stalled.name),
        (JobState.RUNNING, None, 600, JobState.FAILED, Stalled.name),
    ],
)
def test_end_follows_from_state_and_what_was_left(
    state: JobState, left: Outcome | None, stalled_secs: float, ends: JobState, error: str | None
) -> None:
    outcome = conclude(state, left, stalled_secs=stalled_secs)
    assert outcome.state is ends
    assert (outcome.error.name if outcome.error else None) == error


def test_stall_keeps_what_the_worker_counted() -> None:
    assert conclude(JobState.RUNNING, LEFT_CANCELLED, stalled_secs=1).bytes_fetched == 5


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.ENOSPC, OutOfSpace), (errno.EDQUOT, OutOfSpace), (errno.EROFS, InternalError)],
)
def test_disk_that_refuses_the_journal_is_a_typed_error(number: int, expected: type[BootcdError]) -> None:
    assert type(unrecorded(OSError(number, "refused"))) is expected
