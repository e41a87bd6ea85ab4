"""What the planner makes of the age of a version."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from bootcd.model.host import BootEntry, Host, HostSpec, HostState, ImageReferenceStatus, ImageStatus
from bootcd.model.job import ImageUpdate
from bootcd.policy.rollout import Rollout, place
from bootcd.update.attempts import Attempts
from bootcd.update.facts import Action, Facts, Mode, Rules
from bootcd.update.machine import Situation, UpdateFound, advance, observe
from bootcd.update.planner import Plan, plan

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NAME = "quay.io/example/os:prod"
DIGEST = "sha256:" + "b" * 64
MACHINE = b"a machine"


def image(version: str = "1.1", name: str = NAME, *, created: str = "2026-01-01T00:00:00Z") -> BootEntry:
    tracked = ImageReferenceStatus(image=name, transport="registry")
    status = ImageStatus(
        image=tracked,
        version=version,
        timestamp=created,
        image_digest="sha256:" + "a" * 64,
        architecture="amd64",
    )
    return BootEntry(image=status)


def planned(update: ImageUpdate, rollout: Rollout, *, now: datetime = NOW, **status: BootEntry) -> Plan:
    booted = status.pop("booted", image())
    tracked = ImageReferenceStatus(image=NAME, transport="registry")
    host = Host(spec=HostSpec(image=tracked), status=HostState(booted=booted, **status))
    situation = advance(advance(Situation(), observe(host)), UpdateFound(update))
    facts = Facts(
        now=now,
        started=NOW - 30 * DAY,
        chance=0.0,
        job_active=False,
        host=host,
        attempts=Attempts(last_check=now - HOUR),
        identity=MACHINE,
        first_seen=min(NOW, now),
    )
    rules = Rules(mode=Mode.STAGE, interval=timedelta(days=300), jitter=timedelta(0))
    return plan(situation, facts, replace(rules, rollout=rollout))


def update_of(version: str = "1.2", created: datetime | None = NOW - HOUR, **more: float) -> ImageUpdate:
    return ImageUpdate(image=NAME, digest=DIGEST, version=version, created=created, **more)  # type: ignore[arg-type]


def test_version_is_staged_at_once_where_there_is_no_rollout() -> None:
    assert planned(update_of(), Rollout()).is_due(NOW)


def test_version_waits_for_its_age_and_then_for_the_turn_of_this_machine() -> None:
    rollout = Rollout(wariness=0.5, period=4 * DAY, minimum_age=2 * DAY)
    turn = NOW - HOUR + 2 * DAY + place(MACHINE, DIGEST, 0.5) * 4 * DAY
    found = planned(update_of(), rollout)
    assert (found.action, found.not_before) == (Action.STAGE, turn)
    assert [(gate.name, gate.ends) for gate in found.gates] == [
        ("minimum-age", NOW - HOUR + 2 * DAY),
        ("rollout", turn),
    ]
    assert planned(update_of(), rollout, now=turn).is_due(turn)


def test_period_the_image_announces_counts_where_none_is_configured() -> None:
    announced = update_of(rollout_secs=DAY.total_seconds())
    assert planned(announced, Rollout(wariness=1)).not_before == NOW - HOUR + DAY
    assert planned(announced, Rollout(wariness=1, period=timedelta(0))).is_due(NOW)


def test_reproducible_image_counts_from_when_this_machine_saw_it() -> None:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    found = planned(update_of(created=epoch), Rollout(minimum_age=DAY), now=NOW + HOUR)
    assert found.not_before == NOW + DAY


@pytest.mark.parametrize("years", [-40, -10, 10, 40])
def test_clock_that_jumps_makes_no_machine_wait_longer_than_age_and_period(years: int) -> None:
    rollout = Rollout(wariness=1, period=4 * DAY, minimum_age=2 * DAY)
    now = NOW + years * 365 * DAY
    found = planned(update_of(), rollout, now=now)
    assert found.not_before is not None
    assert found.not_before <= now + 6 * DAY


def test_older_version_is_not_staged_unasked_and_the_gate_says_so() -> None:
    found = planned(update_of("1.0"), Rollout())
    assert found.action is Action.CHECK
    [gate] = found.gates
    assert (gate.name, gate.ends) == ("downgrade", None)
    assert gate.reason == "this version is older than the one that is booted"


def test_version_older_than_what_is_staged_does_not_replace_it() -> None:
    [gate] = planned(update_of("1.2"), Rollout(), staged=image("1.3")).gates
    assert gate.reason == "this version is older than the one that is staged"


def test_version_of_another_tag_than_the_booted_one_is_no_downgrade() -> None:
    assert planned(update_of("1.0"), Rollout(), booted=image(name="quay.io/example/os:dev")).is_due(NOW)


def test_image_without_a_time_is_taken_where_versions_tell_nothing() -> None:
    assert planned(update_of("next", None), Rollout()).is_due(NOW)
    [gate] = planned(update_of("next", NOW - 30 * DAY), Rollout()).gates
    assert gate.name == "downgrade"
