"""The gates of rebooting into what is staged. No I/O."""

from __future__ import annotations

from bootcd.model.host import BootEntry
from bootcd.policy.schedule import due_after, retry_delay
from bootcd.policy.window import next_opening
from bootcd.update.attempts import GIVE_UP_AFTER, name_of
from bootcd.update.checking import UNASKED, booted_badly, inhibited
from bootcd.update.facts import Facts, Rules
from bootcd.update.gates import Check, Gate
from bootcd.update.inhibit import APPLYING as DOING
from bootcd.update.machine import digest_of
from bootcd.update.outside import battery, boot_undecided, called_off, sessions, shutdown_blocked, unread


def locked(facts: Facts, rules: Rules, staged: BootEntry) -> Gate | None:
    return Gate("locked", "what is staged is locked until it is asked for") if staged.download_only else None


def attempts(facts: Facts, rules: Rules, staged: BootEntry) -> Gate | None:
    tried = facts.attempts.applied
    if tried is None or tried.name != name_of(staged):
        return None
    if tried.count >= GIVE_UP_AFTER:
        return Gate("attempts", f"the host was asked to reboot {tried.count} times, and did not start it")
    at = due_after(tried.last, retry_delay(rules.interval, max(1, tried.count)), facts.now)
    if at <= facts.now:
        return None
    if tried.refusal:
        return Gate("refusal", tried.refusal, at)
    return Gate("attempts", "the host did not reboot into it before", at)


def scheduled(facts: Facts, rules: Rules, staged: BootEntry) -> Gate | None:
    """The appointment is kept by who made it, as it were, and nothing comes before it."""
    if (made := facts.appointment) is None:
        return None
    return Gate("scheduled", made.sentence, made.when if made.when > facts.now else None)


def window(facts: Facts, rules: Rules, staged: BootEntry) -> Gate | None:
    if not rules.windows:
        return None
    opening = next_opening(rules.windows, rules.zone, facts.now)
    if opening is None:
        return Gate("window", "no maintenance window opens")
    if opening.contains(facts.now):
        return None
    local = opening.opens.astimezone(rules.zone)
    return Gate("window", f"the next maintenance window opens {local:%a %Y-%m-%d %H:%M %Z}", opening.opens)


APPLYING: tuple[Check[BootEntry], ...] = (
    *UNASKED,
    locked,
    inhibited(DOING),
    booted_badly(digest_of),
    attempts,
    scheduled,
    window,
    unread,
    boot_undecided,
    battery,
    shutdown_blocked,
    called_off,
    sessions,
)
