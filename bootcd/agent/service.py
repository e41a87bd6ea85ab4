"""The service, free of any transport: verbs in, jobs and snapshots out.

Everything that happens goes through here and ends in a new `Snapshot`: a look at the host, a step of a
job, new settings, a new plan. The state machine decides what is legal; the truth about the host is
only ever what the last look at it showed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

from bootcd.agent.appointments import Appointments
from bootcd.agent.courtesy import Courtesy
from bootcd.agent.driving import Driving
from bootcd.agent.errand import Comparisons
from bootcd.agent.health import HealthFile, clear_failures, history_entry
from bootcd.agent.inhibition import Inhibition
from bootcd.agent.inspection import HostWatcher
from bootcd.agent.interface import Outside
from bootcd.agent.memory import JobAtWork, Memory, load_memory
from bootcd.agent.pausing import Pausing
from bootcd.agent.publication import Publication, render_service
from bootcd.agent.snapshot import Change, JobAdded, JobChanged, NextAction, Snapshot, SnapshotChanged
from bootcd.host import journal
from bootcd.host.clock import Clock
from bootcd.jobs.events import JobEvent
from bootcd.jobs.manager import JobManager
from bootcd.model.errors import (
    BootcdError,
    Busy,
    InvalidArguments,
    InvalidConfig,
    StaleGeneration,
    WrongState,
)
from bootcd.model.health import FailureState, HealthRecord
from bootcd.model.host import Host, HostState
from bootcd.model.job import (
    ImageUpdate,
    JobKind,
    JobOptions,
    JobRecord,
    JobRequest,
    JobState,
    Outcome,
    Requester,
    WorkerSettings,
)
from bootcd.model.report import HostReport
from bootcd.oci.reference import parse_reference
from bootcd.ostreefmt.origin import REGISTRY, TrackedImage
from bootcd.update import machine
from bootcd.update.appointment import Appointment, make_appointment
from bootcd.update.attempts import name_of
from bootcd.update.facts import Action, Facts, Rules
from bootcd.update.gates import Gate
from bootcd.update.inhibit import Wish, require_uninhibited
from bootcd.update.machine import Event, IllegalTransition, Situation, advance, digest_of, observe
from bootcd.update.pause import Pause, begin_pause
from bootcd.update.planner import Plan, plan
from bootcd.update.surroundings import Surroundings

log = logging.getLogger(__name__)

REBOOT_SECS = 600.0
"After which a host that agreed to reboot and is still up counts as not rebooting; shutdowns have 90 s."
_FORESIGHT = timedelta(days=3653)
_AGENT = Requester(name="agent")
_NO_OPTIONS = JobOptions()
_KINDS = {Action.CHECK: JobKind.CHECK, Action.STAGE: JobKind.UPGRADE, Action.APPLY: JobKind.APPLY}


@dataclass(frozen=True, slots=True)
class Settings:
    """The part of the configuration the service works by."""

    rules: Rules
    worker: WorkerSettings


class Service:
    """All a front end sees.

    `load` reads the settings anew and `inspect` looks at the system root it is given; both may raise
    BootcdError, and `load` blocks. `identity` is the machine's, for rollouts, `boot_id` that of this boot,
    and `health` runs bootcd-health. Files go to the directories `state` and `runtime`.
    """

    def __init__(
        self,
        *,
        manager: JobManager,
        settings: Settings,
        load: Callable[[], Settings],
        inspect: Callable[[str], Awaitable[HostReport]],
        comparisons: Comparisons,
        state: Path,
        runtime: Path,
        clock: Clock,
        version: str,
        backend: str = "ostree",
        identity: bytes = b"",
        boot_id: str = "",
        health: Sequence[str] = (),
    ) -> None:
        self._manager = manager
        self._settings = settings
        self._load = load
        self._memory_path = state / "agent.json"
        self._runtime = runtime
        self._clock = clock
        self._identity = identity
        self._boot_id = boot_id
        self._health_command = tuple(health)
        self._state = state
        self._comparisons = comparisons
        self._publication = Publication()
        self._watcher = HostWatcher(inspect, settings.worker.sysroot, self._on_host)
        self._health_file = HealthFile(state / "health.json", self._on_health)
        self._health = HealthRecord()
        self._inhibition = Inhibition(runtime / "inhibitors", clock, self._refresh)
        self._driving = Driving(runtime / "driver.d", self._refresh)
        self._appointments = Appointments(clock, self._begin_appointed, self._appointment_over)
        self._pausing = Pausing(clock, self._pause_ended)
        self._observers: list[Callable[[Change], None]] = []
        self._memory = Memory()
        self._situation = Situation()
        self._running: JobRecord | None = None
        self._next_action = NextAction()
        self._started, self._chance = clock.now(), 0.0
        "As of the last plan."
        self._gates: tuple[Gate, ...] = ()
        self._snapshot = Snapshot(
            version=version, backend=backend, state=self._situation.state.value, state_since=clock.now()
        )
        self._outside: Outside | None = None
        self._courtesy = Courtesy(clock, self._on_called_off)
        self._reboot: asyncio.TimerHandle | None = None
        self._watching = False
        "Jobs that were at work before this service have been taken up."
        self._publishing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take up earlier jobs and begin to look at the host, without waiting for what is there."""
        self._memory = await asyncio.to_thread(load_memory, self._memory_path)
        self._situation = Situation(image=self._memory.image, available=self._memory.available)
        self._pausing.keep(self._memory.pause)
        await self._inhibition.start()
        await self._driving.start()
        await self._manager.start(on_event=self._on_job, settle=self._settle)
        self._watching = True
        await self._health_file.start()
        # Now that jobs can be started: its time may have come.
        if (made := self._memory.appointment) and made.boot_id != self._boot_id:
            self._remember(appointment=None)
        self._appointments.make(self._memory.appointment)
        self._refresh()
        self._publishing = asyncio.get_running_loop().create_task(self._publication.run())
        self._watcher.start()

    async def stop(self) -> None:
        """Stop everything but the workers, which go on."""
        await self._watcher.stop()
        self._health_file.stop()
        await self._inhibition.stop()
        await self._courtesy.stop()
        await self._appointments.stop()
        await self._driving.stop()
        self._pausing.stop()
        if self._reboot is not None:
            self._reboot.cancel()
        await self._manager.stop()
        self._publication.close()
        if self._publishing is not None:
            await self._publishing

    # What a front end sees

    @property
    def snapshot(self) -> Snapshot:
        return self._snapshot

    def jobs(self) -> tuple[JobRecord, ...]:
        """Running and lingering ones, by number."""
        return self._manager.jobs()

    def subscribe(self, observer: Callable[[Change], None]) -> Callable[[], None]:
        """Call `observer` on the loop with every change from now on; returns what ends it."""
        self._observers.append(observer)
        return lambda: self._observers.remove(observer) if observer in self._observers else None

    async def begin(
        self, kind: JobKind, requester: Requester, options: JobOptions = _NO_OPTIONS
    ) -> JobRecord:
        """Start a job and return it once its worker has accepted it.

        Raises what makes it impossible, at once. A call made again with its `job_uuid` gets the same job.
        """
        if kind is JobKind.SWITCH:
            options = options.model_copy(update=_target(options))
        uuid = options.job_uuid or str(uuid4())
        request = JobRequest(uuid=uuid, kind=kind, settings=self._settings.worker, **options.model_dump())
        # First: to what such a call has done already, the host's state has nothing to say.
        if options.job_uuid and (record := await self._manager.retried(request, requester)):
            return record
        self._require_generation(options.expect_generation)
        if not options.ignore_inhibitors:
            require_uninhibited(self._inhibition.held, kind, options, self._clock.now())
        if not self._manager.busy:
            advance(self._situation, machine.JobStarted(kind))  # for what it raises
        return await self._manager.create(request, requester)

    def _require_generation(self, expected: int | None) -> None:
        actual = self._memory.generation
        if expected is not None and expected != actual:
            raise StaleGeneration(
                f"what is deployed is of generation {actual}, not {expected}",
                hint="look at the status again, and decide anew",
                expected=expected,
                actual=actual,
            )

    async def cancel(self, uuid: str) -> None:
        await self._manager.cancel(uuid)

    async def wait(self, uuid: str) -> JobRecord:
        """Return an ended job; by then the snapshot shows what it did."""
        return await self._manager.wait(uuid)

    async def log(self, uuid: str) -> bytes:
        """Return what the worker of a job has printed, its end if that is long."""
        return await self._manager.log(uuid)

    async def history(self, limit: int) -> list[JobRecord]:
        return await self._manager.history(limit)

    def checked_within(self, age: timedelta) -> bool:
        """Tell whether the registry answered no longer ago than this."""
        last, snapshot = self._snapshot.last_check, self._snapshot
        answered = snapshot.last_check_result in ("available", "up-to-date")
        return answered and last is not None and timedelta(0) <= self._clock.now() - last <= age

    def notes(self) -> str:
        """Return the release notes of the update that is available or staged, empty if there are none."""
        status, available = self._snapshot.host.status, self._snapshot.available
        shown = {available.digest if available else "", digest_of(status.staged) if status.staged else ""}
        return self._memory.notes if self._memory.notes_digest in shown else ""

    async def diff(self, before: str, after: str) -> bytes:
        """Compare two deployments, named by `BootEntry.id`; see `Comparisons`."""
        return await self._comparisons.deployments(self._settings.worker.sysroot, before, after)

    async def config_diff(self) -> bytes:
        """Compare the host's /etc with that of its image; see `Comparisons`."""
        return await self._comparisons.config(self._settings.worker.sysroot)

    async def inhibit(self, wish: Wish) -> int:
        """Return a descriptor that holds up what is wished, until all copies of it are closed.

        Raises InvalidArguments and LimitsExceeded.
        """
        return await self._inhibition.take(wish)

    async def pause(self, until: datetime | None, requester: Requester) -> None:
        """Do nothing unasked until a time, or until `resume`; once this returns that outlives the service.

        Raises InvalidArguments, and BackendFailed if it cannot be written down.
        """
        pause = begin_pause(self._clock.now(), until, requester.uid)
        log.info("updates are paused until %s by user %d", until or "they are resumed", requester.uid)
        await self._keep_pause(pause)

    async def resume(self, requester: Requester) -> None:
        """End the pause, if there is one. Raises BackendFailed."""
        if self._pausing.kept is not None:
            log.info("updates are resumed by user %d", requester.uid)
            await self._keep_pause(None)

    async def _keep_pause(self, pause: Pause | None) -> None:
        self._pausing.keep(pause)
        self._remember(pause=pause)
        self._refresh()
        await self._publication.written(self._memory_path)

    def _pause_ended(self) -> None:
        if self._pausing.current() is None:
            self._pausing.keep(None)
            self._remember(pause=None)
        self._refresh()

    async def schedule_apply(self, when: datetime, requester: Requester, options: JobOptions) -> None:
        """Apply at a time what is staged or queued then; once this returns that outlives the service.

        Raises InvalidArguments, WrongState if there is nothing to apply, and BackendFailed.
        """
        made = make_appointment(self._clock.now(), when, requester, options, self._boot_id)
        if not self._manager.busy:
            advance(self._situation, machine.JobStarted(JobKind.APPLY))  # for what it raises
        log.info("a reboot at %s was asked for by user %d", when, requester.uid)
        await self._keep_appointment(made)

    async def cancel_apply(self, requester: Requester) -> None:
        """Drop the appointment, if there is one. Raises BackendFailed."""
        if self._appointments.made is not None:
            log.info("the reboot that was asked for is called off by user %d", requester.uid)
            await self._keep_appointment(None)

    async def _keep_appointment(self, made: Appointment | None) -> None:
        self._appointments.make(made)
        self._appointment_over()
        await self._publication.written(self._memory_path)

    def _appointment_over(self) -> None:
        self._remember(appointment=self._appointments.made)
        self._refresh()

    def _on_called_off(self) -> None:
        made = self._appointments.made
        if made is not None and made.when == self._courtesy.off:
            self._appointments.make(None)
            self._remember(appointment=None)
        self._refresh()

    async def _begin_appointed(self, made: Appointment) -> None:
        if await self._courtesy.called_off(made.when):
            raise WrongState("somebody who is logged in has called it off")
        await self.begin(JobKind.APPLY, made.requester, made.options)

    async def clear_failures(self, digest: str) -> tuple[str, ...]:
        """Let versions that booted badly be taken again, all or one; return their digests.

        Raises InvalidArguments and BackendFailed.
        """
        cleared = await clear_failures(self._health_command, self._state, self._runtime, digest)
        await self._health_file.look()
        return cleared

    async def reload(self) -> None:
        """Read the settings again and look at the host again. Raises InvalidConfig, old settings kept."""
        try:
            settings = await asyncio.to_thread(self._load)
        except InvalidConfig as error:
            log.warning(
                "%s; the old configuration stays in force",
                error.message,
                extra=journal.fields(journal.Event.CONFIG_ERROR, path=error.fields.get("path", "")),
            )
            raise
        self._settings = settings
        self._watch_surroundings()
        self._watcher.move(settings.worker.sysroot)
        self._refresh()
        await self._watcher.look()

    async def host_ready(self) -> None:
        """Return once the host was looked at. Raises what went wrong if that failed."""
        await self._watcher.ready()

    # The surroundings

    def attach(self, outside: Outside) -> None:
        """Follow by it what surrounds the host, as far as the settings need that, and tell people."""
        self._outside = outside
        self._courtesy.by(outside)
        self._watch_surroundings()

    def _watch_surroundings(self) -> None:
        if self._outside is not None:
            self._outside.watch(self._settings.rules.sources, self._on_surroundings)

    def _on_surroundings(self, surroundings: Surroundings) -> None:
        self._refresh(surroundings=surroundings)

    # What the background loop uses

    def plan(self, *, now: datetime, started: datetime, chance: float) -> Plan:
        """Decide what to do unasked; arguments as in `bootcd.update.facts.Facts`."""
        if self._memory.seen and self._memory.seen > now:
            self._remember(seen=now)  # it was seen by a clock that was ahead
        self._started, self._chance = started, chance
        return plan(self._situation, self._facts(now), self._settings.rules)

    def simulate(self, at: datetime | None, surroundings: Mapping[str, bool | int]) -> Plan:
        """Decide what would be done unasked at a time, None for now, were the surroundings like this.

        By the same plan as what is done; all else is taken to be as it is now. Raises InvalidArguments.
        """
        now = self._clock.now()
        if at is not None and abs(at - now) > _FORESIGHT:
            raise InvalidArguments(f"{at:%Y-%m-%d} is too far from now, ten years at most can be told")
        facts = self._facts(at or now)
        facts = replace(facts, surroundings=replace(facts.surroundings, **surroundings))  # type: ignore[arg-type]
        return plan(self._situation, facts, self._settings.rules)

    def _facts(self, now: datetime) -> Facts:
        return Facts(
            now=now,
            started=self._started,
            chance=self._chance,
            job_active=self._running is not None,
            host=self._snapshot.host,
            attempts=self._memory.attempts,
            health=self._health,
            inhibitors=self._inhibition.held,
            identity=self._identity,
            first_seen=self._memory.seen,
            surroundings=self._snapshot.surroundings,
            courtesy_until=self._courtesy.until,
            called_off_until=self._courtesy.off_until,
            appointment=self._appointments.made,
            drivers=self._driving.drivers,
            pause=self._pausing.current(),
        )

    def announce(
        self, action: NextAction, gates: tuple[Gate, ...] = (), notice: datetime | None = None
    ) -> None:
        """Show what will be done unasked, and when, and what holds it up; `notice` as in `Plan`."""
        made = self._appointments.made
        self._courtesy.follow(made.when if made else notice)
        self._next_action = action
        self._gates = tuple(gate for gate in gates if gate.name != "inhibitor")
        self._refresh()

    async def perform(self, action: Action) -> JobRecord | None:
        """Start what was planned and return the job once it is accepted.

        A refusal counts like a job that failed, so that it is tried again later and not at once; then
        the result is None, as of a reboot that somebody has called off. Raises Busy.
        """
        if action is Action.APPLY and await self._courtesy.called_off():
            return None
        kind = _KINDS[action]
        try:
            return await self.begin(kind, _AGENT, JobOptions(fleet_lock=action is Action.APPLY))
        except Busy:
            raise
        except BootcdError as error:
            log.warning("background %s was refused: %s", kind, error.message)
            self._refused(kind, error)
            return None

    # The host

    def _on_host(self, report: HostReport) -> None:
        host = report.host
        text = host.to_json()
        fingerprint = _fingerprint(host.status)
        if fingerprint != self._memory.fingerprint:
            self._remember(generation=self._memory.generation + 1, fingerprint=fingerprint)
            if self._snapshot.host_json:
                log.info(
                    "what is deployed on the host has changed",
                    extra=journal.fields(journal.Event.HOST_CHANGED, generation=self._memory.generation),
                )
        self._step(observe(host))
        if self._memory.last_check_result == "up-to-date" and self._memory.checked_digest != _next(host):
            # What the host starts next is another version now, of which the last check says nothing.
            self._remember(last_check_result="")
        self._publication.offer(self._runtime / "status.json", text.encode())
        self._refresh(host=host, host_json=text, details=report.deployments, trust=report.trust)

    async def _on_health(self, record: HealthRecord) -> None:
        self._health = record
        for failure in record.failures:
            if failure.state is FailureState.ROLLED_BACK:
                await self._manager.remember(history_entry(failure))
        last = record.last
        self._refresh(
            good=record.good,
            failed=tuple(failure.digest for failure in record.failures),
            failures=tuple(failure.model_copy(update={"journal": ""}) for failure in record.failures),
            boot_health=last if last and last.boot_id == self._boot_id else None,
        )

    async def _settle(self, _: JobRecord) -> None:
        await self._watcher.look()

    # Jobs

    def _on_job(self, event: JobEvent) -> None:
        """Follow a job with the machine, and pass the event on before the snapshot that shows it."""
        match event:
            case JobAdded(record) if not record.state.ended:
                self._running = record
                self._remember_job(record)
                self._step(machine.JobStarted(record.request.kind))
            case JobChanged(record) if record.state.ended:
                self._running = None
                self._job_ended(record)
            case JobChanged():
                self._tell(event)
                return
            case _:
                pass
        self._tell(event)
        self._refresh()

    def _remember_job(self, record: JobRecord) -> None:
        if self._memory.job.uuid == record.request.uuid:
            return  # of an earlier service
        # Of what was at work before this service, and not known to an earlier one, nobody can tell the boot.
        boot_id = self._boot_id if self._watching else ""
        digest = self._digest_of(record.request.kind)
        self._remember(job=JobAtWork(record.request.uuid, digest, boot_id))

    def _job_ended(self, record: JobRecord) -> None:
        outcome = record.outcome or Outcome(state=record.state)
        if record.state is JobState.DONE:
            if record.request.kind is JobKind.CHECK and outcome.update is not None:
                self._found(outcome.update)
                self._remember(notes=outcome.notes, notes_digest=outcome.update.digest)
            elif (
                record.request.kind in (JobKind.CHECK, JobKind.UPGRADE) and not record.request.from_downloaded
            ):
                self._step(machine.UpdateAbsent())
        # One of another boot has had its reboot; a soft one does not begin another.
        ahead = self._memory.job.boot_id == self._boot_id and (self._watching or not outcome.soft_reboot)
        if outcome.reboot and ahead:
            self._step(machine.RebootRequested())
            self._reboot = asyncio.get_running_loop().call_later(REBOOT_SECS, self._reboot_missed)
        self._step(machine.JobEnded())
        self._attempted(record, self._memory.job.digest)

    def _found(self, update: ImageUpdate) -> None:
        known, now = self._situation.available, self._clock.now()
        self._step(machine.UpdateFound(update))
        if update.digest != self._memory.seen_digest or self._memory.seen is None:
            self._remember(seen=now, seen_digest=update.digest)
        if self._situation.available and (known is None or known.digest != update.digest):
            log.info(
                "an update is available: %s %s",
                update.image,
                update.version or update.digest,
                extra=journal.fields(
                    journal.Event.UPDATE_AVAILABLE,
                    image=update.image,
                    digest=update.digest,
                    version=update.version,
                ),
            )

    def _refused(self, kind: JobKind, error: BootcdError) -> None:
        now = self._clock.now()
        request = JobRequest(uuid=str(uuid4()), kind=kind)
        outcome = Outcome(state=JobState.FAILED, error=error.info())
        record = JobRecord(
            number=0,
            request=request,
            requester=_AGENT,
            state=JobState.FAILED,
            created=now,
            finished=now,
            outcome=outcome,
        )
        self._attempted(record, self._digest_of(kind))
        self._refresh()

    def _digest_of(self, kind: JobKind) -> str:
        """Return what a job of this kind is about as attempts name it, empty if it is not known."""
        if kind is JobKind.APPLY:
            staged = self._snapshot.host.status.staged
            return name_of(staged) if staged else ""
        return self._situation.available.digest if self._situation.available else ""

    def _attempted(self, record: JobRecord, digest: str) -> None:
        attempts = self._memory.attempts.after(record, digest=digest)
        asked_registry = attempts is not self._memory.attempts and attempts.last_check == record.finished
        if asked_registry:
            result = self._check_result(record)
            self._remember(last_check_result=result, checked_digest=_next(self._snapshot.host))
        self._remember(attempts=attempts)

    def _check_result(self, record: JobRecord) -> str:
        if record.state is JobState.DONE:
            return "available" if self._situation.available else "up-to-date"
        error = record.outcome.error if record.outcome else None
        return error.name if error else "Cancelled"

    def _reboot_missed(self) -> None:
        if not self._manager.busy:
            log.warning("the host agreed to reboot and is still up")
            self._step(machine.RebootMissed())
            self._refresh()

    # The snapshot

    def _step(self, event: Event) -> None:
        try:
            self._situation = advance(self._situation, event)
        except (BootcdError, IllegalTransition) as error:
            # Two things happened at once, such as a reboot and the start of a job: the next look tells.
            log.warning("an event out of turn, ignoring it: %s", error)
        self._remember(image=self._situation.image, available=self._situation.available)

    def _remember(self, **changes: object) -> None:
        memory = self._memory.model_copy(update=changes)
        if memory != self._memory:
            self._memory = memory
            self._publication.offer(self._memory_path, memory.to_json(), mode=0o600, durable=True)

    def _refresh(self, **changes: object) -> None:
        """Make the snapshot say what is so now, and tell it if it changed."""
        old = self._snapshot
        new = replace(old, **changes)  # type: ignore[arg-type]
        new = replace(
            new,
            state=self._situation.state.value,
            state_since=old.state_since if old.state == self._situation.state else self._clock.now(),
            generation=self._memory.generation,
            active_job=self._running.request.uuid if self._running else "",
            reboot_required=_reboot_required(new.host.status),
            last_check=self._memory.attempts.last_check,
            last_check_result=self._memory.last_check_result,
            available=self._situation.available,
            mode=self._settings.rules.mode.value,
            next_action=self._next_action,
            appointment=self._appointments.made,
            drivers=self._driving.drivers,
            paused=self._pausing.current(),
            inhibitors=self._inhibition.held,
            gates=self._gates,
            reboot_at=self._courtesy.until,
        )
        if new == old:
            return
        self._snapshot = new
        self._publication.offer(self._runtime / "service.json", render_service(new, self._running))
        self._tell(SnapshotChanged(new))

    def _tell(self, change: Change) -> None:
        for observer in [*self._observers]:
            try:
                observer(change)
            except Exception:
                log.exception("an observer failed, proceeding")


def _target(options: JobOptions) -> dict[str, str]:
    """Name an image to switch to as its origin will; raises InvalidImage or Unsupported."""
    # Both words are bootc's for a registry.
    transport = REGISTRY if options.transport == "docker" else options.transport
    name = str(parse_reference(options.image)) if transport == REGISTRY else options.image
    TrackedImage.unverified(transport, name).require_usable()
    return {"image": name, "transport": transport}


def _next(host: Host) -> str:
    """Return the digest of the image the next boot is into, locked or not; empty if it is of none."""
    status = host.status
    entry = status.staged or (status.rollback if status.rollback_queued else status.booted)
    return digest_of(entry) if entry else ""


def _reboot_required(status: HostState) -> bool:
    """Tell whether something other than what is booted comes at the next boot."""
    if status.staged is not None and not status.staged.download_only:
        return True
    return status.rollback_queued


def _fingerprint(status: HostState) -> str:
    """Name what is deployed, in which roles, and what comes at the next boot."""
    entries = (status.booted, status.staged, status.rollback, *status.other_deployments)
    parts = [f"{entry.id},{entry.pinned:d},{entry.download_only:d}" if entry else "-" for entry in entries]
    text = ";".join((*parts, f"{status.rollback_queued:d}"))
    return hashlib.sha256(text.encode()).hexdigest()
