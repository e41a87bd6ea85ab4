"""One machine: the real service and its agent, over jobs and a host that are made up.

Of the service only the jobs, the host and what is around it are made up; its files are real ones. Nothing
here waits: see `tests.simulate.time`. `Oracle` judges what the machine does.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

from bootcd.agent.agent import Agent
from bootcd.agent.service import Service, Settings
from bootcd.host.files import write_atomic
from bootcd.model.errors import (
    BackendFailed,
    BootcdError,
    FleetLockRefused,
    InvalidLayer,
    RegistryUnavailable,
)
from bootcd.model.health import FailedBoot, HealthRecord
from bootcd.model.host import Host, HostSpec, HostState
from bootcd.model.job import (
    JobKind,
    JobRecord,
    JobState,
    Outcome,
    Requester,
    WorkerSettings,
)
from bootcd.model.report import HostReport
from bootcd.policy.schedule import steady_chance
from bootcd.update.facts import Rules
from bootcd.update.planner import Plan
from tests.simulate.chance import some_day, some_rules
from tests.simulate.figures import Figures
from tests.simulate.oracle import Oracle
from tests.simulate.surroundings import Around
from tests.simulate.time import RunningClock, WaitlessLoop
from tests.simulate.versions import TRACKED, Version
from tests.simulate.works import Works

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
SOMEBODY = Requester(uid=1000, name="somebody")
MISSED_SECS = 600.0
"After which a reboot that was agreed to comes no more."
_MANY_PLANS = 100
"More of them while no time is waited for are a loop that never sleeps."

Happening = Callable[[], Awaitable[None]]


class Machine:
    """`directory` is for the files of the machine; without `rules` it has some."""

    def __init__(self, random: Random, figures: Figures, directory: Path, rules: Rules | None = None) -> None:
        self.random = random
        self.figures = figures
        self.rules = rules or some_rules(random)
        begins = some_day(random, self.rules.zone)
        self.clock = RunningClock(Random(random.random()), begins)
        self._state, self._runtime = directory / "state", directory / "run"
        self._sysroot = directory / "sysroot"
        self._order = itertools.count()
        self.identity = random.randbytes(16)
        self._registry = [Version(0, begins - timedelta(days=9))]
        self._replayed: Version | None = None
        self._unreachable = self._fleet_is_busy = False
        self.booted = self._registry[0]
        self.rollback: Version | None = None
        self.staged: Version | None = None
        self.locked = self.rollback_queued = False
        self.health = HealthRecord()
        self.drivers: set[Path] = set()
        self.settled_at = 0.0
        "When the service knows, at the latest, of what others changed on the host."
        self.rebooting_until = 0.0
        "When a reboot that was agreed to has come, or is known to come no more."
        self.up = True
        self.started: datetime | None = None
        "When the service came up; None as long as there is none."
        self._boots = 0
        self._plans = 0
        self.oracle = Oracle(self)
        self.around = Around(random, self.clock, self._told)
        self.works = Works(self)
        self._service: Service | None = None
        self._agent: asyncio.Task[None] | None = None
        self._deeds: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._ending = asyncio.Event()
        self._over = False

    @property
    def now(self) -> datetime:
        """What the clock of the machine shows."""
        return self.clock.shown

    @property
    def elapsed(self) -> float:
        return self.clock.elapsed

    @property
    def busy(self) -> bool:
        """Whether a job is at work, or the host about to reboot."""
        return self.works.current is not None or self.elapsed < self.rebooting_until

    @property
    def says(self) -> str:
        """What the service shows of its plans."""
        if self._service is None:
            return "nothing"
        shown = self._service.snapshot
        return f"{shown.state}, {shown.next_action}, {[gate.name for gate in shown.gates]}"

    # Its life

    def live(self, minutes: float) -> None:
        with asyncio.Runner(loop_factory=lambda: WaitlessLoop(self.clock, self._passes)) as runner:
            runner.get_loop().set_exception_handler(self._defect)
            runner.run(self._live(minutes * MINUTE))
        self.figures.minutes += min(int(minutes), round(self.elapsed / MINUTE))

    async def _live(self, secs: float) -> None:
        self._state.mkdir()
        (self._sysroot / "ostree/deploy").mkdir(parents=True)
        await self._start_service()
        self.after(self.random.expovariate(1 / MINUTE), self._answer)
        for mean, happening in self.happenings():
            self._recur(mean, happening)
        while self.elapsed < secs and not self._ending.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(secs - self.elapsed):
                    await self._ending.wait()
        self._over = True
        await self._stop_service()
        self.oracle.closes()
        for held in self.oracle.inhibitors:
            held.release()
        for deed in self._deeds:
            deed.cancel()
        await asyncio.gather(*self._deeds, return_exceptions=True)

    def end(self) -> None:
        """Have its life end before its time."""
        self._ending.set()

    def after(self, secs: float, happening: Happening) -> None:
        """Have something happen, one thing after the other."""

        async def happens() -> None:
            async with self._turn:
                if not self._over:
                    await happening()

        loop = asyncio.get_running_loop()
        loop.call_later(secs, lambda: self._begin(happens()))

    def _begin(self, deed: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(deed)
        self._deeds.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._deeds.discard(task)
        if not task.cancelled() and (error := task.exception()):
            raise error

    def _recur(self, mean: float, happening: Happening) -> None:
        async def happens() -> None:
            self._recur(mean, happening)
            await happening()

        self.after(self.random.expovariate(1 / mean), happens)

    def _passes(self, secs: float) -> None:
        if secs > 0:
            self._plans = 0
            self.oracle.passes(secs)

    def _defect(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.oracle.breach("a defect", f"{context.get('message')}: {context.get('exception')!r}")

    def _do(self, deed: Awaitable[object]) -> None:
        """Have somebody do something that may be refused."""

        async def done() -> None:
            with contextlib.suppress(BootcdError):
                await deed

        self._begin(done())

    # The service

    async def _start_service(self) -> None:
        self._runtime.mkdir(exist_ok=True)
        settings = Settings(rules=self.rules, worker=WorkerSettings(sysroot=str(self._sysroot)))
        self._service = _Watched(
            self._thinks,
            manager=self.works,
            settings=settings,
            load=lambda: settings,
            inspect=self._inspect,
            comparisons=None,
            state=self._state,
            runtime=self._runtime,
            clock=self.clock,
            version="0",
            identity=self.identity,
            boot_id=str(self._boots),
        )
        self.rebooting_until = 0.0
        await self._service.start()
        self._service.attach(self.around)
        agent = Agent(self._service, clock=self.clock, chance=steady_chance(self.identity))
        self.started = self.now
        self.settled_at = self.elapsed + MINUTE
        self._agent = asyncio.get_running_loop().create_task(agent.run())

    async def _stop_service(self) -> None:
        service, agent, self._service, self.started = self._service, self._agent, None, None
        if service is None or agent is None:
            return
        self.around.part()
        agent.cancel()
        ended = await asyncio.gather(agent, return_exceptions=True)
        if not isinstance(ended[0], asyncio.CancelledError):
            self.oracle.breach("a defect", f"the agent ended: {ended[0]!r}")
        await service.stop()

    async def _inspect(self, sysroot: str) -> HostReport:
        await asyncio.sleep(self.random.uniform(0.1, 1.5))
        status = HostState(
            booted=self.booted.entry(),
            staged=self.staged.entry(locked=self.locked) if self.staged else None,
            rollback=self.rollback.entry() if self.rollback else None,
            rollback_queued=self.rollback_queued,
        )
        return HostReport(host=Host(spec=HostSpec(image=TRACKED), status=status))

    def _thinks(self, plan: Plan) -> None:
        self.figures.plans += 1
        self._plans += 1
        if self._plans == _MANY_PLANS:
            self.oracle.breach("a loop", "the agent plans and plans, and never sleeps")
            self._plans = 0
        self.oracle.planned()

    def _told(self, when: datetime | None) -> None:
        self.oracle.told(when)
        if when is not None and self.random.random() < 0.2:
            secs = max(0.0, (when - self.now).total_seconds())
            self.after(self.random.uniform(0, secs), self._call_off)

    async def _call_off(self) -> None:
        if self.around.call_off():
            self.figures.called_off += 1
            self.oracle.called_off()

    # Jobs

    def refusal(self, record: JobRecord) -> BootcdError | None:
        """Return what a worker finds before it begins."""
        if record.request.kind is not JobKind.APPLY and self._unreachable and self.random.random() < 0.3:
            return RegistryUnavailable("gone")
        return None

    def duration(self, record: JobRecord) -> float:
        mean = {JobKind.CHECK: 20.0, JobKind.UPGRADE: 20 * MINUTE, JobKind.APPLY: 15.0}[record.request.kind]
        return self.random.expovariate(1 / mean)

    def outcome(self, record: JobRecord) -> Outcome:
        """Have a worker come to its end, with what it did to the host."""
        kind, chance = record.request.kind, self.random.random()
        if kind is not JobKind.APPLY and self._unreachable:
            return _failed(RegistryUnavailable("gone"))
        if chance < 0.05:
            return Outcome(state=JobState.INTERRUPTED)
        newest, taken = self.newest, self.newest in (self.booted, self.staged)
        match kind:
            case JobKind.CHECK:
                return Outcome(state=JobState.DONE, update=None if taken else newest.update)
            case JobKind.UPGRADE if chance < 0.15:
                return _failed(InvalidLayer("broken"))
            case JobKind.UPGRADE:
                if not taken:
                    self.staged, self.locked, self.rollback_queued = newest, False, False
                    self.figures.staged += 1
                    self._touch()
                return Outcome(state=JobState.DONE, changed=not taken, update=newest.update)
            case _ if record.request.fleet_lock and self._fleet_is_busy:
                self.figures.refused += 1
                return _failed(FleetLockRefused("no slot"))
            case _ if chance < 0.15:
                return _failed(BackendFailed("broken"))
            case _:
                self._agree_to_reboot()
                return Outcome(state=JobState.DONE, reboot=True)

    def _agree_to_reboot(self) -> None:
        missed = self.random.random() < 0.1
        secs = MISSED_SECS if missed else self.random.uniform(1, 90)
        self.rebooting_until = self.elapsed + secs + 2
        if not missed:
            self.after(secs, self._go_down)

    # Boots

    async def _go_down(self) -> None:
        """Reboot; what was staged, or queued, is booted after a while."""
        if not self.up:
            return
        self.up = False
        self.figures.reboots += 1
        await self.works.kill()
        await self._stop_service()
        self.oracle.goes_down()
        self.after(self.random.uniform(30, 600), self._boot)

    async def _boot(self) -> None:
        new = self.staged if self.staged and not self.locked and not self.staged.unfinished else None
        if new:
            self.booted, self.rollback = new, self.booted
        elif self.rollback_queued and self.rollback:
            self.booted, self.rollback = self.rollback, self.booted
        self.staged, self.locked, self.rollback_queued = None, False, False
        self.up = True
        self.drivers.clear()
        await asyncio.to_thread(shutil.rmtree, self._runtime)
        self.around.change(people=(), shutdown_blocks=(), boot_undecided=self.random.random() < 0.7)
        self._boots += 1
        if new and self.rollback and new.bad:
            self.booted, self.rollback = self.rollback, new
            self.figures.rolled_back += 1
            failure = FailedBoot(uuid=str(UUID(int=self._boots)), digest=new.digest, time=self.now)
            self._write_health(self.health.with_failure(failure))
        self.oracle.boots()
        await self._start_service()
        self.after(self.random.expovariate(1 / MINUTE), self._answer)
        self.after(self.random.expovariate(1 / (10 * MINUTE)), self._decide)

    async def _answer(self) -> None:
        self.around.answer()

    async def _decide(self) -> None:
        self.around.change(boot_undecided=False)

    def _write_health(self, record: HealthRecord) -> None:
        self.health = record
        write_atomic(self._state / "health.json", record.model_dump_json().encode())
        self.settled_at = self.elapsed + 10

    @property
    def newest(self) -> Version:
        """What the registry, or a mirror that is not honest, hands out."""
        return self._replayed or self._registry[-1]

    def _touch(self) -> None:
        """Show that something on the host has changed."""
        os.utime(self._sysroot / "ostree/deploy")
        self.settled_at = self.elapsed + 10

    def happenings(self) -> tuple[tuple[float, Happening], ...]:
        """Return what befalls it, and how long apart in the mean."""
        raise NotImplementedError


class _Watched(Service):
    """The real one, with somebody who hears of each plan."""

    def __init__(self, thinks: Callable[[Plan], None], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._thinks = thinks

    def plan(self, *, now: datetime, started: datetime, chance: float) -> Plan:
        made = super().plan(now=now, started=started, chance=chance)
        self._thinks(made)
        return made


def _failed(error: BootcdError) -> Outcome:
    return Outcome(state=JobState.FAILED, error=error.info())
