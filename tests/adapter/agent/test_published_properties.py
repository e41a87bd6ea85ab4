"""What clients are shown, whatever happens in whatever order.

The service, the publication of its objects and the table of states are the real ones; who asks, what jobs do
and what the host looks like come by chance. A client that knows nothing but the signals must at every change
of the Manager see what makes sense, and in the end all there is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from dbus_fast import unpack_variants
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bootcd.agent.errand import Comparisons
from bootcd.agent.service import Service, Settings
from bootcd.bus.interfaces import JOB, MANAGER, ROOT_PATH
from bootcd.bus.objects import ObjectTree
from bootcd.bus.publisher import Publisher
from bootcd.bus.schema import Interface, Signal
from bootcd.jobs.events import JobAdded, JobChanged, JobEvent, JobForgotten
from bootcd.model.errors import BootcdError, Busy, OutOfSpace
from bootcd.model.host import Host
from bootcd.model.job import (
    ImageUpdate,
    JobKind,
    JobOptions,
    JobRecord,
    JobRequest,
    JobState,
    Outcome,
    Phase,
    Progress,
    Requester,
    WorkerSettings,
)
from bootcd.model.report import HostReport
from bootcd.update.facts import Mode, Rules
from bootcd.update.machine import WORKING, State
from tests.support.jobs import SOMEBODY, SetClock
from tests.support.service import IMAGE, deployment, host_of

DIGITS = "abcd"
SELDOM = st.sampled_from([False] * 9 + [True])
KINDS = st.sampled_from([*JobKind, *[JobKind.CHECK, JobKind.UPGRADE, JobKind.APPLY] * 5])
ENDED = ("done", "failed", "cancelled", "interrupted")
NOTHING = "/"


class Manager:
    """Jobs without workers: each does what the test says next. Stands in for `JobManager`."""

    def __init__(self, clock: SetClock) -> None:
        self.clock = clock
        self.records: dict[str, JobRecord] = {}
        self.current: JobRecord | None = None
        self.refusal: BootcdError | None = None
        self.number = 0
        self.tell: Callable[[JobEvent], None] = lambda _: None
        self.settle: Callable[[JobRecord], Awaitable[None]]

    async def start(
        self, *, on_event: Callable[[JobEvent], None], settle: Callable[[JobRecord], Awaitable[None]]
    ) -> None:
        self.tell, self.settle = on_event, settle
        for record in self.records.values():
            on_event(JobAdded(record))

    async def stop(self) -> None:
        self.tell = lambda _: None

    def jobs(self) -> tuple[JobRecord, ...]:
        return tuple(self.records.values())

    @property
    def busy(self) -> bool:
        return self.current is not None

    async def retried(self, request: JobRequest, requester: Requester) -> JobRecord | None:
        return None

    async def create(self, request: JobRequest, requester: Requester) -> JobRecord:
        if self.current is not None:
            raise Busy("another job is at work", uuid=self.current.request.uuid)
        if self.refusal is not None:
            raise self.refusal
        self.number += 1
        record = JobRecord(number=self.number, request=request, requester=requester, created=self.clock.now())
        self.current = self.records[request.uuid] = record
        self.tell(JobAdded(record))
        return record

    def change(self, **fields: Any) -> None:
        assert self.current is not None
        self.current = self.current.model_copy(update=fields)
        self.records[self.current.request.uuid] = self.current
        self.tell(JobChanged(self.current))

    async def end(self, outcome: Outcome) -> None:
        assert self.current is not None
        ended = self.current.model_copy(
            update={"state": outcome.state, "outcome": outcome, "finished": self.clock.now()}
        )
        await self.settle(ended)
        self.current = None
        self.records[ended.request.uuid] = ended
        self.tell(JobChanged(ended))

    def forget(self, record: JobRecord) -> None:
        del self.records[record.request.uuid]
        self.tell(JobForgotten(record))


class Client:
    """Knows what signals told it since it read everything once."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.new: list[str] = []
        self.removed: list[str] = []
        self.generation = 0

    def read(self, tree: ObjectTree) -> None:
        everything = {path: interfaces for path, interfaces in tree.managed().items()}
        self.objects = {
            path: unpack_variants(next(iter(interfaces.values()))) for path, interfaces in everything.items()
        }
        self.objects[ROOT_PATH] = unpack_variants(tree.properties(ROOT_PATH, ""))
        self.check_manager()

    def emit(self, path: str, interface: Interface, signal: Signal, *values: Any) -> None:
        match signal.name:
            case "InterfacesAdded":
                [(name, shown)] = values[1].items()
                self.objects[values[0]] = unpack_variants(shown)
                if name == JOB.name:
                    self.check_job(values[0])
            case "InterfacesRemoved":
                del self.objects[values[0]]
            case "PropertiesChanged":
                before = dict(self.objects[path])
                self.objects[path].update(unpack_variants(values[1]))
                if values[0] == MANAGER.name:
                    self.check_manager()
                elif values[0] == JOB.name:
                    assert before["State"] not in ENDED, "a job goes on after its end"
                    self.check_job(path)
            case "JobNew":
                self.new.append(values[0])
            case "JobRemoved":
                assert self.objects[values[0]]["State"] == values[3], "the end comes before its announcement"
                self.removed.append(values[0])
            case _:
                pass

    def check_job(self, path: str) -> None:
        job = self.objects[path]
        ended = job["State"] in ENDED
        assert (job["Finished"] > 0) == ended
        assert bool(job["Outcome"]) == ended
        assert bool(job["ErrorName"]) == (job["State"] == "failed")
        assert not job["Cancellable"] or job["State"] == "running"
        assert job["Progress"] == -1 or 0 <= job["Progress"] <= 1

    def check_manager(self) -> None:
        """Check what must hold of the Manager's properties together, whenever a client looks at them."""
        manager = self.objects[ROOT_PATH]
        state, active = State(manager["State"]), manager["ActiveJob"]
        assert (state in WORKING) <= (active != NOTHING), f"{state} without a job"
        assert active == NOTHING or self.objects[active]["State"] in ("running", "cancelling")
        assert active == NOTHING or state in WORKING or state is State.REBOOTING, f"{state} beside a job"
        roles = {role: manager[role.capitalize()] for role in ("booted", "staged", "rollback")}
        for role, path in roles.items():
            assert path == NOTHING or self.objects[path]["Role"] == role
        staged = self.objects.get(roles["staged"], {})
        match state:
            case State.UNMANAGED:
                assert set(roles.values()) == {NOTHING}
                assert manager["ReadOnlyReason"]
            case State.STAGED:
                assert staged
            case State.ROLLBACK_QUEUED:
                assert not staged
                assert manager["RebootRequired"]
            case State.IDLE | State.AVAILABLE:
                assert not staged
                assert not manager["RebootRequired"]
                assert bool(manager["AvailableUpdate"]) == (state is State.AVAILABLE)
            case _:
                pass
        if staged:
            assert manager["RebootRequired"] == (not staged["DownloadOnly"])
        taken = {
            self.objects[path]["Digest"] for path in (roles["booted"], roles["staged"]) if path != NOTHING
        }
        assert manager["AvailableUpdate"].get("digest") not in taken, "what is taken is offered"
        assert manager["Generation"] >= self.generation
        self.generation = manager["Generation"]


class Warnings(logging.Handler):
    """Holds what was warned of: nothing is out of turn, and nothing fails behind the scenes."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


class Life(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="bootcd-life-"))
        self.loop = asyncio.new_event_loop()
        self.clock = SetClock()
        self.manager = Manager(self.clock)
        self.client = Client()
        self.host = host_of(deployment("a"))
        self.warnings = Warnings()
        logging.getLogger("bootcd").addHandler(self.warnings)
        self.service: Service

    def teardown(self) -> None:
        with contextlib.closing(self.loop):
            self.loop.run_until_complete(self.service.stop())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
        logging.getLogger("bootcd").removeHandler(self.warnings)
        shutil.rmtree(self.directory)

    # What happens

    @initialize()
    def service_starts(self) -> None:
        self.loop.run_until_complete(self._start())

    async def _start(self) -> None:
        async def inspect(_: str) -> HostReport:
            return HostReport(host=self.host)

        configured = Settings(
            rules=Rules(mode=Mode.OFF, interval=timedelta(hours=6), jitter=timedelta(0)),
            worker=WorkerSettings(sysroot=str(self.directory / "sysroot")),
        )
        self.service = Service(
            manager=self.manager,  # type: ignore[arg-type]
            settings=configured,
            load=lambda: configured,
            inspect=inspect,
            comparisons=Comparisons(()),
            state=self.directory,
            runtime=self.directory,
            clock=self.clock,
            version="0",
        )
        await self.service.start()
        # Nobody is on the bus before: what jobs did by then is read and not told.
        self.tree = ObjectTree(ROOT_PATH, self.client.emit, lambda: False)
        self.publisher = Publisher(self.tree, self.client.emit, self.service.snapshot, self.service.jobs())
        self.client.read(self.tree)
        self.service.subscribe(self.publisher.observe)
        await self.service.host_ready()

    @rule(really=SELDOM)
    def service_restarts(self, really: bool) -> None:
        if not really:
            return
        self.loop.run_until_complete(self.service.stop())
        self.loop.run_until_complete(self._start())

    @rule(
        booted=st.sampled_from(DIGITS),
        staged=st.sampled_from(["", *DIGITS]),
        locked=st.booleans(),
        queued=st.booleans(),
    )
    def host_is_changed_by_somebody(self, booted: str, staged: str, locked: bool, queued: bool) -> None:
        entry = deployment(staged, download_only=locked) if staged and staged != booted else None
        self._look(host_of(deployment(booted), entry, rollback_queued=queued and entry is None))

    @rule(really=SELDOM)
    def host_turns_out_to_be_no_image_host(self, really: bool) -> None:
        if really:
            self._look(Host())

    def _look(self, host: Host) -> None:
        self.host = host
        self.loop.run_until_complete(self.service.reload())

    @rule(kind=KINDS, apply=st.booleans(), stale=SELDOM, refused=SELDOM)
    def somebody_asks_for_a_job(self, kind: JobKind, apply: bool, stale: bool, refused: bool) -> None:
        generation = self.service.snapshot.generation + stale
        options = JobOptions(
            apply=apply, image="registry.example/os:2", expect_generation=generation if stale else None
        )
        self.manager.refusal = OutOfSpace("no space") if refused else None
        known = len(self.manager.records)
        with contextlib.suppress(BootcdError):  # and nothing but what the caller can be told
            self.loop.run_until_complete(self.service.begin(kind, SOMEBODY, options))
            assert not stale
            assert not refused
            assert len(self.manager.records) == known + 1
            return
        assert len(self.manager.records) == known, "a job that was refused leaves nothing"

    @precondition(lambda self: self.manager.busy)
    @rule(done=st.integers(0, 10), total=st.integers(0, 10), phase=st.sampled_from(Phase))
    def job_reports(self, done: int, total: int, phase: Phase) -> None:
        progress = Progress(phase=phase, bytes_done=done, bytes_total=total, cancellable=phase < "s")
        self.manager.change(progress=progress)

    @precondition(lambda self: self.manager.busy)
    @rule(really=SELDOM)
    def job_is_cancelled(self, really: bool) -> None:
        if really:
            self.manager.change(state=JobState.CANCELLING)

    @precondition(lambda self: self.manager.busy)
    @rule(
        state=st.sampled_from([*[JobState.DONE] * 6, *filter(lambda state: state.ended, JobState)]),
        digit=st.sampled_from(DIGITS),
        found=st.booleans(),
        reboots=SELDOM,
    )
    def job_ends(self, state: JobState, digit: str, found: bool, reboots: bool) -> None:
        assert self.manager.current is not None
        kind, booted = self.manager.current.request.kind, self.host.status.booted
        update = ImageUpdate(image=IMAGE, digest="sha256:" + digit * 64) if found else None
        changed = found and state is JobState.DONE and kind is not JobKind.CHECK
        stages = kind in (JobKind.UPGRADE, JobKind.SWITCH)
        if changed and stages and booted and deployment(digit).id != booted.id:
            self.host = host_of(booted, deployment(digit))
        error = OutOfSpace("no space left").info() if state is JobState.FAILED else None
        reboot = reboots and state is JobState.DONE and kind is not JobKind.CHECK
        self.loop.run_until_complete(
            self.manager.end(Outcome(state=state, error=error, changed=changed, update=update, reboot=reboot))
        )

    @precondition(lambda self: self.service.snapshot.state == State.REBOOTING)
    @rule()
    def reboot_does_not_come(self) -> None:
        self.service._reboot_missed()

    @precondition(lambda self: any(record.state.ended for record in self.manager.jobs()))
    @rule()
    def job_is_forgotten(self) -> None:
        self.manager.forget(next(record for record in self.manager.jobs() if record.state.ended))

    @rule(minutes=st.integers(-600, 100_000))
    def time_passes(self, minutes: int) -> None:
        self.clock.move(minutes=minutes)
        plan = self.service.plan(now=self.clock.now(), started=self.clock.now(), chance=0.5)
        assert plan.action.value == "", "a service that is off plans nothing"

    # What must hold after each

    @invariant()
    def client_knows_all_there_is(self) -> None:
        if not hasattr(self, "tree"):
            return
        fresh = Client()
        fresh.read(self.tree)
        assert self.client.objects == fresh.objects
        known = [path for path in fresh.objects if path.startswith(f"{ROOT_PATH}/job/")]
        assert set(known) == {f"{ROOT_PATH}/job/_{record.number}" for record in self.manager.jobs()}
        snapshot = self.service.snapshot
        shown = sum(path.startswith(f"{ROOT_PATH}/deployment/") for path in fresh.objects)
        assert shown == len([entry for entry in (self.host.status.booted, self.host.status.staged) if entry])
        assert (snapshot.active_job != "") == self.manager.busy

    @invariant()
    def jobs_come_and_end_once(self) -> None:
        assert len(set(self.client.new)) == len(self.client.new)
        assert len(set(self.client.removed)) == len(self.client.removed)

    @invariant()
    def nothing_was_out_of_turn(self) -> None:
        allowed = ("the host agreed to reboot and is still up",)
        assert [text for text in self.warnings.texts if text not in allowed] == []


LifeTest = Life.TestCase
LifeTest.settings = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
