"""Whether a boot is good, and what to do if it is not. No I/O.

A boot is bad if a required check fails, if a unit that has to be up is not, or if the boot does not come to
its end in time. Wanted checks are told and decide nothing. These are the rules of greenboot and of
systemd's boot-complete.target (systemd.special(7)).

Going back is for new versions alone: one that was good once is left alone whatever happens to it
later, since what broke it is then not the update. And it is done once per version, so that a host
never goes round in circles.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    MARK_GOOD = "mark-good"
    ROLL_BACK = "roll-back"
    "Remember the version as bad, boot the one before it next, reboot."
    LEAVE = "leave"
    "Say that the boot is bad, and change nothing."


@dataclass(frozen=True, slots=True)
class Result:
    """How one check or unit did. `problem` says what is wrong, empty if nothing is."""

    name: str
    problem: str = ""
    required: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    problems: tuple[str, ...] = ()
    "Why the boot is bad, one line each; empty if it is good."
    warnings: tuple[str, ...] = ()
    "What is wrong and does not count."

    @property
    def good(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of the booted version, named by its digest, and of the one before it."""

    digest: str
    "Empty if the host was not booted from anything that has one."
    was_good: bool = False
    "In an earlier boot."
    rolled_back: bool = False
    "It was left because of a bad boot before, and somebody chose to boot it again."
    target: str = ""
    "Digest of what a rollback would boot; empty if there is none."
    target_failed: bool = False
    keeper: str = ""
    "Name of another program that rolls this host back; empty if that is us."
    allowed: bool = True
    "The administrator lets us."


@dataclass(frozen=True, slots=True)
class Response:
    action: Action
    reason: str = ""
    "LEAVE: why nothing is done about it."


def judge(results: Iterable[Result]) -> Verdict:
    problems: list[str] = []
    warnings: list[str] = []
    for result in results:
        if result.problem:
            (problems if result.required else warnings).append(f"{result.name}: {result.problem}")
    return Verdict(tuple(problems), tuple(warnings))


def respond(verdict: Verdict, standing: Standing) -> Response:
    """Decide what follows from a verdict."""
    if verdict.good:
        return Response(Action.MARK_GOOD)
    if reason := _reason_to_stay(standing):
        return Response(Action.LEAVE, reason)
    return Response(Action.ROLL_BACK)


def _reason_to_stay(standing: Standing) -> str:
    if not standing.digest:
        return "the host was not booted from an image deployment"
    if standing.was_good:
        return "this version has been good before, so that going back is no remedy"
    if standing.rolled_back:
        return "this version was rolled back once already, and chosen again"
    if not standing.allowed:
        return "automatic rollback is switched off"
    if standing.keeper:
        return f"{standing.keeper} decides on this host"
    if not standing.target:
        return "there is nothing to roll back to"
    if standing.target == standing.digest:
        return "what a rollback would boot is the same version"
    if standing.target_failed:
        return "what a rollback would boot has failed as well"
    return ""
