"""Which layer each component of an image goes into: what changes together lies together. Pure.

A layer is downloaded as a whole when anything in it has changed, so it costs its size times the chance
that any of its components changes. Beginning with a layer for each component, the two whose union costs
least more are joined until the bound is met. What the previous version had is kept: its layers count as
joined already, and only what is new to them is joined to something else, as long as that is enough.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_PRIOR = 0.02
"The chance of a change for a component nothing is known of: a few of some hundred, from week to week."

_PAIRED = 512
"Groups of which each is compared with each."


@dataclass(frozen=True, slots=True)
class Component:
    """Files that change together, such as those of the packages of one source."""

    name: str
    size: int
    changes: int = 0
    "In how many steps from version to version it changed."


Layering = tuple[tuple[str, ...], ...]
"Names of components by layer."


def plan_layers(
    components: Iterable[Component], *, max_layers: int, steps: int = 0, previous: Layering = ()
) -> Layering:
    """Distribute components over at most `max_layers` layers.

    Args:
        steps: from version to version that `changes` were counted in.
        previous: the layers of the version before, whose order is kept.
    """
    assert max_layers >= 1
    found = {component.name: component for component in components}
    chances = {name: (each.changes + _PRIOR) / (steps + 1) for name, each in found.items()}
    groups: list[_Group] = []
    placed: set[str] = set()
    for names in previous:
        here = [name for name in dict.fromkeys(names) if name in found and name not in placed]
        placed.update(here)
        if here:
            groups.append(_group(here, found, chances, rank=len(groups)))
    groups += [_group([name], found, chances) for name in sorted(found.keys() - placed)]
    groups = _join(groups, max_layers)
    groups.sort(key=lambda group: (group.is_new, group.rank, group.chance, group.names[0]))
    return tuple(group.names for group in groups)


@dataclass(frozen=True, slots=True)
class _Group:
    names: tuple[str, ...]
    size: int
    stays: float
    "The chance that nothing in it changes."
    is_new: bool
    rank: int
    "Among the layers of the version before."

    @property
    def chance(self) -> float:
        return 1 - self.stays

    def price(self, other: _Group) -> tuple[bool, float]:
        """Tell what joining costs: layers of the version before are joined only when nothing else helps."""
        chance = 1 - self.stays * other.stays
        more = self.size * (chance - self.chance) + other.size * (chance - other.chance)
        return not (self.is_new or other.is_new), more

    def joined(self, other: _Group) -> _Group:
        first = self if (self.is_new, self.rank) <= (other.is_new, other.rank) else other
        return _Group(
            tuple(sorted(self.names + other.names)),
            self.size + other.size,
            self.stays * other.stays,
            first.is_new,
            first.rank,
        )


def _group(
    names: Sequence[str], found: dict[str, Component], chances: dict[str, float], rank: int | None = None
) -> _Group:
    stays = 1.0
    for name in sorted(names):
        stays *= 1 - chances[name]
    size = sum(found[name].size for name in names)
    return _Group(tuple(sorted(names)), size, stays, rank is None, rank or 0)


def _join(groups: list[_Group], limit: int) -> list[_Group]:
    """Join the cheapest pair until no more than `limit` are left; of equal prices the first pair."""
    if len(groups) <= limit:
        return groups
    alive = dict(enumerate(_bundle(groups, max(limit, _PAIRED))))
    prices = [
        (*one.price(other), number, later)
        for number, one in alive.items()
        for later, other in alive.items()
        if number < later
    ]
    heapq.heapify(prices)
    last = len(alive)
    while len(alive) > limit:
        _, _, number, later = heapq.heappop(prices)
        if number not in alive or later not in alive:
            continue
        joined = alive.pop(number).joined(alive.pop(later))
        for other, group in alive.items():
            heapq.heappush(prices, (*group.price(joined), other, last))
        alive[last] = joined
        last += 1
    return list(alive.values())


def _bundle(groups: list[_Group], limit: int) -> list[_Group]:
    """Join neighbours by chance and size until there are few enough to compare each with each."""
    while len(groups) > limit:
        new = sorted(
            (group for group in groups if group.is_new),
            key=lambda group: (group.chance, group.size, group.names[0]),
        )
        pairs = sorted(zip(new[::2], new[1::2], strict=False), key=lambda pair: pair[0].price(pair[1]))
        if not pairs:
            break
        chosen = pairs[: len(groups) - limit]
        gone = {group.names[0] for pair in chosen for group in pair}
        groups = [group for group in groups if group.names[0] not in gone]
        groups += [one.joined(other) for one, other in chosen]
    return groups
