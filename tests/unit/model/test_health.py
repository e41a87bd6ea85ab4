"""The record of good and bad boots is bounded, and shows everybody no more than they may see."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

from bootcd.model.health import KEPT, FailedBoot, FailureState, HealthRecord

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def failed(digest: str, state: FailureState = FailureState.BAD) -> FailedBoot:
    return FailedBoot(uuid=str(uuid4()), digest=digest, time=NOW, journal="secret", state=state)


def test_good_boot_outweighs_a_bad_one_before() -> None:
    record = HealthRecord().with_failure(failed("a")).with_failure(failed("b")).with_good("a")

    assert record.good == ("a",)
    assert [failure.digest for failure in record.failures] == ["b"]


def test_digests_are_remembered_once_and_up_to_a_bound() -> None:
    record = HealthRecord()
    for number in [*range(2 * KEPT), 2 * KEPT - 2]:
        record = record.with_good(str(number)).with_failure(failed(f"bad-{number}"))

    assert len(record.good) == len(record.failures) == KEPT
    assert record.good[-2:] == (str(2 * KEPT - 1), str(2 * KEPT - 2))


def test_cleared_digest_is_remembered_as_such_until_it_fails_again() -> None:
    record = HealthRecord().with_failure(failed("a")).with_failure(failed("b")).without_failures("a")
    assert (record.cleared, [failure.digest for failure in record.failures]) == (("a",), ["b"])
    assert record.without_failures().failures == ()

    assert record.with_failure(failed("a")).cleared == ()


def test_rollback_cut_off_by_a_power_cut_counts_as_done_once_another_version_has_booted() -> None:
    record = HealthRecord().with_failure(failed("a", FailureState.ROLLING_BACK)).with_failure(failed("b"))

    assert record.settled("a") == record
    states = {failure.digest: failure.state for failure in record.settled("c").failures}
    assert states == {"a": FailureState.ROLLED_BACK, "b": FailureState.BAD}


def test_public_form_is_without_the_journal() -> None:
    text = HealthRecord().with_failure(failed("a")).to_public()

    assert b"secret" not in text
    assert HealthRecord.model_validate_json(text).failures[0].digest == "a"


def test_record_of_a_later_version_is_read() -> None:
    assert HealthRecord.model_validate_json('{"good": ["a"], "wings": 2}').good == ("a",)
