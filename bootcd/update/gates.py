"""Gates: what holds up something that is to be done unasked, each with its reason and its end. No I/O.

Each action has its list of checks, pure functions that look at one gate each: `CHECKING` in
`bootcd.update.checking`, `STAGING` and `APPLYING` likewise. A new gate is a new function in such a list,
the most telling first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from bootcd.update.facts import Action, Facts, Rules

_STEPS = 8
"Ends that are looked beyond; where gates shut one after the other for ever, the plan made then looks on."

_NEVER = datetime.max.replace(tzinfo=UTC)

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Gate:
    """One that is shut."""

    name: str
    reason: str
    ends: datetime | None = None
    "When it opens by itself, if that is known."
    actions: tuple[Action, ...] = ()
    "What it holds up."


Check = Callable[[Facts, Rules, S], Gate | None]
"Looks at one gate of what an action is about, at the time of the facts; None if it is open."


def shut(checks: Sequence[Check[S]], facts: Facts, rules: Rules, subject: S) -> tuple[Gate, ...]:
    return tuple(gate for check in checks if (gate := check(facts, rules, subject)))


def all_open(checks: Sequence[Check[S]], facts: Facts, rules: Rules, subject: S) -> datetime | None:
    """Return from when on no gate is shut, None if not until something happens."""
    for _ in range(_STEPS):
        ends = [gate.ends for gate in shut(checks, facts, rules, subject)]
        known = [end for end in ends if end is not None]
        if len(known) < len(ends):
            return None
        if not known:
            break
        facts = replace(facts, now=max(known))
    return facts.now


def longest(gates: Sequence[Gate]) -> Gate:
    """Return the gate that stays shut longest."""
    return max(gates, key=lambda gate: gate.ends or _NEVER)


def merged(gates: Iterable[Gate]) -> tuple[Gate, ...]:
    """Return each gate once, with all it holds up."""
    found: dict[Gate, tuple[Action, ...]] = {}
    for gate in gates:
        bare = replace(gate, actions=())
        found[bare] = (*found.get(bare, ()), *gate.actions)
    return tuple(replace(gate, actions=actions) for gate, actions in found.items())
