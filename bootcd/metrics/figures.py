"""Every figure the service gives: its name, and how it follows from snapshot and tally. No I/O.

`docs/metrics.md` lists them for people. Times are given as moments and not as ages, so that a text
that was written once stays true: `time() - bootcd_staged_since_timestamp_seconds` is the age.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from bootcd.agent.snapshot import Snapshot
from bootcd.metrics.exposition import Metric, Sample
from bootcd.metrics.tally import Tally
from bootcd.model.job import JobKind
from bootcd.update.facts import Mode
from bootcd.update.machine import State

BUILD = Metric(
    "bootcd_build_info",
    "gauge",
    "Version of the service and what drives the host; always 1.",
    ("version", "backend"),
)
STARTED = Metric(
    "bootcd_start_timestamp_seconds", "gauge", "When the service started; its counters began at 0 then."
)
STATE = Metric(
    "bootcd_state", "gauge", "1 for the state of the update machine, 0 for all others.", ("state",)
)
STATE_SINCE = Metric("bootcd_state_since_timestamp_seconds", "gauge", "When the state last changed.")
MODE = Metric("bootcd_mode", "gauge", "1 for what the service does by itself, 0 for all others.", ("mode",))
GENERATION = Metric(
    "bootcd_generation", "gauge", "Grows by one with every change of what is deployed on the host."
)
DEPLOYMENT = Metric(
    "bootcd_deployment_info",
    "gauge",
    "What is booted, staged and kept for a rollback; always 1.",
    ("role", "image", "digest", "version"),
)
STAGED_SINCE = Metric(
    "bootcd_staged_since_timestamp_seconds",
    "gauge",
    "When what is staged was staged, or first seen if another program staged it; absent if nothing is.",
)
REBOOT_REQUIRED = Metric(
    "bootcd_reboot_required", "gauge", "1 if the next boot is into something else than what is booted."
)
LAST_CHECK = Metric(
    "bootcd_last_check_timestamp_seconds",
    "gauge",
    "When the registry was last asked for the newest version, whatever came of it; absent for never.",
)
LAST_CHECK_RESULT = Metric(
    "bootcd_last_check_result",
    "gauge",
    "Result of that check, up-to-date, available or the name of an error; always 1.",
    ("result",),
)
AVAILABLE = Metric("bootcd_update_available", "gauge", "1 if an update is known that is not staged.")
AVAILABLE_BYTES = Metric(
    "bootcd_update_download_bytes", "gauge", "What that update would download; absent if not known."
)
NEXT_ACTION = Metric(
    "bootcd_next_action_timestamp_seconds",
    "gauge",
    "When the service will act by itself next, and how; absent if it will not.",
    ("action",),
)
BOOT_HEALTHY = Metric(
    "bootcd_boot_healthy", "gauge", "1 if this boot was found good, 0 if bad; absent while it is not judged."
)
FAILED_VERSIONS = Metric(
    "bootcd_failed_versions", "gauge", "Versions that booted badly here and are not taken again unasked."
)
GATE_SINCE = Metric(
    "bootcd_gate_since_timestamp_seconds",
    "gauge",
    "Since when something is held up by the gate, such as inhibitor or window; absent while it is open.",
    ("gate",),
)
GATE_SECONDS = Metric(
    "bootcd_gate_seconds_total",
    "counter",
    "How long the gate held something up in all, counted when it opens.",
    ("gate",),
)
RUNNING = Metric("bootcd_job_running", "gauge", "1 while a job of the kind is at work, else 0.", ("kind",))
BEGUN = Metric("bootcd_jobs_started_total", "counter", "Jobs that were accepted.", ("kind",))
ENDED = Metric(
    "bootcd_jobs_ended_total",
    "counter",
    "Jobs that ended, by result: done, failed, cancelled or interrupted.",
    ("kind", "result"),
)
FAILURES = Metric(
    "bootcd_job_failures_total",
    "counter",
    "Jobs that failed, by the last part of the error's bus name.",
    ("kind", "error"),
)
DURATION = Metric("bootcd_job_duration_seconds", "summary", "How long jobs took that ended.", ("kind",))
LAST_DURATION = Metric(
    "bootcd_job_last_duration_seconds",
    "gauge",
    "How long the last job of the kind took that succeeded; outlasts restarts.",
    ("kind",),
)
LAST_SUCCESS = Metric(
    "bootcd_job_last_success_timestamp_seconds",
    "gauge",
    "When a job of the kind last succeeded; outlasts restarts.",
    ("kind",),
)
FETCHED = Metric("bootcd_fetched_bytes_total", "counter", "Bytes of layers that jobs downloaded.")
CACHED = Metric(
    "bootcd_cached_bytes_total", "counter", "Bytes of layers that jobs needed and that were here already."
)

METRICS = (
    *(BUILD, STARTED, STATE, STATE_SINCE, MODE, GENERATION, DEPLOYMENT, STAGED_SINCE, REBOOT_REQUIRED),
    *(
        LAST_CHECK,
        LAST_CHECK_RESULT,
        AVAILABLE,
        AVAILABLE_BYTES,
        NEXT_ACTION,
        BOOT_HEALTHY,
        FAILED_VERSIONS,
        GATE_SINCE,
        GATE_SECONDS,
        RUNNING,
    ),
    *(BEGUN, ENDED, FAILURES, DURATION, LAST_DURATION, LAST_SUCCESS, FETCHED, CACHED),
)
"All of them, in the order of the text."


def samples(snapshot: Snapshot, tally: Tally) -> Iterator[Sample]:
    """Yield everything that can be said now, in the order of `METRICS`."""
    yield Sample(BUILD, 1, (snapshot.version, snapshot.backend))
    yield _moment(STARTED, tally.started)
    yield from (Sample(STATE, state.value == snapshot.state, (state.value,)) for state in State)
    yield _moment(STATE_SINCE, snapshot.state_since)
    yield from (Sample(MODE, mode.value == snapshot.mode, (mode.value,)) for mode in Mode)
    yield Sample(GENERATION, snapshot.generation)
    yield from _deployments(snapshot)
    if tally.staged_since is not None:
        yield _moment(STAGED_SINCE, tally.staged_since)
    yield Sample(REBOOT_REQUIRED, snapshot.reboot_required)
    if snapshot.last_check is not None:
        yield _moment(LAST_CHECK, snapshot.last_check)
    if snapshot.last_check_result:
        yield Sample(LAST_CHECK_RESULT, 1, (snapshot.last_check_result,))
    yield Sample(AVAILABLE, snapshot.available is not None)
    if snapshot.available is not None and snapshot.available.download_bytes >= 0:
        yield Sample(AVAILABLE_BYTES, snapshot.available.download_bytes)
    if snapshot.next_action.action and snapshot.next_action.when is not None:
        yield _moment(NEXT_ACTION, snapshot.next_action.when, snapshot.next_action.action)
    if snapshot.boot_health is not None:
        yield Sample(BOOT_HEALTHY, snapshot.boot_health.good)
    yield Sample(FAILED_VERSIONS, len(snapshot.failures))
    yield from (_moment(GATE_SINCE, since, gate) for gate, since in sorted(tally.gates.items()))
    yield from (Sample(GATE_SECONDS, seconds, (gate,)) for gate, seconds in sorted(tally.held.items()))
    yield from _jobs(tally)


def _deployments(snapshot: Snapshot) -> Iterator[Sample]:
    status = snapshot.host.status
    roles = {"booted": status.booted, "staged": status.staged, "rollback": status.rollback}
    for role, entry in roles.items():
        if entry is not None and entry.image is not None:
            image = entry.image
            labels = (role, image.image.image, image.image_digest, image.version or "")
            yield Sample(DEPLOYMENT, 1, labels)


def _jobs(tally: Tally) -> Iterator[Sample]:
    at_work = {record.request.kind.value for record in tally.running.values()}
    yield from (Sample(RUNNING, kind.value in at_work, (kind.value,)) for kind in JobKind)
    yield from (Sample(BEGUN, tally.begun[kind.value], (kind.value,)) for kind in JobKind)
    yield from (Sample(ENDED, count, labels) for labels, count in sorted(tally.ended.items()))
    yield from (Sample(FAILURES, count, labels) for labels, count in sorted(tally.failures.items()))
    for kind, seconds in sorted(tally.seconds.items()):
        count = sum(number for (of, _), number in tally.ended.items() if of == kind)
        yield Sample(DURATION, seconds, (kind,), "_sum")
        yield Sample(DURATION, count, (kind,), "_count")
    last = sorted(tally.succeeded.items())
    yield from (Sample(LAST_DURATION, job.duration.total_seconds(), (kind,)) for kind, job in last)
    yield from (_moment(LAST_SUCCESS, job.finished, kind) for kind, job in last)
    yield Sample(FETCHED, tally.fetched)
    yield Sample(CACHED, tally.cached)


def _moment(metric: Metric, when: datetime, *labels: str) -> Sample:
    return Sample(metric, when.timestamp(), labels)
