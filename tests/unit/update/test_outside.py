from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from bootcd.model.host import (
    BootEntry,
    Host,
    HostSpec,
    HostState,
    ImageReferenceStatus,
    ImageStatus,
    OstreeStatus,
)
from bootcd.model.job import ImageUpdate
from bootcd.policy.window import parse_window
from bootcd.update.attempts import Attempts
from bootcd.update.facts import Action, Facts, Mode, Rules
from bootcd.update.gates import Gate
from bootcd.update.machine import Situation, UpdateFound, advance, observe
from bootcd.update.planner import Plan, plan
from bootcd.update.surroundings import Conditions, OnSessions, ShutdownBlock, Source, Surroundings

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
APPLY = Rules(mode=Mode.APPLY, interval=6 * HOUR, jitter=timedelta(0))
STAGE = replace(APPLY, mode=Mode.STAGE)
IMAGE = ImageReferenceStatus(image="quay.io/example/os:1", transport="registry")


def entry(digit: str) -> BootEntry:
    image = ImageStatus(image=IMAGE, image_digest="sha256:" + digit * 64, architecture="amd64")
    return BootEntry(
        image=image, ostree=OstreeStatus(stateroot="default", checksum=digit * 64, deploy_serial=0)
    )


def planned(
    rules: Rules,
    known: Surroundings,
    *,
    told: datetime | None = None,
    off: datetime | None = None,
    now: datetime = NOW,
    transport: str = "",
) -> Plan:
    """Plan with an update that is available, or without a transport with one that is staged."""
    staged = None if transport else entry("b")
    host = Host(spec=HostSpec(image=IMAGE), status=HostState(booted=entry("a"), staged=staged))
    situation = advance(Situation(), observe(host))
    if transport:
        update = ImageUpdate(image=IMAGE.image, digest="sha256:" + "c" * 64, transport=transport)
        situation = advance(situation, UpdateFound(update))
    facts = Facts(
        now=now,
        started=NOW - HOUR,
        chance=0.0,
        job_active=False,
        host=host,
        attempts=Attempts(last_check=NOW),
        surroundings=known,
        courtesy_until=told,
        called_off_until=off,
    )
    return plan(situation, facts, rules)


def shut(rules: Rules, known: Surroundings, *, transport: str = "") -> list[str]:
    return [gate.name for gate in planned(rules, known, transport=transport).gates]


def test_surroundings_of_which_nothing_is_known_hold_up_nothing() -> None:
    rules = replace(APPLY, conditions=Conditions(power_saver=True, sessions=OnSessions.WAIT))
    assert planned(rules, Surroundings()).is_due(NOW)
    assert planned(rules, Surroundings(), transport="registry").action is Action.STAGE


def test_nothing_is_done_before_the_surroundings_are_known() -> None:
    unread = Surroundings(unread=frozenset({Source.SESSIONS}))
    assert shut(APPLY, unread) == ["surroundings"]
    assert shut(STAGE, unread, transport="registry") == ["surroundings"]


def test_metered_connection_holds_up_downloads_and_nothing_else() -> None:
    metered = Surroundings(metered=True)
    [gate] = planned(STAGE, metered, transport="registry").gates
    assert gate == Gate("metered", "the network connection is metered", None, (Action.STAGE,))
    result = planned(STAGE, metered, transport="registry")
    assert (result.action, result.not_before) == (Action.CHECK, NOW + 6 * HOUR)
    assert "not staged: the network connection is metered" in result.reason
    assert shut(STAGE, metered, transport="oci") == []
    assert shut(replace(STAGE, conditions=Conditions(metered=False)), metered, transport="registry") == []
    assert planned(APPLY, metered).is_due(NOW)


@pytest.mark.parametrize(
    ("on_battery", "percent", "gates"),
    [(True, 19, ["battery"]), (True, 20, []), (False, 5, []), (True, None, []), (None, 5, [])],
)
def test_battery_below_the_level_holds_up_staging_and_applying(
    on_battery: bool | None, percent: int | None, gates: list[str]
) -> None:
    known = Surroundings(on_battery=on_battery, battery_percent=percent)
    assert shut(STAGE, known, transport="registry") == gates
    assert shut(APPLY, known) == gates
    assert shut(replace(APPLY, conditions=Conditions(least_battery_percent=0)), known) == []


def test_power_saver_holds_up_staging_if_that_is_wanted() -> None:
    saving = Surroundings(power_saver=True)
    wanted = replace(STAGE, conditions=Conditions(power_saver=True))
    assert shut(wanted, saving, transport="registry") == ["power-profile"]
    assert shut(STAGE, saving, transport="registry") == []


def test_inhibitor_of_logind_holds_up_a_reboot() -> None:
    result = planned(APPLY, Surroundings(shutdown_blocks=(ShutdownBlock("backup", "a tape is running"),)))
    [gate] = result.gates
    assert (gate.name, gate.reason) == ("logind-inhibitor", "backup blocks a shutdown: a tape is running")
    assert result.action is Action.CHECK


# People


ANN = Surroundings(people=("ann",))


def test_people_are_told_and_the_host_reboots_at_the_time_they_were_told() -> None:
    first = planned(APPLY, ANN)
    until = NOW + 10 * MINUTE
    assert (first.action, first.not_before, first.notice) == (Action.APPLY, until, until)
    assert first.gates == (
        Gate("sessions", "ann is logged in, and may finish first", until, (Action.APPLY,)),
    )
    later = planned(APPLY, ANN, told=until, now=NOW + 4 * MINUTE)
    assert (later.not_before, later.notice) == (until, until)
    last = planned(APPLY, ANN, told=until, now=until)
    assert last.is_due(until)
    assert last.notice is None


def test_nobody_is_told_while_something_else_is_in_the_way() -> None:
    known = replace(ANN, shutdown_blocks=(ShutdownBlock("backup", "copying"),))
    assert planned(APPLY, known).notice is None
    windows = (parse_window("13:00", HOUR),)
    result = planned(replace(APPLY, windows=windows), ANN)
    assert (result.action, result.not_before) == (Action.APPLY, NOW + HOUR)
    assert result.notice is None
    assert planned(replace(APPLY, windows=windows), ANN, now=NOW + HOUR).notice is not None


def test_reboot_that_was_called_off_does_not_come_for_an_hour() -> None:
    off = NOW + HOUR
    result = planned(APPLY, ANN, off=off)
    assert [(gate.name, gate.ends) for gate in result.gates] == [("called-off", off)]
    assert (result.not_before, result.notice) == (off, None)
    assert planned(APPLY, ANN, off=off, now=off).notice == off + 10 * MINUTE
    assert planned(APPLY, ANN, off=off, now=NOW - HOUR).notice == NOW - 50 * MINUTE


def test_people_are_told_as_soon_as_a_window_opens_however_short_it_is() -> None:
    opens = NOW + 4 * MINUTE
    rules = replace(APPLY, windows=(parse_window("12:04", 5 * MINUTE),))
    first = planned(rules, ANN, now=opens)
    assert first.notice == opens + 4 * MINUTE
    assert planned(rules, ANN, told=first.notice, now=first.notice).is_due(first.notice)


@pytest.mark.parametrize("minutes", [1, 60])
def test_people_are_told_before_a_window_opens_and_the_host_reboots_as_it_does(minutes: int) -> None:
    opens = NOW + HOUR
    rules = replace(APPLY, windows=(parse_window("13:00", minutes * MINUTE),))
    first = planned(rules, ANN)
    assert (first.not_before, first.notice, first.notice_from) == (opens, None, opens - 10 * MINUTE)
    told = planned(rules, ANN, now=opens - 10 * MINUTE)
    assert (told.not_before, told.notice, told.notice_from) == (opens, opens, None)
    assert planned(rules, ANN, told=opens, now=opens - MINUTE).notice == opens
    assert planned(rules, ANN, told=opens, now=opens).is_due(opens)


def test_people_who_come_shortly_before_a_window_opens_have_their_time_as_far_as_it_leaves_any() -> None:
    now = NOW + 55 * MINUTE
    for minutes, wait in ((60, 10), (7, 10), (5, 9)):
        rules = replace(APPLY, windows=(parse_window("13:00", minutes * MINUTE),))
        assert planned(rules, ANN, now=now).notice == now + wait * MINUTE
    assert planned(replace(APPLY, windows=(parse_window("13:00", MINUTE),)), ANN, now=now).notice is None


def test_people_are_not_told_before_a_window_opens_of_what_something_else_holds_up() -> None:
    rules = replace(APPLY, windows=(parse_window("13:00", HOUR),))
    known = replace(ANN, shutdown_blocks=(ShutdownBlock("backup", "copying"),))
    held = planned(rules, known, now=NOW + 55 * MINUTE)
    assert (held.notice, held.notice_from) == (None, None)
    off = planned(rules, ANN, off=NOW + 55 * MINUTE)
    assert off.notice_from == NOW + 55 * MINUTE
    nobody = planned(rules, Surroundings())
    assert nobody.notice_from is None


def test_what_people_were_told_of_a_window_that_was_moved_is_taken_back() -> None:
    rules = replace(APPLY, windows=(parse_window("14:00", HOUR),))
    assert planned(rules, ANN, told=NOW + 5 * MINUTE).notice is None


def test_people_who_were_told_by_a_clock_that_was_ahead_are_told_anew() -> None:
    assert planned(APPLY, ANN, told=NOW + 3652 * 24 * HOUR).notice == NOW + 10 * MINUTE


@pytest.mark.parametrize(
    ("length", "wait"),
    [(60 * MINUTE, 10 * MINUTE), (8 * MINUTE, 7 * MINUTE), (2 * MINUTE, MINUTE)],
    ids=["long", "cut", "short"],
)
def test_courtesy_is_cut_to_what_the_window_leaves(length: timedelta, wait: timedelta) -> None:
    rules = replace(APPLY, windows=(parse_window("12:00", length),))
    assert planned(rules, ANN).notice == NOW + wait
    assert planned(rules, ANN, told=NOW + wait, now=NOW + wait).is_due(NOW + wait)


def test_people_are_waited_for_or_not_looked_at_as_configured() -> None:
    waiting = planned(replace(APPLY, conditions=Conditions(sessions=OnSessions.WAIT)), ANN)
    assert (waiting.action, waiting.notice) == (Action.CHECK, None)
    assert [(gate.name, gate.ends) for gate in waiting.gates] == [("sessions", None)]
    assert planned(replace(APPLY, conditions=Conditions(sessions=OnSessions.IGNORE)), ANN).is_due(NOW)


@pytest.mark.parametrize(
    ("people", "text"),
    [
        (("ann", "bob"), "ann, bob are logged in"),
        (("a", "b", "c", "d", "e"), "a, b, c and 2 more are logged in"),
    ],
    ids=["two", "five"],
)
def test_people_are_named_up_to_three(people: tuple[str, ...], text: str) -> None:
    assert text in planned(APPLY, Surroundings(people=people)).gates[0].reason


@pytest.mark.parametrize("transport", ["", "registry"], ids=["apply", "stage"])
def test_boot_that_is_not_decided_holds_up_everything_but_checks(transport: str) -> None:
    undecided = planned(APPLY, Surroundings(boot_undecided=True), transport=transport)
    assert undecided.action is Action.CHECK
    assert undecided.gates[0].name == "health"
    assert shut(APPLY, Surroundings(boot_undecided=False), transport=transport) == []
