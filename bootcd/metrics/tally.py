"""What has happened since the service started, counted; and what the history knows from before. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from bootcd.agent.snapshot import Change, JobAdded, JobChanged, JobForgotten, Snapshot, SnapshotChanged
from bootcd.model.job import JobRecord, JobState


@dataclass(frozen=True, slots=True)
class Ended:
    """The last job of a kind that succeeded."""

    finished: datetime
    duration: timedelta


class Tally:
    def __init__(self, started: datetime, snapshot: Snapshot) -> None:
        self.started = started
        self.begun: Counter[str] = Counter()
        "Jobs, by kind."
        self.ended: Counter[tuple[str, str]] = Counter()
        "Jobs, by kind and result."
        self.failures: Counter[tuple[str, str]] = Counter()
        "By kind and name of the error."
        self.seconds: dict[str, float] = {}
        "Jobs took, by kind; those counted in `ended`."
        self.fetched = 0
        self.cached = 0
        "Bytes of layers."
        self.gates: dict[str, datetime] = {}
        "Those that hold something up, since when."
        self.held: dict[str, float] = {}
        "For how many seconds each gate has, in all, while it was shut before."
        self.succeeded: dict[str, Ended] = {}
        self.running: dict[str, JobRecord] = {}
        self.staged_since: datetime | None = None
        self._staged = ""
        self._counted: set[str] = set()
        self._look(snapshot, started)

    def observe(self, change: Change, now: datetime) -> None:
        """Take one change of the service."""
        match change:
            case JobAdded(record) if not record.state.ended:
                self.begun[record.request.kind.value] += 1
                self.running[record.request.uuid] = record
            case JobChanged(record) if record.state.ended:
                self.running.pop(record.request.uuid, None)
                if record.request.uuid not in self._counted:
                    self._counted.add(record.request.uuid)
                    self._count(record)
            case JobForgotten(record):
                self._counted.discard(record.request.uuid)
            case SnapshotChanged(snapshot):
                self._look(snapshot, now)
            case _:
                pass

    def recall(self, records: Iterable[JobRecord], snapshot: Snapshot) -> None:
        """Take ended jobs of the history, newest first: what succeeded last, and when what is staged was."""
        staged = _staged_digest(snapshot)
        found = False
        for record in records:
            if record.state is not JobState.DONE or record.finished is None:
                continue
            kind = record.request.kind.value
            self.succeeded.setdefault(kind, Ended(record.finished, _duration(record)))
            update = record.outcome.update if record.outcome else None
            stages = record.outcome is not None and record.outcome.changed
            if staged and not found and stages and update is not None and update.digest == staged:
                found = True
                self.staged_since = min(record.finished, self.staged_since or record.finished)

    def _count(self, record: JobRecord) -> None:
        kind, outcome = record.request.kind.value, record.outcome
        self.ended[kind, record.state.value] += 1
        self.seconds[kind] = self.seconds.get(kind, 0.0) + _duration(record).total_seconds()
        self.cached += record.progress.bytes_cached
        if outcome is not None:
            self.fetched += outcome.bytes_fetched
        if record.state is JobState.FAILED:
            self.failures[kind, outcome.error.name if outcome and outcome.error else "Failed"] += 1
        if record.state is JobState.DONE and record.finished is not None:
            self.succeeded[kind] = Ended(record.finished, _duration(record))

    def _look(self, snapshot: Snapshot, now: datetime) -> None:
        entry = snapshot.host.status.staged
        staged = entry.id if entry else ""
        if staged != self._staged:
            self._staged = staged
            self.staged_since = now if staged else None
        shut = {gate.name for gate in snapshot.gates} | {"inhibitor" for _ in snapshot.inhibitors}
        for gate in self.gates.keys() - shut:
            secs = (now - self.gates.pop(gate)).total_seconds()
            self.held[gate] = self.held.get(gate, 0.0) + max(0.0, secs)
        for gate in shut - self.gates.keys():
            self.gates[gate] = now


def _staged_digest(snapshot: Snapshot) -> str:
    entry = snapshot.host.status.staged
    return entry.image.image_digest if entry and entry.image else ""


def _duration(record: JobRecord) -> timedelta:
    # The clock may have been set meanwhile.
    return max(timedelta(0), (record.finished or record.created) - record.created)
