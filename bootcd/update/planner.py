"""What the service does by itself, and when: check for an update, stage it, apply it, or nothing. No I/O.

A plan is made anew from the facts at every event; it is never stored. It always says why, so that
"why is nothing happening" has an answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum

from pydantic import AwareDatetime, NonNegativeInt

from bootcd.model.errors import error_from_info
from bootcd.model.health import HealthRecord
from bootcd.model.host import BootEntry, Host
from bootcd.model.job import ImageUpdate, JobKind, JobRecord, JobState
from bootcd.policy.schedule import due_after, next_check, retry_delay
from bootcd.policy.window import Window, next_opening
from bootcd.update.gates import Gate
from bootcd.update.inhibit import APPLYING, CHECKING, STAGING, Inhibitor, holding
from bootcd.update.machine import WORKING, Situation, State, digest_of

GIVE_UP_AFTER = 3
"Failures of one digest that trying again cannot mend; each may have cost a whole download."

_TRIED = (JobState.DONE, JobState.FAILED, JobState.INTERRUPTED)

DIGESTS_REMEMBERED = 8
"Mirrors that disagree make a tag flap between a few digests; more than this is no pattern."


class Mode(StrEnum):
    """What may be done without being asked."""

    OFF = "off"
    CHECK = "check"
    STAGE = "stage"
    APPLY = "apply"


class Action(StrEnum):
    NOTHING = ""
    CHECK = "check"
    STAGE = "stage"
    APPLY = "apply"


@dataclass(frozen=True, slots=True)
class Rules:
    """The part of the configuration that plans depend on."""

    mode: Mode
    interval: timedelta
    jitter: timedelta
    windows: tuple[Window, ...] = ()
    "In which an update may be applied; at any time if there are none."
    zone: tzinfo = UTC
    "Of the windows."


@dataclass(frozen=True, slots=True)
class StageFailures:
    """What became of trying to stage one digest."""

    digest: str
    last: AwareDatetime
    count: NonNegativeInt = 0
    "Failures in a row."
    lasting: NonNegativeInt = 0
    "Those among them that are not `retryable`."


@dataclass(frozen=True, slots=True)
class AppliedDeployment:
    """What became of rebooting into one deployment; one that is booted counts no more."""

    name: str
    "By `name_of`: of a version that is staged with other kernel arguments there are several."
    last: AwareDatetime
    count: NonNegativeInt = 0
    "Reboots that were asked for in vain."
    refusal: str = ""
    "Why the last one was not asked for: of a hook, of the fleet lock."


@dataclass(frozen=True, slots=True)
class Attempts:
    """What is remembered of earlier jobs, by whomever they were asked for; kept across restarts."""

    last_check: AwareDatetime | None = None
    "End of the last job that asked the registry for the newest version, whatever its result."
    check_failures: NonNegativeInt = 0
    "In a row."
    stage_cancelled: AwareDatetime | None = None
    stage_failures: tuple[StageFailures, ...] = ()
    "Newest last, one per digest, at most `DIGESTS_REMEMBERED`."
    applied: AppliedDeployment | None = None
    "What the host was last asked to reboot into."

    def failures_of(self, digest: str) -> StageFailures | None:
        return next((entry for entry in self.stage_failures if entry.digest == digest), None)

    def after(self, record: JobRecord, *, digest: str) -> Attempts:
        """Return what is remembered once the job of `record` has ended.

        `digest` is of the update that was available when the job started, empty if none
        was known; for `apply` it is the name of what was staged.
        """
        if record.request.from_downloaded:
            return self  # the registry was not asked
        ended = record.finished or record.created
        match record.request.kind:
            case JobKind.CHECK:
                return self._after_check(record.state, ended)
            case JobKind.UPGRADE:
                return self._after_upgrade(record, digest, ended)
            case JobKind.APPLY if digest and record.state in _TRIED:
                known = self.applied if self.applied and self.applied.name == digest else None
                count, refusal = known.count if known else 0, _refusal(record)
                applied = AppliedDeployment(digest, ended, count if refusal else count + 1, refusal)
                return replace(self, applied=applied)
            case JobKind.SWITCH if record.state is JobState.DONE:
                return Attempts(last_check=ended)
            case _:
                return self

    def _after_check(self, state: JobState, ended: datetime) -> Attempts:
        match state:
            case JobState.DONE:
                return replace(self, last_check=ended, check_failures=0)
            case JobState.FAILED | JobState.INTERRUPTED:
                return replace(self, last_check=ended, check_failures=self.check_failures + 1)
            case JobState.CANCELLED:
                # Who cancels does not want it back at once, as after a failure.
                return replace(self, last_check=ended, check_failures=0)
            case JobState.RUNNING | JobState.CANCELLING:
                return self

    def _after_upgrade(self, record: JobRecord, digest: str, ended: datetime) -> Attempts:
        match record.state:
            case JobState.DONE:
                return Attempts(last_check=ended, applied=self.applied)
            case JobState.CANCELLED:
                return replace(self, stage_cancelled=ended)
            # Who names a digest learns whether there still is that one; it is nothing against the version.
            case JobState.FAILED | JobState.INTERRUPTED if digest and not record.request.expect_digest:
                error = record.outcome.error if record.outcome else None
                lasting = error is not None and not error_from_info(error).retryable
                entry = self.failures_of(digest) or StageFailures(digest, ended)
                entry = replace(entry, last=ended, count=entry.count + 1, lasting=entry.lasting + lasting)
                others = tuple(other for other in self.stage_failures if other.digest != digest)
                return replace(self, stage_failures=(*others, entry)[-DIGESTS_REMEMBERED:])
            case _:
                return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a plan depends on beside the state and the rules."""

    now: datetime
    started: datetime
    "When the service came up."
    chance: float
    "In [0, 1), drawn at start and again after every check."
    job_active: bool
    host: Host
    attempts: Attempts = Attempts()
    health: HealthRecord = field(default_factory=HealthRecord)
    inhibitors: tuple[Inhibitor, ...] = ()
    "Those that are in force."


@dataclass(frozen=True, slots=True)
class Plan:
    action: Action
    reason: str
    not_before: datetime | None = None
    "When to act, at once if past; None if nothing is planned until something happens."
    gates: tuple[Gate, ...] = ()
    "What holds up the staged update."

    def is_due(self, now: datetime) -> bool:
        return self.not_before is not None and self.not_before <= now


def plan(situation: Situation, facts: Facts, rules: Rules) -> Plan:
    """Decide what to do next; of what is due applying comes first, then staging."""
    if hindrance := _hindrance(situation, facts, rules):
        return Plan(Action.NOTHING, hindrance)
    attempts = facts.attempts
    check_at = next_check(
        attempts.last_check,
        started=facts.started,
        interval=rules.interval,
        jitter=rules.jitter,
        chance=facts.chance,
        failures=attempts.check_failures,
        now=facts.now,
    )
    reason = _check_reason(attempts)
    apply, gates = _plan_apply(facts, rules) if rules.mode is Mode.APPLY else (None, ())
    if apply and apply.is_due(facts.now):
        return apply
    stages = rules.mode in (Mode.STAGE, Mode.APPLY)
    if stages and situation.available:
        if withheld := _withheld(situation, situation.available, facts):
            reason = f"{reason}; the available update is not staged: {withheld}"
        else:
            stage = _plan_stage(situation.available, facts, rules)
            stage = replace(stage, gates=gates)
            if stage.is_due(facts.now) or (stage.not_before and stage.not_before <= _first(check_at, apply)):
                return stage
    inhibitor = holding(facts.inhibitors, CHECKING, facts.now)
    if apply and apply.not_before and (inhibitor or apply.not_before <= check_at):
        return apply
    if inhibitor:
        return Plan(Action.NOTHING, inhibitor.sentence, gates=gates)
    for gate in gates:
        reason = f"{reason}; the staged update is not applied: {gate.reason}"
    return Plan(Action.CHECK, reason, check_at, gates)


def _hindrance(situation: Situation, facts: Facts, rules: Rules) -> str:
    """Say why there is no background work at all; empty if there may be some."""
    if rules.mode is Mode.OFF:
        return "background work is switched off"
    if situation.state is State.UNMANAGED:
        return "the host was not booted from an image deployment"
    if situation.state is State.UNKNOWN:
        return "the host has not been looked at yet"
    if situation.state is State.REBOOTING:
        return "the host is about to reboot"
    if facts.job_active or situation.state in WORKING:
        return "a job is at work"
    booted = facts.host.status.booted
    if booted and booted.incompatible:
        return "the host has local modifications, which an image update would lose"
    if facts.host.spec.image is None:
        return "the host tracks no image"
    return ""


def _check_reason(attempts: Attempts) -> str:
    if attempts.check_failures > 1:
        return f"the last {attempts.check_failures} checks failed"
    if attempts.check_failures:
        return "the last check failed"
    return "regular check" if attempts.last_check else "first check"


def _withheld(situation: Situation, update: ImageUpdate, facts: Facts) -> str:
    """Say why `update` must not be staged unasked; empty if it may be."""
    if situation.state is State.ROLLBACK_QUEUED:
        return "a rollback is queued"
    status = facts.host.status
    if status.read_only:
        return "the host's storage is read-only"
    if status.staged and status.staged.download_only:
        return "what is staged is locked, and staging would replace it by something unlocked"
    if inhibitor := holding(facts.inhibitors, STAGING, facts.now):
        return inhibitor.sentence
    left = {digest_of(entry) for entry in (status.rollback, *status.other_deployments) if entry}
    if failure := facts.health.failure_of(update.digest):
        return "; ".join(("this version booted badly here", *failure.reasons[:1]))
    if update.digest in left and update.digest not in facts.health.cleared:
        return "the host has run this version before and left it"
    failures = facts.attempts.failures_of(update.digest)
    if failures and failures.lasting >= GIVE_UP_AFTER:
        return f"staging this version failed {failures.count} times"
    return ""


def _plan_stage(update: ImageUpdate, facts: Facts, rules: Rules) -> Plan:
    at, reason = facts.now, "an update is available"
    if failures := facts.attempts.failures_of(update.digest):
        at = due_after(failures.last, retry_delay(rules.interval, failures.count), facts.now)
        times = "once" if failures.count == 1 else f"{failures.count} times"
        reason = f"an update is available, and staging it failed {times}"
    if cancelled := facts.attempts.stage_cancelled:
        resume = due_after(cancelled, rules.interval, facts.now)
        if resume > max(at, facts.now):
            at, reason = resume, "an update is available, and staging was cancelled"
    return Plan(Action.STAGE, reason, at)


def name_of(entry: BootEntry) -> str:
    """Return what attempts to apply a deployment are counted by."""
    return entry.id or digest_of(entry)


def _plan_apply(facts: Facts, rules: Rules) -> tuple[Plan | None, tuple[Gate, ...]]:
    """Return when what is staged is to be applied, None if not until something happens, and the gates."""
    staged = facts.host.status.staged
    if staged is None or staged.download_only:
        return None, ()
    if inhibitor := holding(facts.inhibitors, APPLYING, facts.now):
        return None, (Gate("inhibitor", inhibitor.sentence, inhibitor.not_after),)
    if facts.health.failure_of(digest_of(staged)):
        return None, (Gate("health", "this version booted badly here"),)
    at = facts.now
    tried = facts.attempts.applied
    if tried and tried.name == name_of(staged):
        if tried.count >= GIVE_UP_AFTER:
            reason = f"the host was asked to reboot {tried.count} times, and did not start it"
            return None, (Gate("attempts", reason),)
        at = max(at, due_after(tried.last, retry_delay(rules.interval, max(1, tried.count)), facts.now))
        if tried.refusal and at > facts.now and not rules.windows:
            return _apply_after(Gate("refusal", tried.refusal, at))
    if not rules.windows:
        return Plan(Action.APPLY, "an update is staged", at), ()
    opening = next_opening(rules.windows, rules.zone, at)
    if opening is None:
        return None, ()
    if opening.contains(facts.now) and at <= facts.now:
        return Plan(Action.APPLY, "an update is staged, and a maintenance window is open", at), ()
    if opening.opens <= facts.now:
        if tried and tried.refusal:
            return _apply_after(Gate("refusal", tried.refusal, at))
        return Plan(Action.APPLY, "an update is staged, and the host did not reboot into it before", at), ()
    at = max(at, opening.opens)
    local = at.astimezone(rules.zone)
    return _apply_after(Gate("window", f"the next maintenance window opens {local:%a %Y-%m-%d %H:%M %Z}", at))


def _apply_after(gate: Gate) -> tuple[Plan, tuple[Gate, ...]]:
    return Plan(Action.APPLY, f"an update is staged; {gate.reason}", gate.ends, (gate,)), (gate,)


def _refusal(record: JobRecord) -> str:
    """Return why a job ended before the reboot though trying again may help; empty if it did not so."""
    error = record.outcome.error if record.outcome else None
    if record.state is not JobState.FAILED or error is None or not error_from_info(error).retryable:
        return ""
    return error.message


def _first(check_at: datetime, apply: Plan | None) -> datetime:
    return min(check_at, apply.not_before) if apply and apply.not_before else check_at
