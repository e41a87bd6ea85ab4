"""The daemon follows what the health check of boots has found."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from bootcd.host.documents import load_document
from bootcd.host.files import write_atomic
from bootcd.model.errors import InvalidArguments
from bootcd.model.health import RECORD_LIMIT, BootHealth, FailedBoot, FailureState, HealthRecord
from bootcd.model.job import JobKind, JobState
from tests.support.jobs import WorkerScript
from tests.support.service import ServiceBench, update_to

DIGEST = update_to("b").digest
FAILURE = FailedBoot(
    uuid=str(uuid4()),
    digest=DIGEST,
    version="7",
    time=datetime(2026, 1, 2, tzinfo=UTC),
    reasons=("disk: exit status 1", "boot: not at its end"),
    journal="secret",
    state=FailureState.ROLLED_BACK,
)
RECORD = HealthRecord().with_failure(FAILURE)


async def test_host_that_went_back_by_itself_says_so_in_the_history_once(
    tmp_path: Path, script: WorkerScript
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/health.json").write_text(RECORD.model_dump_json())
    for _ in range(2):  # two lives of the daemon
        async with ServiceBench(tmp_path, script) as bench:
            [entry] = await bench.service.history(10)
            assert bench.service.snapshot.failed == (DIGEST,)
    assert (entry.request.kind, entry.state, entry.requester.name) == (
        JobKind.ROLLBACK,
        JobState.DONE,
        "health",
    )
    assert entry.outcome
    assert entry.outcome.reason == "the first boot of 7 was bad: disk: exit status 1; boot: not at its end"
    assert entry.finished == FAILURE.time
    assert "secret" not in entry.model_dump_json()


async def test_change_of_the_record_is_seen_at_once(tmp_path: Path, script: WorkerScript) -> None:
    async with ServiceBench(tmp_path, script) as bench:
        assert bench.service.snapshot.failed == ()
        path = bench.state / "health.json"
        bad = RECORD.with_failure(FAILURE.model_copy(update={"state": FailureState.BAD}))
        await asyncio.to_thread(write_atomic, path, bad.model_dump_json().encode())
        await bench.shown(failed=(DIGEST,))
        # Nothing was rolled back.
        assert await bench.service.history(10) == []

        cleared = RECORD.without_failures()
        await asyncio.to_thread(write_atomic, path, cleared.model_dump_json().encode())
        await bench.shown(failed=())


def test_record_that_cannot_be_understood_is_taken_for_absent(tmp_path: Path) -> None:
    (tmp_path / "health.json").write_text("{")
    assert load_document(tmp_path / "health.json", RECORD_LIMIT, HealthRecord) is None
    assert load_document(tmp_path / "absent.json", RECORD_LIMIT, HealthRecord) is None


async def test_failures_are_shown_without_their_journal_and_cleared_by_the_service(
    tmp_path: Path, script: WorkerScript
) -> None:
    (tmp_path / "state").mkdir()
    last = BootHealth(boot_id="this", digest="x", time=FAILURE.time, good=False, problems=("disk",))
    record = RECORD.model_copy(update={"last": last})
    (tmp_path / "state/health.json").write_text(record.model_dump_json())
    async with ServiceBench(tmp_path, script) as bench:
        shown = bench.service.snapshot
        assert shown.boot_health == last
        [failure] = shown.failures
        assert failure == FAILURE.model_copy(update={"journal": ""})
        with pytest.raises(InvalidArguments):
            await bench.service.clear_failures("sha256:other")
        assert await bench.service.clear_failures(DIGEST) == (DIGEST,)
        assert bench.service.snapshot.failures == ()
        assert await bench.service.clear_failures("") == ()
    async with ServiceBench(tmp_path, script, boot_id="another") as bench:
        assert bench.service.snapshot.boot_health is None
