"""The gates of staging the available update. No I/O."""

from __future__ import annotations

from bootcd.model.errors import OutOfSpace
from bootcd.model.job import ImageUpdate
from bootcd.policy.schedule import due_after, retry_delay
from bootcd.update.attempts import GIVE_UP_AFTER
from bootcd.update.checking import UNASKED, booted_badly, inhibited
from bootcd.update.facts import Facts, Rules
from bootcd.update.gates import Check, Gate
from bootcd.update.inhibit import STAGING as DOING
from bootcd.update.machine import HostView, digest_of, view_of
from bootcd.update.maturity import downgrade, minimum_age, rollout
from bootcd.update.outside import battery, boot_undecided, metered, power_profile, unread


def rollback_queued(facts: Facts, rules: Rules, update: ImageUpdate) -> Gate | None:
    if view_of(facts.host) is HostView.ROLLBACK_QUEUED:
        return Gate("rollback-queued", "a rollback is queued")
    return None


def read_only(facts: Facts, rules: Rules, update: ImageUpdate) -> Gate | None:
    if facts.host.status.read_only:
        return Gate("read-only", "the host's storage is read-only")
    return None


def locked(facts: Facts, rules: Rules, update: ImageUpdate) -> Gate | None:
    staged = facts.host.status.staged
    if staged and staged.download_only:
        return Gate("locked", "what is staged is locked, and staging would replace it by something unlocked")
    return None


def left(facts: Facts, rules: Rules, update: ImageUpdate) -> Gate | None:
    status, health = facts.host.status, facts.health
    known = {digest_of(entry) for entry in (status.rollback, *status.other_deployments) if entry}
    if health.failure_of(update.digest) or update.digest not in known or update.digest in health.cleared:
        return None
    return Gate("left", "the host has run this version before and left it")


def attempts(facts: Facts, rules: Rules, update: ImageUpdate) -> Gate | None:
    failures = facts.attempts.failures_of(update.digest)
    if failures is None:
        return None
    reason = f": {failures.reason}" if failures.reason else ""
    if failures.lasting >= GIVE_UP_AFTER:
        return Gate("attempts", f"staging this version failed {failures.count} times{reason}")
    at = due_after(failures.last, retry_delay(rules.interval, failures.count), facts.now)
    times = "once" if failures.count == 1 else f"{failures.count} times"
    if at <= facts.now:
        return None
    # What frees space is done by people, who have to know what the host waits for.
    name = "free-space" if failures.error == OutOfSpace.name else "attempts"
    return Gate(name, f"staging it failed {times}{reason}", at)


def cancelled(facts: Facts, rules: Rules, update: ImageUpdate) -> Gate | None:
    if facts.attempts.stage_cancelled is None:
        return None
    at = due_after(facts.attempts.stage_cancelled, rules.interval, facts.now)
    return Gate("cancelled", "staging was cancelled", at) if at > facts.now else None


STAGING: tuple[Check[ImageUpdate], ...] = (
    *UNASKED,
    rollback_queued,
    read_only,
    locked,
    inhibited(DOING),
    booted_badly(lambda update: update.digest),
    left,
    downgrade,
    attempts,
    cancelled,
    minimum_age,
    rollout,
    unread,
    boot_undecided,
    metered,
    battery,
    power_profile,
)
