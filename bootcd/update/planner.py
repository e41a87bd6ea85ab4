"""What the service does by itself, and when: check for an update, stage it, apply it, or nothing. No I/O.

A plan is made anew from the facts at every event; it is never stored. It always says why, and names every
gate that is shut, so that "why is nothing happening" has an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from bootcd.policy.schedule import next_check
from bootcd.update.applying import APPLYING, window
from bootcd.update.attempts import Attempts
from bootcd.update.checking import CHECKING
from bootcd.update.facts import Action, Facts, Mode, Rules
from bootcd.update.gates import Check, Gate, S, all_open, longest, merged, shut
from bootcd.update.machine import WORKING, Situation, State
from bootcd.update.outside import courtesy_from, sessions, telling_from
from bootcd.update.staging import STAGING
from bootcd.update.surroundings import OnSessions


@dataclass(frozen=True, slots=True)
class Plan:
    action: Action
    reason: str
    not_before: datetime | None = None
    "When to act, at once if past; None if nothing is planned until something happens."
    gates: tuple[Gate, ...] = ()
    "All that are shut, of whatever there is to do."
    notice: datetime | None = None
    "When the host reboots, if people have to be told now."
    notice_from: datetime | None = None
    "When people will have to be told, if that is before the reboot can come; None if they have been."

    def is_due(self, now: datetime) -> bool:
        return self.not_before is not None and self.not_before <= now


def plan(situation: Situation, facts: Facts, rules: Rules) -> Plan:
    """Decide what to do next; of what is due applying comes first, then staging."""
    if idle := _idle(situation, rules):
        return Plan(Action.NOTHING, idle)
    telling = _telling(facts, rules)
    facts = replace(facts, courtesy_until=_courtesy(facts, rules, telling))
    made = _plan_of_all(situation, facts, rules)
    return replace(made, notice=_notice(made.gates, facts, rules), notice_from=_later(telling, facts.now))


def _plan_of_all(situation: Situation, facts: Facts, rules: Rules) -> Plan:
    considered = _considered(situation, facts, rules)
    gates = merged(gate for each in considered for gate in each.gates)
    if facts.job_active or situation.state in WORKING:
        return Plan(Action.NOTHING, "a job is at work", gates=gates)
    *_, check = considered
    possible = [each for each in considered if each.not_before is not None]
    # Equal ones are in the order of what comes first.
    chosen = min(possible, key=lambda each: max(each.not_before or facts.now, facts.now), default=None)
    if chosen is None:
        return Plan(Action.NOTHING, longest(check.gates).reason, gates=gates)
    if chosen.action is not Action.CHECK:
        reason = "; ".join((chosen.reason, *_why(chosen.gates)))
        return replace(chosen, reason=reason, gates=gates)
    own = _why(check.gates)
    reasons = [chosen.reason, *own]
    for other in considered[:-1]:
        reasons += [f"{_HELD[other.action]}{why}" for why in _why(other.gates) if why not in own]
    return replace(chosen, reason="; ".join(reasons), gates=gates)


_HELD = {
    Action.APPLY: "the staged update is not applied: ",
    Action.STAGE: "the available update is not staged: ",
}


_BESIDE_PEOPLE = tuple(check for check in APPLYING if check not in (sessions, window))


def _telling(facts: Facts, rules: Rules) -> datetime | None:
    """Return from when on people are told of a reboot; None if nobody can say, or there is nobody to tell."""
    staged = facts.host.status.staged
    people = facts.surroundings.people and rules.conditions.sessions is OnSessions.WARN
    if rules.mode is not Mode.APPLY or staged is None or not people:
        return None
    # As long as something else is in the way nobody is told; the time for that comes when it is not.
    from_then = all_open(_BESIDE_PEOPLE, facts, rules, staged)
    return from_then and telling_from(from_then, rules)


def _later(moment: datetime | None, now: datetime) -> datetime | None:
    return moment if moment and moment > now else None


def _courtesy(facts: Facts, rules: Rules, telling: datetime | None) -> datetime:
    """Return when people who are logged in have had their time, if they are told now what they were not."""
    told = facts.courtesy_until
    # Far ahead is what people were told before the clock was set back.
    if told and told <= facts.now + rules.conditions.courtesy:
        return told
    return courtesy_from(facts.now, rules) if telling and telling <= facts.now else facts.now


def _notice(gates: Sequence[Gate], facts: Facts, rules: Rules) -> datetime | None:
    """Return when the host reboots if that waits for people alone, or for them and a window."""
    held = {gate.name: gate.ends for gate in gates if Action.APPLY in gate.actions}
    ends, staged = held.pop("sessions", None), facts.host.status.staged
    if ends is None or staged is None or held.keys() - {"window"}:
        return None
    return None if window(replace(facts, now=ends), rules, staged) else ends


def _idle(situation: Situation, rules: Rules) -> str:
    """Say why there is no background work at all; empty if there may be some."""
    if rules.mode is Mode.OFF:
        return "background work is switched off"
    if situation.state is State.UNMANAGED:
        return "the host was not booted from an image deployment"
    if situation.state is State.UNKNOWN:
        return "the host has not been looked at yet"
    if situation.state is State.REBOOTING:
        return "the host is about to reboot"
    return ""


def _considered(situation: Situation, facts: Facts, rules: Rules) -> list[Plan]:
    """Return all there is to do, each with when it can be done and its own gates; the check comes last."""
    plans = []
    staged = facts.host.status.staged
    if rules.mode is Mode.APPLY and staged:
        plans.append(_plan(Action.APPLY, "an update is staged", APPLYING, facts, rules, staged))
    if rules.mode in (Mode.STAGE, Mode.APPLY) and situation.available:
        update = situation.available
        plans.append(_plan(Action.STAGE, "an update is available", STAGING, facts, rules, update))
    check = _plan(Action.CHECK, _check_reason(facts.attempts), CHECKING, facts, rules, None)
    if check.not_before:
        due = _check_due(facts, rules)
        check = replace(check, not_before=max(due, check.not_before) if check.gates else due)
    return [*plans, check]


def _plan(
    action: Action, reason: str, checks: Sequence[Check[S]], facts: Facts, rules: Rules, subject: S
) -> Plan:
    gates = tuple(replace(gate, actions=(action,)) for gate in shut(checks, facts, rules, subject))
    return Plan(action, reason, all_open(checks, facts, rules, subject), gates)


def _check_due(facts: Facts, rules: Rules) -> datetime:
    return next_check(
        facts.attempts.last_check,
        started=facts.started,
        interval=rules.interval,
        jitter=rules.jitter,
        chance=facts.chance,
        failures=facts.attempts.check_failures,
        now=facts.now,
    )


def _check_reason(attempts: Attempts) -> str:
    if attempts.check_failures > 1:
        return f"the last {attempts.check_failures} checks failed"
    if attempts.check_failures:
        return "the last check failed"
    return "regular check" if attempts.last_check else "first check"


def _why(gates: Sequence[Gate]) -> list[str]:
    """Return why something is not done now, in one sentence at most."""
    return [longest(gates).reason] if gates else []
