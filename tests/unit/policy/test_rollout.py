from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.policy.rollout import (
    LONGEST_ANNOUNCED,
    Rollout,
    announced_period,
    place,
    publication,
    turn,
)

SEEN = datetime(2026, 1, 15, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
DIGEST, OTHER = ("sha256:" + digit * 64 for digit in "ab")
MACHINES = [bytes([number >> 8, number & 255]) * 16 for number in range(2000)]

identities = st.binary(min_size=1, max_size=64)
warinesses = st.floats(min_value=0, max_value=1)


def test_machines_spread_evenly_over_the_period() -> None:
    tenths = [0] * 10
    for machine in MACHINES:
        tenths[int(place(machine, DIGEST, 0.5) * 10)] += 1
    assert all(140 < count < 260 for count in tenths), tenths


def test_order_of_machines_is_another_for_each_version() -> None:
    first = [place(machine, DIGEST, 0.5) < 0.5 for machine in MACHINES]
    second = [place(machine, OTHER, 0.5) < 0.5 for machine in MACHINES]
    alike = sum(one == other for one, other in zip(first, second, strict=True))
    assert 850 < alike < 1150


def test_place_of_a_machine_never_moves_between_releases() -> None:
    assert place(bytes(range(32)), DIGEST, 0.5) == pytest.approx(0.59020267, abs=1e-8)


@given(identities, warinesses)
def test_place_lies_in_the_period_and_is_found_again(identity: bytes, wariness: float) -> None:
    found = place(identity, DIGEST, wariness)
    assert 0 <= found <= 1
    assert found == place(identity, DIGEST, wariness)


@given(identities)
def test_bold_machine_comes_first_and_wary_one_last(identity: bytes) -> None:
    assert place(identity, DIGEST, 0) == 0
    assert place(identity, DIGEST, 1) == 1


@pytest.mark.parametrize("wariness", [0.1, 0.3, 0.5, 0.9])
def test_wariness_is_the_mean_place_of_machines(wariness: float) -> None:
    places = [place(machine, DIGEST, wariness) for machine in MACHINES]
    assert sum(places) / len(places) == pytest.approx(wariness, abs=0.03)


@pytest.mark.parametrize(
    ("text", "period"),
    [
        (None, timedelta(0)),
        ("", timedelta(0)),
        ("3d", 3 * DAY),
        ("36h", 1.5 * DAY),
        ("14d", LONGEST_ANNOUNCED),
        ("1y", LONGEST_ANNOUNCED),
        ("999999999999w", timedelta(0)),
        ("soon", timedelta(0)),
        ("-3d", timedelta(0)),
        ("3d" * 100_000, timedelta(0)),
        ("\ud800", timedelta(0)),
    ],
)
def test_announced_period_is_bounded_and_nonsense_is_none(text: str | None, period: timedelta) -> None:
    assert announced_period(text) == period


@pytest.mark.parametrize(
    ("created", "replaces", "published"),
    [
        pytest.param(SEEN - DAY, SEEN - 9 * DAY, SEEN - DAY, id="as the image says"),
        pytest.param(SEEN - DAY, None, SEEN - DAY, id="nothing known of what is booted"),
        pytest.param(None, SEEN - 9 * DAY, SEEN, id="image says nothing"),
        pytest.param(datetime(1970, 1, 1, tzinfo=UTC), None, SEEN, id="epoch"),
        pytest.param(datetime(1980, 1, 1, tzinfo=UTC), None, SEEN, id="reproducible"),
        pytest.param(SEEN - DAY, SEEN - DAY, SEEN, id="always the same time"),
        pytest.param(SEEN - 2 * DAY, SEEN - DAY, SEEN, id="older than what it replaces"),
        pytest.param(SEEN + DAY, None, SEEN, id="future"),
        pytest.param(datetime.max.replace(tzinfo=UTC), None, SEEN, id="end of time"),
    ],
)
def test_publication_is_the_creation_where_that_can_be_true(
    created: datetime | None, replaces: datetime | None, published: datetime
) -> None:
    assert publication(created, first_seen=SEEN, replaces=replaces, now=SEEN + HOUR) == published


def test_turn_comes_after_the_minimum_age_and_the_place_in_the_period() -> None:
    rollout = Rollout(period=4 * DAY, minimum_age=2 * DAY)
    found = turn(rollout, announced=timedelta(0), published=SEEN, place=0.25)
    assert (found.aged, found.comes) == (SEEN + 2 * DAY, SEEN + 3 * DAY)


@pytest.mark.parametrize(
    ("configured", "comes"), [(None, SEEN + DAY), (timedelta(0), SEEN), (8 * DAY, SEEN + 4 * DAY)]
)
def test_turn_with_a_configured_period_ignores_the_announced_one(
    configured: timedelta | None, comes: datetime
) -> None:
    assert turn(Rollout(period=configured), announced=2 * DAY, published=SEEN, place=0.5).comes == comes
