"""The plan of layers: bounded, complete, the same for the same input, and stable from version to version."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from bootcd.image.layering import Component, Layering, plan_layers

NAMES = st.text("abcdefgh", min_size=1, max_size=3)
COMPONENTS = st.lists(
    st.builds(Component, NAMES, st.integers(0, 1 << 30), st.integers(0, 5)), unique_by=lambda c: c.name
)
LAYERINGS = st.lists(st.lists(NAMES, max_size=4).map(tuple), max_size=12).map(tuple)


def of_size(*sizes: int, changes: int = 0, prefix: str = "p") -> list[Component]:
    return [Component(f"{prefix}{number:03}", size, changes) for number, size in enumerate(sizes)]


def layer_of(layering: Layering, name: str) -> tuple[str, ...]:
    return next(names for names in layering if name in names)


@given(COMPONENTS, st.integers(1, 12), LAYERINGS)
def test_plan_of_anything_has_each_component_once_and_keeps_the_bound(
    components: list[Component], limit: int, previous: Layering
) -> None:
    layering = plan_layers(components, max_layers=limit, steps=5, previous=previous)
    assert len(layering) <= limit
    assert all(layering)
    assert sorted(itertools.chain(*layering)) == sorted(component.name for component in components)


@given(COMPONENTS, st.integers(1, 12), LAYERINGS, st.randoms())
def test_plan_does_not_depend_on_the_order_of_components(
    components: list[Component], limit: int, previous: Layering, chance: object
) -> None:
    shuffled = list(components)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert plan_layers(shuffled, max_layers=limit, previous=previous) == plan_layers(
        components, max_layers=limit, previous=previous
    )


@given(COMPONENTS, COMPONENTS, st.integers(1, 12))
def test_plan_with_the_version_before_moves_nothing_that_was_there(
    old: list[Component], new: list[Component], limit: int
) -> None:
    before = plan_layers(old, max_layers=limit)
    after = plan_layers(new, max_layers=limit, previous=before)
    kept = {component.name for component in old} & {component.name for component in new}
    for names in before:
        together = kept & set(names)
        assert len({layer_of(after, name) for name in together}) <= 1
    apart = {frozenset(kept & set(names)) for names in after} - {frozenset()}
    assert apart == {frozenset(kept & set(names)) for names in before} - {frozenset()}


@given(COMPONENTS, st.integers(1, 12))
def test_plan_of_the_same_version_again_is_the_same(components: list[Component], limit: int) -> None:
    before = plan_layers(components, max_layers=limit)
    assert plan_layers(components, max_layers=limit, previous=before) == before


def test_plan_below_the_bound_gives_each_component_a_layer() -> None:
    assert plan_layers(of_size(3, 2, 1), max_layers=3) == (("p000",), ("p001",), ("p002",))


def test_plan_of_one_layer_holds_everything() -> None:
    assert plan_layers(of_size(3, 2, 1), max_layers=1) == (("p000", "p001", "p002"),)


def test_plan_of_nothing_is_no_layer() -> None:
    assert plan_layers([], max_layers=5) == ()


def test_plan_without_history_joins_the_smallest() -> None:
    layering = plan_layers(of_size(1000, 900, 1, 2, 800), max_layers=4)
    assert ("p002", "p003") in layering


def test_plan_keeps_what_changes_away_from_large_things_that_do_not() -> None:
    calm = of_size(*[50_000_000] * 6)
    busy = of_size(*[40_000_000] * 6, changes=4, prefix="busy")
    layering = plan_layers([*calm, *busy], max_layers=8, steps=4)
    for names in layering:
        assert len({name.startswith("busy") for name in names}) == 1


def test_plan_with_history_downloads_less_than_one_without() -> None:
    components = [
        Component(f"c{number:02}", 1_000_000 * (1 + number % 7), 4 if number % 5 == 0 else 0)
        for number in range(60)
    ]
    changed = {component.name for component in components if component.changes}
    sizes = {component.name: component.size for component in components}

    def cost(layering: Layering) -> int:
        return sum(sum(sizes[n] for n in names) for names in layering if changed & set(names))

    blind = plan_layers(
        [Component(component.name, component.size) for component in components], max_layers=16
    )
    seeing = plan_layers(components, max_layers=16, steps=4)
    assert cost(seeing) < cost(blind)
    assert cost(seeing) <= 1.2 * sum(sizes[name] for name in changed)


def test_plan_puts_what_seldom_changes_first() -> None:
    components = [Component("often", 10, 3), Component("never", 10), Component("once", 10, 1)]
    assert plan_layers(components, max_layers=3, steps=3) == (("never",), ("once",), ("often",))


def test_new_component_gets_a_layer_of_its_own_while_there_is_room() -> None:
    before = (("p000", "p001"),)
    assert plan_layers(of_size(1, 1, 1), max_layers=2, previous=before) == (("p000", "p001"), ("p002",))


def test_new_component_at_the_bound_joins_an_old_layer_and_moves_none() -> None:
    before = (("p000",), ("p001",))
    layering = plan_layers(of_size(1_000_000, 10, 5), max_layers=2, previous=before)
    assert layering == (("p000",), ("p001", "p002"))


def test_lower_bound_joins_old_layers() -> None:
    before = (("p000",), ("p001",), ("p002",))
    assert len(plan_layers(of_size(1, 1, 1), max_layers=2, previous=before)) == 2


def test_plan_of_a_thousand_components_is_balanced() -> None:
    components = of_size(*(1000 + (number * 7919) % 5000 for number in range(1000)))
    layering = plan_layers(components, max_layers=63)
    assert len(layering) == 63
    assert max(map(len, layering)) < 4 * math.ceil(1000 / 63)
