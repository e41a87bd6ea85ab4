"""What happened, as the figures tell it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from bootcd.agent.snapshot import JobAdded, JobChanged, JobForgotten, NextAction, Snapshot, SnapshotChanged
from bootcd.metrics.exposition import render
from bootcd.metrics.figures import METRICS, samples
from bootcd.metrics.tally import Tally
from bootcd.model.errors import OutOfSpace
from bootcd.model.health import BootHealth
from bootcd.model.job import (
    ImageUpdate,
    JobKind,
    JobRecord,
    JobRequest,
    JobState,
    Outcome,
    Progress,
    Requester,
)
from bootcd.update.gates import Gate
from tests.support.scripted_agent import BOOTED, STAGED, START, deployment, host

LATER = START + timedelta(hours=1)
UUIDS = iter(f"00000000-0000-0000-0000-{number:012x}" for number in range(1, 1000))


def snapshot(**fields: Any) -> Snapshot:
    first = Snapshot(
        version="9.9",
        backend="ostree",
        state="idle",
        state_since=START,
        host=host(booted=deployment(BOOTED)),
    )
    return replace(first, **fields)


def job(kind: JobKind = JobKind.CHECK) -> JobRecord:
    request = JobRequest(uuid=next(UUIDS), kind=kind)
    return JobRecord(number=1, request=request, requester=Requester(), created=START)


def ended(record: JobRecord, secs: float = 2.5, **outcome: Any) -> JobRecord:
    state = outcome.setdefault("state", JobState.DONE)
    return record.model_copy(
        update={
            "state": state,
            "finished": record.created + timedelta(seconds=secs),
            "outcome": Outcome(**outcome),
        }
    )


def read(shown: Snapshot, tally: Tally) -> dict[str, float]:
    """Return what a collector reads, by name and labels."""
    families = text_string_to_metric_families(render(samples(shown, tally)).decode())
    return {
        sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_service_at_rest_tells_what_it_is_and_no_more() -> None:
    figures = read(snapshot(), Tally(START, snapshot()))
    assert figures["bootcd_build_info 9.9 ostree"] == 1
    assert figures["bootcd_state idle"] == 1
    assert figures["bootcd_state staged"] == 0
    assert figures["bootcd_state_since_timestamp_seconds"] == START.timestamp()
    assert figures["bootcd_mode off"] == 1
    assert figures[f"bootcd_deployment_info booted registry.test/os:1 sha256:{BOOTED} 1.0"] == 1
    assert figures["bootcd_jobs_started_total check"] == 0
    assert figures["bootcd_fetched_bytes_total"] == 0
    assert figures["bootcd_failed_versions"] == 0
    absent = (
        "bootcd_boot_healthy",
        "bootcd_staged_since",
        "bootcd_last_check",
        "bootcd_next_action",
        "bootcd_job_failures",
    )
    assert not [name for name in figures if name.startswith(absent)]


def test_snapshot_is_told_as_far_as_it_is_known() -> None:
    shown = snapshot(
        last_check=LATER,
        last_check_result="RegistryUnavailable",
        available=ImageUpdate(image="i", digest="d", download_bytes=42),
        next_action=NextAction("check", "regular check", LATER),
        reboot_required=True,
    )
    figures = read(shown, Tally(START, shown))
    assert figures["bootcd_last_check_timestamp_seconds"] == LATER.timestamp()
    assert figures["bootcd_last_check_result RegistryUnavailable"] == 1
    assert (figures["bootcd_update_available"], figures["bootcd_update_download_bytes"]) == (1, 42)
    assert figures["bootcd_next_action_timestamp_seconds check"] == LATER.timestamp()
    assert figures["bootcd_reboot_required"] == 1


def test_gates_are_told_while_they_are_shut_and_counted_when_they_open() -> None:
    window, paused = Gate("window", "outside all windows"), Gate("attempts", "not started twice")
    tally = Tally(START, snapshot(gates=(window, paused)))
    figures = read(snapshot(), tally)
    assert figures["bootcd_gate_since_timestamp_seconds window"] == START.timestamp()
    assert "bootcd_gate_seconds_total window" not in figures
    tally.observe(SnapshotChanged(snapshot(gates=(window,))), LATER)
    tally.observe(SnapshotChanged(snapshot()), LATER + timedelta(hours=1))
    tally.observe(SnapshotChanged(snapshot(gates=(window,))), LATER + timedelta(hours=2))
    tally.observe(SnapshotChanged(snapshot()), LATER + timedelta(hours=5))
    figures = read(snapshot(), tally)
    assert figures["bootcd_gate_seconds_total window"] == 5 * 3600
    assert figures["bootcd_gate_seconds_total attempts"] == 3600
    assert "bootcd_gate_since_timestamp_seconds window" not in figures


def test_jobs_are_counted_once_however_often_their_end_is_told() -> None:
    tally, record = Tally(START, snapshot()), job(JobKind.UPGRADE)
    tally.observe(JobAdded(record), START)
    assert read(snapshot(), tally)["bootcd_job_running upgrade"] == 1
    record = record.model_copy(update={"progress": Progress(bytes_cached=7)})
    tally.observe(JobChanged(record), START)
    done = ended(record, bytes_fetched=1000)
    tally.observe(JobChanged(done), START)
    tally.observe(JobChanged(done), START)
    tally.observe(JobForgotten(done), START)
    figures = read(snapshot(), tally)
    assert figures["bootcd_job_running upgrade"] == 0
    assert figures["bootcd_jobs_started_total upgrade"] == 1
    assert figures["bootcd_jobs_ended_total upgrade done"] == 1
    assert figures["bootcd_job_duration_seconds_sum upgrade"] == 2.5
    assert figures["bootcd_job_duration_seconds_count upgrade"] == 1
    assert figures["bootcd_job_last_duration_seconds upgrade"] == 2.5
    assert (figures["bootcd_fetched_bytes_total"], figures["bootcd_cached_bytes_total"]) == (1000, 7)


def test_failures_are_counted_by_their_error() -> None:
    tally = Tally(START, snapshot())
    for _ in range(2):
        error = OutOfSpace("no room").info()
        tally.observe(JobChanged(ended(job(), state=JobState.FAILED, error=error)), START)
    tally.observe(JobChanged(ended(job(), state=JobState.CANCELLED)), START)
    figures = read(snapshot(), tally)
    assert figures["bootcd_job_failures_total check OutOfSpace"] == 2
    assert figures["bootcd_jobs_ended_total check failed"] == 2
    assert figures["bootcd_jobs_ended_total check cancelled"] == 1
    assert not [name for name in figures if "last_success" in name]


def test_job_across_a_clock_that_was_set_back_has_taken_no_time() -> None:
    tally = Tally(START, snapshot())
    tally.observe(JobChanged(ended(job(), secs=-3600)), START)
    assert read(snapshot(), tally)["bootcd_job_duration_seconds_sum check"] == 0


def staged(checksum: str = STAGED) -> Snapshot:
    return snapshot(host=host(booted=deployment(BOOTED), staged=deployment(checksum)))


def test_staged_since_is_when_it_was_first_seen() -> None:
    tally = Tally(START, snapshot())
    tally.observe(SnapshotChanged(staged()), LATER)
    tally.observe(SnapshotChanged(staged()), LATER + timedelta(hours=1))
    assert read(staged(), tally)["bootcd_staged_since_timestamp_seconds"] == LATER.timestamp()
    tally.observe(SnapshotChanged(snapshot()), LATER)
    assert tally.staged_since is None


def test_history_tells_when_it_was_staged_and_what_succeeded_last() -> None:
    def upgrade(digest: str, at: datetime) -> JobRecord:
        record = job(JobKind.UPGRADE).model_copy(update={"created": at})
        return ended(record, changed=True, update=ImageUpdate(image="i", digest=f"sha256:{digest}"))

    before = START - timedelta(days=2)
    records = [
        ended(job(), state=JobState.FAILED, error=OutOfSpace("x").info()),
        ended(job().model_copy(update={"created": before})),
        upgrade(STAGED, before),
        upgrade(STAGED, before - timedelta(days=1)),
        upgrade(BOOTED, before - timedelta(days=2)),
    ]
    tally = Tally(START, staged())
    tally.recall(records, staged())
    figures = read(staged(), tally)
    when = (before + timedelta(seconds=2.5)).timestamp()
    assert figures["bootcd_staged_since_timestamp_seconds"] == when
    assert figures["bootcd_job_last_success_timestamp_seconds check"] == when
    assert figures["bootcd_job_last_success_timestamp_seconds upgrade"] == when
    assert figures["bootcd_jobs_started_total check"] == 0


def test_history_says_nothing_of_what_another_program_staged() -> None:
    tally = Tally(START, staged())
    tally.recall([ended(job(JobKind.UPGRADE), changed=True)], staged())
    assert tally.staged_since == START


def test_samples_come_in_the_order_of_the_list_and_each_is_listed() -> None:
    shown = staged()
    tally = Tally(START, shown)
    error = OutOfSpace("x").info()
    for gates in ((Gate("window", ""), Gate("health", "")), (Gate("window", ""),)):
        tally.observe(SnapshotChanged(replace(shown, gates=gates)), START)
    for record in (ended(job()), ended(job(), state=JobState.FAILED, error=error)):
        tally.observe(JobChanged(record), START)
    shown = replace(
        shown,
        last_check=START,
        last_check_result="available",
        available=ImageUpdate(image="i", digest="d", download_bytes=1),
        next_action=NextAction("stage", "", START),
        boot_health=BootHealth(time=START, good=True),
    )
    met = list(dict.fromkeys(sample.metric.name for sample in samples(shown, tally)))
    assert met == [metric.name for metric in METRICS]
