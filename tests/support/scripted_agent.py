"""A service that does what a test tells it: the other side of the front end's protocol, without a host."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from bootcd.agent.snapshot import Change, JobAdded, JobChanged, JobForgotten, Snapshot, SnapshotChanged
from bootcd.model.errors import BootcdError, NoSuchJob
from bootcd.model.host import BootEntry, Host, HostState, ImageReferenceStatus, ImageStatus, OstreeStatus
from bootcd.model.job import (
    JobKind,
    JobOptions,
    JobRecord,
    JobRequest,
    JobState,
    Outcome,
    Progress,
    Requester,
)
from bootcd.model.report import DeploymentDetails
from bootcd.model.trust import Verdict
from bootcd.update.facts import Action
from bootcd.update.gates import Gate
from bootcd.update.inhibit import Inhibitor, Wish
from bootcd.update.planner import Plan

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
BOOTED, STAGED, ROLLBACK = ("b" * 64, "5" * 64, "a" * 64)


def deployment(checksum: str, **fields: Any) -> BootEntry:
    image = ImageStatus(
        image=ImageReferenceStatus(image="registry.test/os:1", transport="registry"),
        version="1.0",
        timestamp="2026-01-01T00:00:00Z",
        image_digest="sha256:" + checksum,
        architecture="amd64",
    )
    ostree = OstreeStatus(stateroot="default", checksum=checksum, deploy_serial=0)
    return BootEntry(image=image, ostree=ostree, **fields)


def host(**roles: BootEntry | None) -> Host:
    return Host(status=HostState(**roles, type="bootcHost"))


class ScriptedService:
    """`calls` lists every call that reached the service; `failure` is raised by the next ones."""

    def __init__(self) -> None:
        first = host(booted=deployment(BOOTED), rollback=deployment(ROLLBACK))
        self.snapshot = Snapshot(
            version="9.9",
            backend="ostree",
            state="idle",
            state_since=START,
            host=first,
            host_json=first.to_json(),
            details={
                f"{ROLLBACK}.0": DeploymentDetails(
                    kernel_arguments=("quiet", "root=LABEL=root"),
                    trust=Verdict(
                        scope="docker registry.test",
                        method="gpg",
                        key="ABCD",
                        identity="registry.test/os:1",
                        time=START,
                    ),
                )
            },
        )
        self.calls: list[tuple[Any, ...]] = []
        self.requesters: list[Requester] = []
        self.failure: Exception | None = None
        self.ended: list[JobRecord] = []
        self.release_notes = ""
        self.inhibited: list[int] = []
        "Descriptors of the other ends of those handed out."
        self._jobs: dict[str, JobRecord] = {}
        self._observers: list[Callable[[Change], None]] = []
        self._changed = asyncio.Event()

    # What the front end sees

    def jobs(self) -> tuple[JobRecord, ...]:
        return tuple(self._jobs.values())

    async def begin(self, kind: JobKind, requester: Requester, options: JobOptions) -> JobRecord:
        asked = options.model_dump(exclude_unset=True)
        self._note(kind.value, asked)
        self.requesters.append(requester)
        return self.add(kind, requester=requester, **asked)

    async def cancel(self, uuid: str) -> None:
        self._note("cancel", uuid)

    async def wait(self, uuid: str) -> JobRecord:
        self._note("wait", uuid)
        while not (record := self._find(uuid)).state.ended:
            self._changed.clear()
            await self._changed.wait()
        return record

    async def log(self, uuid: str) -> bytes:
        self._note("log", uuid)
        return b"what it printed\n"

    def checked_within(self, age: timedelta) -> bool:
        last = self.snapshot.last_check
        return last is not None and START - last <= age

    def simulate(self, at: datetime | None, surroundings: Mapping[str, bool | int]) -> Plan:
        self._note("simulate", at, dict(surroundings))
        gate = Gate("metered", "the network is metered", None, (Action.STAGE,))
        return Plan(Action.STAGE, "an update is available", START, (gate,))

    def notes(self) -> str:
        self._note("notes")
        return self.release_notes

    async def history(self, limit: int) -> list[JobRecord]:
        self._note("history", limit)
        return self.ended[:limit]

    async def diff(self, before: str, after: str) -> bytes:
        self._note("diff", before, after)
        return b"{}"

    async def config_diff(self) -> bytes:
        self._note("config-diff")
        return b"{}"

    async def inhibit(self, wish: Wish) -> int:
        """Hand out a descriptor, and show the inhibitor until the test drops it."""
        self._note("inhibit", wish)
        inhibitor = Inhibitor(**dict(wish), number=len(self.snapshot.inhibitors) + 1)
        reader, writer = os.pipe()
        self.inhibited.append(writer)
        self.update(inhibitors=(*self.snapshot.inhibitors, inhibitor))
        return reader

    async def pause(self, until: datetime | None, requester: Requester) -> None:
        self._note("pause", until)

    async def resume(self, requester: Requester) -> None:
        self._note("resume")

    async def schedule_apply(self, when: datetime, requester: Requester, options: JobOptions) -> None:
        self._note("schedule-apply", when, options)

    async def cancel_apply(self, requester: Requester) -> None:
        self._note("cancel-apply")

    async def clear_failures(self, digest: str) -> tuple[str, ...]:
        self._note("clear-failures", digest)
        return (digest,)

    async def reload(self) -> None:
        self._note("reload")

    async def host_ready(self) -> None:
        self._note("host_ready")
        while not self.snapshot.host_json:
            self._changed.clear()
            await self._changed.wait()

    def subscribe(self, observer: Callable[[Change], None]) -> Callable[[], None]:
        self._observers.append(observer)
        return lambda: self._observers.remove(observer)

    # What the test does

    def add(
        self, kind: JobKind = JobKind.UPGRADE, *, requester: Requester | None = None, **request: Any
    ) -> JobRecord:
        """Accept a job."""
        number = len(self._jobs) + 1
        record = JobRecord(
            number=number,
            request=JobRequest(uuid=str(UUID(int=number)), kind=kind, **request),
            requester=requester or Requester(),
            created=START,
        )
        self._jobs[record.request.uuid] = record
        self._publish(JobAdded(record))
        self.update(active_job=record.request.uuid)
        return record

    def progress(self, record: JobRecord, eta_secs: float = 0.0, **progress: Any) -> None:
        self._replace(self._find(record.request.uuid), eta_secs, progress=Progress(**progress))

    def end(self, record: JobRecord, outcome: Outcome) -> None:
        self.update(active_job="")
        self._replace(
            self._find(record.request.uuid), 0.0, state=outcome.state, finished=START, outcome=outcome
        )

    def forget(self, record: JobRecord) -> None:
        self._publish(JobForgotten(self._jobs.pop(record.request.uuid)))

    def update(self, **fields: Any) -> None:
        """Change the snapshot."""
        self.snapshot = replace(self.snapshot, **fields)
        self._publish(SnapshotChanged(self.snapshot))

    def _replace(self, record: JobRecord, eta_secs: float, **fields: Any) -> None:
        changed = record.model_copy(update=fields)
        self._jobs[record.request.uuid] = changed
        self._publish(JobChanged(changed, eta_secs))

    def _find(self, uuid: str) -> JobRecord:
        if uuid not in self._jobs:
            raise NoSuchJob(f"there is no job {uuid}")
        return self._jobs[uuid]

    def _note(self, *call: Any) -> None:
        self.calls.append(call)
        if self.failure is not None:
            raise self.failure

    def _publish(self, change: Change) -> None:
        for observer in tuple(self._observers):
            observer(change)
        self._changed.set()


def done(**fields: Any) -> Outcome:
    return Outcome(state=JobState.DONE, **fields)


def failed(error: BootcdError) -> Outcome:
    return Outcome(state=JobState.FAILED, error=error.info())
