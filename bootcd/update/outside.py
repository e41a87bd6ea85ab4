"""The gates that what is around the service holds shut: the network, the power, the people. No I/O."""

from __future__ import annotations

from datetime import datetime, timedelta

from bootcd.model.job import ImageUpdate
from bootcd.policy.window import next_opening
from bootcd.update.courtesy import CALLED_OFF
from bootcd.update.facts import Facts, Rules
from bootcd.update.gates import Gate
from bootcd.update.surroundings import OnSessions

_REGISTRY = "registry"
_NAMES_SHOWN = 3
_MARGIN = timedelta(minutes=1)
"Before a window closes, in which people may still be told and the host reboots."


def unread(facts: Facts, rules: Rules, subject: object) -> Gate | None:
    if facts.surroundings.unread:
        return Gate("surroundings", "the other services of the host have not been asked yet")
    return None


def boot_undecided(facts: Facts, rules: Rules, subject: object) -> Gate | None:
    """Such a boot may end in a rollback, for which what is there has to stay as it is."""
    if facts.surroundings.boot_undecided:
        return Gate("health", "it is not decided yet whether this boot is good")
    return None


def metered(facts: Facts, rules: Rules, update: ImageUpdate) -> Gate | None:
    if not rules.conditions.metered or not facts.surroundings.metered:
        return None
    return Gate("metered", "the network connection is metered") if update.transport == _REGISTRY else None


def battery(facts: Facts, rules: Rules, subject: object) -> Gate | None:
    level, least = facts.surroundings.battery_percent, rules.conditions.least_battery_percent
    if facts.surroundings.on_battery and level is not None and level < least:
        return Gate("battery", f"the host is on battery, which is at {level} %, less than {least} %")
    return None


def power_profile(facts: Facts, rules: Rules, subject: object) -> Gate | None:
    if rules.conditions.power_saver and facts.surroundings.power_saver:
        return Gate("power-profile", "the power profile is power-saver")
    return None


def shutdown_blocked(facts: Facts, rules: Rules, subject: object) -> Gate | None:
    if blocks := facts.surroundings.shutdown_blocks:
        return Gate("logind-inhibitor", f"{blocks[0].who} blocks a shutdown: {blocks[0].why}")
    return None


def called_off(facts: Facts, rules: Rules, subject: object) -> Gate | None:
    until = facts.called_off_until
    # Further ahead it is of before the clock was set back.
    if until is None or not facts.now < until <= facts.now + CALLED_OFF:
        return None
    return Gate("called-off", "somebody who is logged in called the reboot off", until)


def sessions(facts: Facts, rules: Rules, subject: object) -> Gate | None:
    people = facts.surroundings.people
    if not people or rules.conditions.sessions is OnSessions.IGNORE:
        return None
    if rules.conditions.sessions is OnSessions.WAIT:
        return Gate("sessions", _logged_in(people))
    until = facts.courtesy_until
    if until is None or until <= facts.now:
        return None
    return Gate("sessions", f"{_logged_in(people)}, and may finish first", until)


def courtesy_from(now: datetime, rules: Rules) -> datetime:
    """Return when the host may reboot if people are told now; a window that closes soon leaves them less."""
    until = now + rules.conditions.courtesy
    opening = next_opening(rules.windows, rules.zone, now) if rules.windows else None
    if opening is None:
        return until
    until = max(until, opening.opens)
    last = opening.closes - _MARGIN
    return min(until, last) if last > max(now, opening.opens) else until


def telling_from(now: datetime, rules: Rules) -> datetime:
    """Return from when on people are told, so that the host may reboot as soon as a window opens."""
    opening = next_opening(rules.windows, rules.zone, now) if rules.windows else None
    return now if opening is None else max(now, opening.opens - rules.conditions.courtesy)


def _logged_in(people: tuple[str, ...]) -> str:
    names = ", ".join(people[:_NAMES_SHOWN])
    if len(people) > _NAMES_SHOWN:
        names += f" and {len(people) - _NAMES_SHOWN} more"
    return f"{names} {'is' if len(people) == 1 else 'are'} logged in"
