"""The gates of all that is done unasked, and of looking for an update. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from bootcd.update.facts import Facts, Rules
from bootcd.update.gates import Check, Gate
from bootcd.update.inhibit import CHECKING as DOING
from bootcd.update.inhibit import What, holding

S = TypeVar("S")


def paused(facts: Facts, rules: Rules, subject: object) -> Gate | None:
    if facts.pause and not facts.pause.is_over(facts.now):
        return Gate("paused", facts.pause.sentence, facts.pause.until)
    return None


def driven(facts: Facts, rules: Rules, subject: object) -> Gate | None:
    return Gate("driver", facts.drivers[0].sentence) if facts.drivers else None


def untracked(facts: Facts, rules: Rules, subject: object) -> Gate | None:
    if facts.host.spec.image is None:
        return Gate("untracked", "the host tracks no image")
    return None


def modified(facts: Facts, rules: Rules, subject: object) -> Gate | None:
    booted = facts.host.status.booted
    if booted and booted.incompatible:
        return Gate("modified", "the host has local modifications, which an image update would lose")
    return None


def inhibited(doing: frozenset[What]) -> Check[object]:
    """Return the check whether somebody holds up what is to be done."""

    def check(facts: Facts, rules: Rules, subject: object) -> Gate | None:
        if inhibitor := holding(facts.inhibitors, doing, facts.now):
            return Gate("inhibitor", inhibitor.sentence, inhibitor.not_after)
        return None

    return check


def booted_badly(digest: Callable[[S], str]) -> Check[S]:
    """Return the check whether a version, of which `digest` is told, has booted badly on this host."""

    def check(facts: Facts, rules: Rules, subject: S) -> Gate | None:
        if failure := facts.health.failure_of(digest(subject)):
            return Gate("booted-badly", "; ".join(("this version booted badly here", *failure.reasons[:1])))
        return None

    return check


UNASKED: tuple[Check[object], ...] = (modified, untracked, driven, paused)
"Of every action."

CHECKING: tuple[Check[object], ...] = (*UNASKED, inhibited(DOING))
