"""One machine and what happens to it: facts made up by chance, handed to the real planner.

Nothing here waits: the machine goes from one event to the next, plans at each as the agent does, sleeps as
long as the agent would, and carries out what was planned. `Oracle` judges what it does.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo
from random import Random
from uuid import UUID
from zoneinfo import ZoneInfo

from bootcd.agent.alarm import LONGEST_SLEEP_SECS
from bootcd.agent.memory import Memory
from bootcd.model.errors import (
    BackendFailed,
    BootcdError,
    FleetLockRefused,
    InvalidLayer,
    RegistryUnavailable,
)
from bootcd.model.health import FailedBoot, HealthRecord
from bootcd.model.host import (
    BootEntry,
    Host,
    HostSpec,
    HostState,
    ImageReferenceStatus,
    ImageStatus,
    OstreeStatus,
)
from bootcd.model.job import ImageUpdate, JobKind, JobRecord, JobRequest, JobState, Outcome, Requester
from bootcd.policy.rollout import Rollout
from bootcd.policy.window import Window, parse_window
from bootcd.update.attempts import name_of
from bootcd.update.courtesy import Told
from bootcd.update.facts import Action, Facts, Mode, Rules
from bootcd.update.inhibit import How, Inhibitor, What
from bootcd.update.machine import (
    WORKING,
    JobEnded,
    JobStarted,
    RebootMissed,
    RebootRequested,
    Situation,
    State,
    UpdateAbsent,
    UpdateFound,
    advance,
    observe,
)
from bootcd.update.pause import Pause, begin_pause
from bootcd.update.planner import plan
from bootcd.update.surroundings import Conditions, OnSessions, ShutdownBlock, Surroundings
from tests.simulate.figures import Figures
from tests.simulate.oracle import Oracle

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
_AGENT, _SOMEBODY = Requester(name="agent"), Requester(uid=1000, name="somebody")
_KINDS = {Action.CHECK: JobKind.CHECK, Action.STAGE: JobKind.UPGRADE, Action.APPLY: JobKind.APPLY}
_TRACKED = ImageReferenceStatus(image="registry.example/os:prod", transport="registry")
_ZONES = (
    *("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana", "Asia/Kathmandu"),
    *("Africa/Cairo", "Pacific/Auckland", "America/Sao_Paulo", "Asia/Beirut", "Africa/Casablanca"),
)
_MANY_PLANS = 20
"More of them at one moment are a loop that never sleeps."


@dataclass(frozen=True)
class Version:
    number: int
    created: datetime | None

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(str(self.number).encode()).hexdigest()}"

    @property
    def update(self) -> ImageUpdate:
        return ImageUpdate(
            image=_TRACKED.image, digest=self.digest, version=f"1.{self.number}", created=self.created
        )

    def entry(self, *, locked: bool = False) -> BootEntry:
        created = self.created.isoformat() if self.created else None
        image = ImageStatus(
            image=_TRACKED,
            version=f"1.{self.number}",
            timestamp=created,
            image_digest=self.digest,
            architecture="amd64",
        )
        checksum = self.digest.removeprefix("sha256:")
        ostree = OstreeStatus(stateroot="default", checksum=checksum, deploy_serial=0)
        return BootEntry(image=image, ostree=ostree, download_only=locked)


@dataclass
class Job:
    record: JobRecord
    digest: str
    "What attempts know it by."


@dataclass
class World:
    random: Random
    figures: Figures
    rules: Rules = field(init=False)
    oracle: Oracle = field(init=False)
    elapsed: float = 0.0
    "Seconds since the machine was made, on a clock that nobody sets."

    def __post_init__(self) -> None:
        self.rules = _rules(self.random)
        self._base = _some_day(self.random, self.rules.zone)
        self._skew = timedelta(0)
        self._events: list[tuple[float, int, Callable[[], bool]]] = []
        self._order = itertools.count()
        self._timer: float | None = None
        self._identity = self.random.randbytes(16)
        self._registry = [Version(0, self._base - timedelta(days=9))]
        self._replayed: Version | None = None
        self._unreachable = False
        self.booted, self.rollback = self._registry[0], None
        self.staged: Version | None = None
        self.locked = self.rollback_queued = False
        self._memory = Memory()
        self._situation = Situation()
        self.health = HealthRecord()
        self.inhibitors: tuple[Inhibitor, ...] = ()
        self.surroundings = Surroundings(people=())
        self._told = Told()
        self._pause: Pause | None = None
        self.job: Job | None = None
        self.up = True
        self._jobs = 0
        self._boots = 0
        self.oracle = Oracle(self)
        self._start_service()
        for mean, happening in (
            (1 * DAY, self._publish),
            (4 * DAY, self._replay),
            (4 * DAY, self._lose_registry),
            (1 * DAY, self._inhibit),
            (4 * HOUR, self._surround),
            (3 * DAY, self._pause_updates),
            (2 * DAY, self._set_clock),
            (1 * DAY, self._suspend),
            (3 * DAY, self._restart),
            (4 * DAY, self._meddle),
            (2 * DAY, self._look),
        ):
            self._recur(mean, happening)
        self._after(0, lambda: True)

    @property
    def busy(self) -> bool:
        """Whether a job is at work, or the host about to reboot."""
        return self.job is not None or self._situation.state is State.REBOOTING

    # Time

    @property
    def now(self) -> datetime:
        """What the clock of the machine shows."""
        return self._base + timedelta(seconds=self.elapsed) + self._skew

    def live(self, minutes: float) -> None:
        end = minutes * MINUTE
        while True:
            due = self._events[0][0]
            if self._timer is not None and self._timer < due:
                due = self._timer
            if due > end:
                break
            if due > self.elapsed:
                self.oracle.passes(due - self.elapsed)
                self.elapsed = due
            if self._timer is not None and self._timer <= due:
                self._timer = None
                self._think()
            elif heapq.heappop(self._events)[2]() and self.up:
                self._think()
        self.figures.minutes += int(minutes)

    def _after(self, secs: float, happening: Callable[[], bool]) -> None:
        """Have something happen; it says whether the agent hears of it."""
        heapq.heappush(self._events, (self.elapsed + secs, next(self._order), happening))

    def _recur(self, mean: float, happening: Callable[[], bool]) -> None:
        def happens() -> bool:
            self._recur(mean, happening)
            return happening()

        self._after(self.random.expovariate(1 / mean), happens)

    # The agent and the service

    @property
    def host(self) -> Host:
        status = HostState(
            booted=self.booted.entry(),
            staged=self.staged.entry(locked=self.locked) if self.staged else None,
            rollback=self.rollback.entry() if self.rollback else None,
            rollback_queued=self.rollback_queued,
        )
        return Host(spec=HostSpec(image=_TRACKED), status=status)

    @property
    def pause(self) -> Pause | None:
        """The one that is in force."""
        if self._pause and self.now < self._pause.since:
            self._pause = self._pause.moved(self.now)
        return None if self._pause is None or self._pause.is_over(self.now) else self._pause

    def _start_service(self) -> None:
        self._memory = Memory.model_validate_json(self._memory.to_json())
        self._situation = Situation(image=self._memory.image, available=self._memory.available)
        self.started, self._chance = self.now, self.random.random()
        self._told = Told()
        if self.job:
            self._situation = advance(self._situation, JobStarted(self.job.record.request.kind))
        self._see()

    def _see(self) -> bool:
        self._host = self.host
        self._situation = advance(self._situation, observe(self._host))
        self._remember(image=self._situation.image, available=self._situation.available)
        return True

    def _remember(self, **changes: object) -> None:
        self._memory = self._memory.model_copy(update=changes)

    def _think(self) -> None:
        for _ in range(_MANY_PLANS):
            if not self.up:
                return
            if self._memory.seen and self._memory.seen > self.now:
                self._remember(seen=self.now)
            facts = Facts(
                now=self.now,
                started=self.started,
                chance=self._chance,
                job_active=self.job is not None,
                host=self._host,
                attempts=self._memory.attempts,
                health=self.health,
                inhibitors=self.inhibitors,
                identity=self._identity,
                first_seen=self._memory.seen,
                surroundings=self.surroundings,
                courtesy_until=self._told.at(self.now),
                pause=self.pause,
            )
            made = plan(self._situation, facts, self.rules)
            self.figures.plans += 1
            before, self._told = self._told, self._told.after(made.notice, self.now)
            if self._told != before:
                self.oracle.told(self._told.until)
            self.oracle.planned()
            if not made.is_due(self.now):
                self._timer = None
                if made.not_before is not None:
                    secs = (made.not_before - self.now).total_seconds()
                    self._timer = self.elapsed + min(secs, LONGEST_SLEEP_SECS)
                return
            self.oracle.acts(made.action, self._situation.available, self._memory.seen, self._identity)
            self._begin(_KINDS[made.action], _AGENT)
            self._chance = self.random.random()
        self.oracle.breach("a loop", "the agent plans and plans, and never sleeps")

    # Jobs

    def _begin(self, kind: JobKind, requester: Requester) -> None:
        """Start a job as the service does; one that cannot be is refused, which counts like a failure."""
        self._jobs += 1
        request = JobRequest(uuid=str(UUID(int=self._jobs)), kind=kind)
        record = JobRecord(number=self._jobs, request=request, requester=requester, created=self.now)
        if kind is JobKind.APPLY:
            digest = name_of(self.staged.entry()) if self.staged else ""
        else:
            digest = self._situation.available.digest if self._situation.available else ""
        self.job = Job(record, digest)
        if self._unreachable and kind is not JobKind.APPLY and self.random.random() < 0.3:
            self._ended(JobState.FAILED, RegistryUnavailable("gone"), refused=True)
            return
        self._situation = advance(self._situation, JobStarted(kind))
        mean = {JobKind.CHECK: 20.0, JobKind.UPGRADE: 20 * MINUTE, JobKind.APPLY: 15.0}[kind]
        uuid = request.uuid
        self._after(self.random.expovariate(1 / mean), lambda: self._finish(uuid))

    def _finish(self, uuid: str) -> bool:
        if self.job is None or self.job.record.request.uuid != uuid or not self.up:
            return False
        kind, chance = self.job.record.request.kind, self.random.random()
        if kind is not JobKind.APPLY and self._unreachable:
            self._ended(JobState.FAILED, RegistryUnavailable("gone"))
        elif chance < 0.05:
            self._ended(JobState.INTERRUPTED)
        elif kind is JobKind.CHECK:
            self._ended(JobState.DONE)
        elif kind is JobKind.UPGRADE:
            if chance < 0.15:
                self._ended(JobState.FAILED, InvalidLayer("broken"))
            else:
                newest = self.newest
                if newest not in (self.booted, self.staged):
                    self.staged, self.locked, self.rollback_queued = newest, False, False
                    self.figures.staged += 1
                self._ended(JobState.DONE)
        elif chance < 0.15:
            self._ended(JobState.FAILED, FleetLockRefused("no slot"))
        elif chance < 0.2:
            self._ended(JobState.FAILED, BackendFailed("broken"))
        else:
            self._ended(JobState.DONE, reboot=True)
        return True

    def _ended(
        self,
        state: JobState,
        error: BootcdError | None = None,
        *,
        reboot: bool = False,
        refused: bool = False,
    ) -> None:
        assert self.job is not None
        job, self.job = self.job, None
        outcome = Outcome(state=state, error=error.info() if error else None, reboot=reboot)
        record = job.record.model_copy(update={"state": state, "finished": self.now, "outcome": outcome})
        kind = record.request.kind
        self._see()
        if state is JobState.DONE and kind in (JobKind.CHECK, JobKind.UPGRADE):
            if kind is JobKind.CHECK and self.newest not in (self.booted, self.staged):
                self._found(self.newest)
            else:
                self._situation = advance(self._situation, UpdateAbsent())
        if reboot:
            self._situation = advance(self._situation, RebootRequested())
            missed = self.random.random() < 0.1
            self._after(*((600.0, self._miss) if missed else (self.random.uniform(1, 90), self._go_down)))
        if not refused:
            self._situation = advance(self._situation, JobEnded())
        self._remember(
            image=self._situation.image,
            available=self._situation.available,
            attempts=self._memory.attempts.after(record, digest=job.digest),
        )
        self.oracle.ended(record, job.digest)

    def _found(self, version: Version) -> None:
        self._situation = advance(self._situation, UpdateFound(version.update))
        if self._memory.seen_digest != version.digest or self._memory.seen is None:
            self._remember(seen=self.now, seen_digest=version.digest)

    def _miss(self) -> bool:
        if self._situation.state is State.REBOOTING and self.up and not self.job:
            self._situation = advance(self._situation, RebootMissed())
        return True

    # Boots

    def _go_down(self) -> bool:
        """Reboot; what was staged, or queued, is booted after a while."""
        if not self.up:
            return False
        if self.job:
            self._ended(JobState.INTERRUPTED)
        self.up, self._timer = False, None
        self.figures.reboots += 1
        self._after(self.random.uniform(30, 600), self._boot)
        return False

    def _boot(self) -> bool:
        new = self.staged if not self.locked else None
        if new:
            self.booted, self.rollback, self.staged = new, self.booted, None
        elif self.rollback_queued and self.rollback:
            self.booted, self.rollback = self.rollback, self.booted
        self.staged, self.locked, self.rollback_queued = None, False, False
        self.up, self.inhibitors = True, ()
        self.surroundings = replace(self.surroundings, people=(), shutdown_blocks=())
        self._boots += 1
        if new and self.rollback and self.random.random() < 0.15:
            self.booted, self.rollback = self.rollback, new
            self.figures.rolled_back += 1
            failure = FailedBoot(uuid=str(UUID(int=self._boots)), digest=new.digest, time=self.now)
            self.health = self.health.with_failure(failure)
        self._start_service()
        return True

    # What happens

    @property
    def newest(self) -> Version:
        """What the registry, or a mirror that is not honest, hands out."""
        return self._replayed or self._registry[-1]

    def _publish(self) -> bool:
        true = self._base + timedelta(seconds=self.elapsed)
        created = self.random.choice((true, true, true, datetime(1970, 1, 1, tzinfo=UTC), None))
        self._registry.append(Version(len(self._registry), created))
        return False

    def _replay(self) -> bool:
        """Have a mirror hand out what it handed out before."""
        self._replayed = self.random.choice(self._registry)

        def over() -> bool:
            self._replayed = None
            return False

        self._after(self.random.expovariate(1 / (12 * HOUR)), over)
        return False

    def _lose_registry(self) -> bool:
        self._unreachable = True

        def found() -> bool:
            self._unreachable = False
            return False

        self._after(self.random.expovariate(1 / (8 * HOUR)), found)
        return False

    def _inhibit(self) -> bool:
        what = tuple(item for item in What if self.random.random() < 0.5) or (What.REBOOT,)
        secs = self.random.expovariate(1 / (4 * HOUR))
        ends = self.now + timedelta(seconds=secs) if self.random.random() < 0.5 else None
        number = next(self._order)
        held = Inhibitor(
            number=number, what=what, who="backup", why="it runs", how=How.BLOCK, uid=0, not_after=ends
        )
        self.inhibitors += (held,)

        def released() -> bool:
            self.inhibitors = tuple(known for known in self.inhibitors if known.number != number)
            return True

        self._after(secs, released)
        return True

    def _surround(self) -> bool:
        """Something changes around the host, or somebody comes or goes."""
        known = self.surroundings
        match self.random.randrange(5):
            case 0 | 1:
                known = replace(known, people=() if known.people else ("ann",))
            case 2:
                known = replace(known, metered=self.random.choice((None, False, True)))
            case 3:
                on_battery, percent = self.random.random() < 0.5, self.random.randrange(101)
                known = replace(known, on_battery=on_battery, battery_percent=percent)
            case _:
                blocks = () if known.shutdown_blocks else (ShutdownBlock("backup", "copying"),)
                known = replace(known, shutdown_blocks=blocks)
        self.surroundings = known
        return True

    def _pause_updates(self) -> bool:
        """Somebody wants to be left alone, until a time or until he says so."""
        secs = self.random.expovariate(1 / (12 * HOUR))
        until = None if self.random.random() < 0.5 else self.now + timedelta(seconds=secs)
        self._pause = begin_pause(self.now, until, 1000)

        def over() -> bool:
            self._pause = None
            return True

        self._after(secs, over)
        return True

    def _set_clock(self) -> bool:
        """Nobody tells the agent. In the end somebody finds that it is wrong."""
        self.figures.clock_jumps += 1
        span = self.random.choice((10, MINUTE, HOUR, DAY, 40 * DAY, 3652 * DAY))
        self._skew = timedelta(seconds=self.random.uniform(-span, span))
        self.oracle.disturbed()

        def right() -> bool:
            self._skew = timedelta(0)
            self.oracle.disturbed()
            return False

        self._after(self.random.expovariate(1 / (6 * HOUR)), right)
        return False

    def _suspend(self) -> bool:
        """Sleep; the timers of the agent stand still meanwhile."""
        self.figures.suspends += 1
        secs = self.random.expovariate(1 / (5 * HOUR))
        self.elapsed += secs
        if self._timer is not None:
            self._timer += secs
        self.oracle.disturbed()
        return False

    def _restart(self) -> bool:
        if self.up and self._situation.state is not State.REBOOTING:
            self.figures.restarts += 1
            self._start_service()
            return True
        return False

    def _look(self) -> bool:
        return self._see() if self.up else False

    def _meddle(self) -> bool:
        """Somebody at the machine does what people do."""
        if not self.up or self._situation.state is State.REBOOTING:
            return False
        deed = self.random.choice(("cancel", "upgrade", "lock", "drop", "rollback", "reboot", "clear"))
        match deed:
            case "cancel" if self.job:
                self._ended(JobState.CANCELLED)
            case "upgrade" if not self.job and self._situation.state not in WORKING:
                self._begin(JobKind.UPGRADE, _SOMEBODY)
            case "lock" if self.staged:
                self.locked = not self.locked
            case "drop":
                self.staged, self.locked = None, False
            case "rollback" if self.rollback and not self.staged:
                self.rollback_queued = not self.rollback_queued
            case "reboot":
                return self._go_down()
            case "clear":
                self.health = self.health.model_copy(update={"failures": ()})
            case _:
                pass
        return self._see()


def _rules(random: Random) -> Rules:
    zone = ZoneInfo(random.choice(_ZONES))
    windows: list[Window] = []
    for _ in range(random.choice((0, 1, 1, 2, 3))):
        days = random.sample(("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"), random.randrange(1, 8))
        start = f"{','.join(days)} {random.randrange(24):02}:{random.choice((0, 0, 15, 30, 59)):02}"
        length = random.choice((1, 5, 30, 60, 240, 1440, 10080))
        windows.append(parse_window(start, timedelta(minutes=length)))
    rollout = Rollout(
        wariness=random.choice((0.0, 0.5, random.random(), 1.0)),
        period=random.choice((None, timedelta(hours=6), timedelta(days=2))),
        minimum_age=random.choice((timedelta(0), timedelta(hours=12))),
    )
    return Rules(
        mode=random.choices((Mode.APPLY, Mode.STAGE, Mode.CHECK, Mode.OFF), (16, 2, 1, 1))[0],
        interval=timedelta(hours=random.choice((1, 6, 24, 72))),
        jitter=timedelta(minutes=random.choice((0, 30, 600))),
        windows=tuple(windows),
        zone=zone,
        rollout=rollout,
        conditions=Conditions(
            metered=random.random() < 0.7,
            sessions=random.choices((OnSessions.WARN, OnSessions.WAIT, OnSessions.IGNORE), (4, 1, 1))[0],
            courtesy=timedelta(minutes=random.choice((1, 10, 60))),
        ),
    )


def _some_day(random: Random, zone: tzinfo) -> datetime:
    """Return a day of some year; often one soon before the clock changes."""
    moment = datetime(random.randrange(2018, 2032), 1, 1, tzinfo=UTC) + timedelta(
        seconds=random.randrange(365 * 86400)
    )
    if random.random() < 0.6:
        for _ in range(366):
            if (moment + timedelta(days=5)).astimezone(zone).utcoffset() != moment.astimezone(
                zone
            ).utcoffset():
                break
            moment += timedelta(days=1)
    return moment
