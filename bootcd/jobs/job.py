"""One job as this daemon knows it: its record, what was heard of its worker, and how it ended."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable

from bootcd.host import journal
from bootcd.jobs.events import JobChanged, JobEvent
from bootcd.jobs.pace import Pace
from bootcd.model.errors import BootcdError, InternalError, Interrupted, OutOfSpace, Stalled
from bootcd.model.job import JobRecord, JobState, Outcome, WorkerHandle, WorkerMessage

log = logging.getLogger(__name__)


class Job:
    """A job and what its record does not say.

    Reports progress to `on_event` at most every `notify_secs` once it is `visible`; the last report of
    a burst is late rather than lost.
    """

    def __init__(
        self, record: JobRecord, *, on_event: Callable[[JobEvent], None], notify_secs: float
    ) -> None:
        self.record = record
        self.visible = False
        self.ready = False
        "The worker's own checks have passed."
        self.answered = asyncio.Event()
        "The worker said it is ready, or has ended."
        self.started = False
        self.exited = asyncio.Event()
        "There is no worker any more."
        self.ended = asyncio.Event()
        self.stalled = False
        self.stopping = False
        self.heard_at = asyncio.get_running_loop().time()
        self.accepting: asyncio.Task[None] | None = None
        self.linger: asyncio.TimerHandle | None = None
        self._on_event = on_event
        self._notify_secs = notify_secs
        self._pace = Pace()
        self._published_at = 0.0
        self._publication: asyncio.TimerHandle | None = None

    @property
    def uuid(self) -> str:
        return self.record.request.uuid

    @property
    def handle(self) -> WorkerHandle:
        assert self.record.worker is not None, "journaled before the worker started"
        return self.record.worker

    def hear(self, message: WorkerMessage) -> None:
        now = asyncio.get_running_loop().time()
        self.heard_at = now
        if message.ready:
            self.ready = True
            self.answered.set()
        if message.progress is not None:
            self._pace.note(message.progress, now)
            self.update(progress=message.progress)
            self._publish_soon()

    def update(self, **changes: object) -> None:
        self.record = self.record.model_copy(update=changes)

    def publish(self) -> None:
        """Report the job as it is now."""
        if self._publication is not None:
            self._publication.cancel()
            self._publication = None
        self._published_at = asyncio.get_running_loop().time()
        eta_secs = 0.0 if self.ended.is_set() else self._pace.remaining_secs(self.record.progress)
        self._on_event(JobChanged(self.record, eta_secs))

    def stop_timers(self) -> None:
        for timer in (self._publication, self.linger):
            if timer is not None:
                timer.cancel()

    def _publish_soon(self) -> None:
        if not self.visible or self._publication is not None:
            return
        loop = asyncio.get_running_loop()
        due = self._published_at + self._notify_secs
        if loop.time() >= due:
            self.publish()
        else:
            self._publication = loop.call_at(due, self.publish)


def conclude(state: JobState, left: Outcome | None, *, stalled_secs: float = 0) -> Outcome:
    """Decide how a job ended from its last state and what its worker left.

    `stalled_secs` is not 0 if the worker was stopped for its silence: then its saying that it was
    cancelled only means that it heard us.
    """
    if stalled_secs and (left is None or left.state is JobState.CANCELLED):
        error = Stalled(
            f"nothing happened for {stalled_secs:g} s", hint="check the network and the disk, and try again"
        )
        left = left or Outcome(state=JobState.FAILED)
        return left.model_copy(update={"state": JobState.FAILED, "error": error.info()})
    if left is not None:
        return left
    if state is JobState.CANCELLING:
        return Outcome(state=JobState.CANCELLED)
    return Outcome(state=JobState.INTERRUPTED, error=interrupted().info())


def interrupted() -> Interrupted:
    return Interrupted(
        "the worker ended without a result: it was killed, it crashed, or the power went",
        hint="try again; nothing half-done is left on the host",
    )


def unrecorded(error: OSError) -> BootcdError:
    """Translate what the disk said when a job was to be journaled."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpace("there is no space left to record the job", hint="free some space on /var")
    log.error("the job cannot be recorded: %s", error)
    return InternalError("the job cannot be recorded", hint="see 'journalctl -u bootcd'")


def log_start(record: JobRecord) -> None:
    who = record.requester
    log.info(
        "job %d started: %s for %s",
        record.number,
        record.request.kind,
        who.name or who.uid,
        extra=journal.fields(
            journal.Event.JOB_STARTED,
            job=record.request.uuid,
            kind=record.request.kind,
            uid=who.uid,
            requester=who.name,
        ),
    )


def log_end(record: JobRecord) -> None:
    outcome = record.outcome
    assert outcome is not None, "an ended job has one"
    error = outcome.error
    log.log(
        logging.WARNING if error else logging.INFO,
        "job %d ended: %s %s%s",
        record.number,
        record.request.kind,
        record.state,
        f": {error.message}" if error else "",
        extra=journal.fields(
            journal.Event.JOB_ENDED,
            job=record.request.uuid,
            kind=record.request.kind,
            state=record.state,
            changed=outcome.changed,
            error=error.name if error else "",
        ),
    )
    for warning in outcome.warnings:
        log.warning("job %d: %s", record.number, warning)
