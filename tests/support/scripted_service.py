"""A service for tests of bootcctl: jobs start as a client asks, and then do what the test says.

Shown to clients by the real D-Bus front end, so that only the work behind it is scripted.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bootcd.agent.snapshot import Change, JobAdded, JobChanged, Snapshot, SnapshotChanged
from bootcd.bus.frontend import Frontend
from bootcd.model.comparison import ConfigDiff, DeploymentDiff, DeploymentSummary
from bootcd.model.errors import BootcdError, NotCancellable
from bootcd.model.host import (
    BootEntry,
    Host,
    HostSpec,
    HostState,
    ImageReferenceStatus,
    ImageStatus,
    OstreeStatus,
)
from bootcd.model.job import (
    ImageUpdate,
    JobKind,
    JobOptions,
    JobRecord,
    JobRequest,
    JobState,
    Outcome,
    Progress,
    Requester,
)
from bootcd.update.appointment import Appointment
from bootcd.update.facts import Action
from bootcd.update.gates import Gate
from bootcd.update.inhibit import Inhibitor, Wish
from bootcd.update.pause import Pause
from bootcd.update.planner import Plan

IMAGE = "registry.example/os:1"
AGENT = Requester()
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)

_POLICY = Path(__file__).resolve().parents[2] / "dbus/org.bootcd1.conf"
_BUS_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
  </policy>
  <include>{policy}</include>
  <include ignore_missing="yes">/usr/share/dbus-1/system.d/org.freedesktop.PolicyKit1.conf</include>
</busconfig>
"""


def deployment(version: str, digit: str, image: str = IMAGE) -> BootEntry:
    """Make a deployment whose digest and checksum repeat one hexadecimal digit."""
    return BootEntry(
        image=ImageStatus(
            image=ImageReferenceStatus(image=image, transport="registry"),
            version=version,
            timestamp="2026-01-01T00:00:00Z",
            image_digest="sha256:" + digit * 64,
            architecture="amd64",
        ),
        ostree=OstreeStatus(stateroot="default", checksum=digit * 64, deploy_serial=0),
    )


def host(**roles: BootEntry) -> Host:
    """Make a host document with deployments in the roles given."""
    image = roles["booted"].image if "booted" in roles else None
    return Host(
        spec=HostSpec(image=image.image if image else None),
        status=HostState(type="bootcHost", **roles),
    )


def available(**changes: Any) -> ImageUpdate:
    """Make an image version newer than what is booted."""
    values = {
        "image": IMAGE,
        "digest": "sha256:" + "b" * 64,
        "version": "2.0",
        "created": EPOCH,
        "download_bytes": 12_300_000,
    }
    return ImageUpdate(**(values | changes))


class ScriptedService:
    """Implements `bootcd.agent.interface.UpdateService`.

    `requests` lists what was asked for, `refusals` are the errors of a method by its name, `on_start`
    and `on_cancel` are what a job does at once.
    """

    def __init__(self) -> None:
        booted = host(booted=deployment("1.0", "a"))
        self.snapshot = Snapshot(
            version="0.1.0",
            backend="ostree",
            state="idle",
            state_since=EPOCH,
            host=booted,
            host_json=booted.to_json(),
        )
        self.records: dict[str, JobRecord] = {}
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.refusals: dict[str, BootcdError] = {}
        self.release_notes = ""
        self.inhibited: list[int] = []
        "Descriptors of the other ends of those handed out."
        self.on_start: Callable[[JobRecord], None] = lambda _: None
        self.on_cancel: Callable[[JobRecord], None] = lambda record: self.end(record, JobState.CANCELLED)
        self.started: asyncio.Queue[JobRecord] = asyncio.Queue()
        self.cancelled: asyncio.Queue[JobRecord] = asyncio.Queue()
        self.forgotten: list[JobRecord] = []
        self.asked_history = asyncio.Event()
        self.answers_history = asyncio.Event()
        self.answers_history.set()
        self._observers: list[Callable[[Change], None]] = []

    def subscribe(self, observer: Callable[[Change], None]) -> Callable[[], None]:
        self._observers.append(observer)
        return lambda: self._observers.remove(observer)

    def publish(self, **changes: Any) -> None:
        """Change the snapshot."""
        self.snapshot = replace(self.snapshot, **changes)
        self._tell(SnapshotChanged(self.snapshot))

    def jobs(self) -> tuple[JobRecord, ...]:
        return tuple(self.records.values())

    def add(self, kind: JobKind, requester: Requester = AGENT, image: str = "") -> JobRecord:
        """Accept a job."""
        request = JobRequest(uuid=str(uuid.uuid4()), kind=kind, image=image)
        record = JobRecord(number=len(self.records) + 1, request=request, requester=requester, created=EPOCH)
        self.records[request.uuid] = record
        self._tell(JobAdded(record))
        self.publish(active_job=request.uuid, state="working")
        return record

    def renumber(self, record: JobRecord, number: int) -> JobRecord:
        """Give a job another number, as after a restart that lost count; nobody is told."""
        changed = self.records[record.request.uuid].model_copy(update={"number": number})
        self.records[record.request.uuid] = changed
        return changed

    async def begin(self, kind: JobKind, requester: Requester, options: JobOptions) -> JobRecord:
        self.requests.append((kind.value, options.model_dump(exclude_unset=True)))
        if kind.value in self.refusals:
            raise self.refusals[kind.value]
        for record in self.records.values():
            if not record.state.ended and record.request.kind is kind:
                return record
        record = self.add(kind, requester, options.image)
        self.on_start(record)
        self.started.put_nowait(record)
        return self.records[record.request.uuid]

    def advance(self, record: JobRecord, eta_secs: float = 0.0, **progress: Any) -> None:
        """Report progress of a job."""
        changed = self.records[record.request.uuid].model_copy(update={"progress": Progress(**progress)})
        self.records[record.request.uuid] = changed
        self._tell(JobChanged(changed, eta_secs))

    def end(self, record: JobRecord, state: JobState = JobState.DONE, **outcome: Any) -> None:
        """End a job."""
        changed = self.records[record.request.uuid].model_copy(
            update={"state": state, "finished": EPOCH, "outcome": Outcome(state=state, **outcome)}
        )
        self.records[record.request.uuid] = changed
        self._tell(JobChanged(changed))
        self.publish(active_job="", state="idle")

    def fail(self, record: JobRecord, error: BootcdError) -> None:
        """End a job with an error."""
        self.end(record, JobState.FAILED, error=error.info())

    def forget(self, record: JobRecord) -> None:
        """Keep an ended job in the history only; nobody is told."""
        self.forgotten.insert(0, self.records.pop(record.request.uuid))

    async def cancel(self, job: str) -> None:
        record = self.records[job]
        if record.state.ended:
            raise NotCancellable("the job has ended")
        if "cancel" in self.refusals:
            raise self.refusals["cancel"]
        self.on_cancel(record)
        self.cancelled.put_nowait(record)

    async def log(self, job: str) -> bytes:
        return f"log of {self.records[job].request.kind}\n\x1b[31mred\n".encode()

    async def wait(self, job: str) -> JobRecord:
        raise NotImplementedError(job)

    async def history(self, limit: int) -> list[JobRecord]:
        self.requests.append(("history", {"limit": limit}))
        self.asked_history.set()
        await self.answers_history.wait()
        ended = [record for record in reversed(self.records.values()) if record.state.ended]
        return (ended + self.forgotten)[:limit]

    def checked_within(self, age: timedelta) -> bool:
        last = self.snapshot.last_check
        return last is not None and EPOCH - last <= age

    def simulate(self, at: datetime | None, surroundings: Mapping[str, bool | int]) -> Plan:
        self.requests.append(("simulate", {"at": at, **surroundings}))
        gate = Gate("metered", "the network connection is metered", None, (Action.STAGE,))
        return Plan(Action.CHECK, "regular check", EPOCH, (gate,))

    def notes(self) -> str:
        return self.release_notes

    async def diff(self, before: str, after: str) -> bytes:
        self.requests.append(("diff", {"before": before, "after": after}))
        if "diff" in self.refusals:
            raise self.refusals["diff"]
        summaries = [DeploymentSummary(id=id) for id in (before, after)]
        return DeploymentDiff(before=summaries[0], after=summaries[1]).to_json().encode()

    async def config_diff(self) -> bytes:
        self.requests.append(("config-diff", {}))
        return ConfigDiff(deployment="x.0", modified=("/etc/fstab",)).to_json().encode()

    async def inhibit(self, wish: Wish) -> int:
        """Hand out a descriptor, and show the inhibitor until the test drops it."""
        self.requests.append(("inhibit", wish.model_dump(mode="json")))
        if "inhibit" in self.refusals:
            raise self.refusals["inhibit"]
        inhibitor = Inhibitor(**dict(wish), number=len(self.snapshot.inhibitors) + 1)
        reader, writer = os.pipe()
        self.inhibited.append(writer)
        self.publish(inhibitors=(*self.snapshot.inhibitors, inhibitor))
        return reader

    async def pause(self, until: datetime | None, requester: Requester) -> None:
        self.requests.append(("pause", {"until": until}))
        self.publish(paused=Pause(since=EPOCH, until=until, uid=requester.uid))

    async def resume(self, requester: Requester) -> None:
        self.requests.append(("resume", {}))
        self.publish(paused=None)

    async def schedule_apply(self, when: datetime, requester: Requester, options: JobOptions) -> None:
        self.requests.append(("schedule-apply", {"when": when, **options.model_dump(exclude_defaults=True)}))
        self.publish(appointment=Appointment(when=when, requester=requester))

    async def cancel_apply(self, requester: Requester) -> None:
        self.requests.append(("cancel-apply", {}))
        self.publish(appointment=None)

    async def clear_failures(self, digest: str) -> tuple[str, ...]:
        self.requests.append(("clear-failures", {"digest": digest}))
        return (digest,) if digest else ()

    async def reload(self) -> None:
        self.requests.append(("reload", {}))
        if "reload" in self.refusals:
            raise self.refusals["reload"]

    async def host_ready(self) -> None:
        if "status" in self.refusals:
            raise self.refusals["status"]
        return

    def _tell(self, change: Change) -> None:
        for observer in tuple(self._observers):
            observer(change)


@asynccontextmanager
async def open_bus(directory: Path) -> AsyncIterator[str]:
    """Run a message bus with the policy of a system bus and our own; yield its address."""
    socket, config = directory / "bus", directory / "bus.conf"
    config.write_text(_BUS_CONFIG.format(socket=socket, policy=_POLICY))
    daemon = await asyncio.create_subprocess_exec(
        "dbus-daemon",
        f"--config-file={config}",
        "--nofork",
        "--nopidfile",
        "--nosyslog",
        "--print-address",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert daemon.stdout is not None
        async with asyncio.timeout(10):
            address = (await daemon.stdout.readline()).decode().strip()
        assert address, "dbus-daemon did not start"
        yield address
    finally:
        if daemon.returncode is None:
            daemon.terminate()
        await daemon.wait()


@asynccontextmanager
async def shown_on(address: str, service: ScriptedService) -> AsyncIterator[Frontend]:
    """Show a service on a bus, as the daemon does."""
    frontend = Frontend(service, address)
    await frontend.start()
    try:
        yield frontend
    finally:
        await frontend.stop()
