import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.model.errors import BootcdError, NotBootcSystem, WrongState
from bootcd.model.host import (
    BootEntry,
    Host,
    HostSpec,
    HostState,
    ImageReferenceStatus,
    ImageStatus,
)
from bootcd.model.job import ImageUpdate, JobKind
from bootcd.update.machine import (
    SETTLED,
    TABLE,
    WORKING,
    Event,
    HostObserved,
    HostView,
    IllegalTransition,
    JobEnded,
    JobStarted,
    RebootMissed,
    RebootRequested,
    Situation,
    State,
    Trigger,
    UpdateAbsent,
    UpdateFound,
    advance,
    observe,
    to_dot,
    trigger_of,
    view_of,
)

IMAGE = "quay.io/example/os:1"
OTHER_IMAGE = "quay.io/example/other:1"
OLD, NEW, NEWER = ("sha256:" + digit * 64 for digit in "abc")
UPDATE = ImageUpdate(image=IMAGE, digest=NEW)
NEWER_UPDATE = ImageUpdate(image=IMAGE, digest=NEWER)

CLEAN = HostObserved(HostView.CLEAN, IMAGE, frozenset({OLD}))
STAGED = HostObserved(HostView.STAGED, IMAGE, frozenset({OLD, NEW}))
QUEUED = HostObserved(HostView.ROLLBACK_QUEUED, IMAGE, frozenset({NEW}))
UNMANAGED = HostObserved(HostView.UNMANAGED)


def after(*events: Event, start: Situation | None = None) -> Situation:
    situation = start or Situation()
    for event in events:
        situation = advance(situation, event)
    return situation


SETTLED_WAYS: dict[State, tuple[Event, ...]] = {
    State.UNKNOWN: (),
    State.UNMANAGED: (UNMANAGED,),
    State.IDLE: (CLEAN,),
    State.AVAILABLE: (CLEAN, UpdateFound(UPDATE)),
    State.STAGED: (STAGED,),
    State.ROLLBACK_QUEUED: (QUEUED,),
}
WAYS: dict[State, tuple[Event, ...]] = SETTLED_WAYS | {
    State.CHECKING: (CLEAN, JobStarted(JobKind.CHECK)),
    State.UPGRADING: (CLEAN, JobStarted(JobKind.UPGRADE)),
    State.SWITCHING: (CLEAN, JobStarted(JobKind.SWITCH)),
    State.ROLLING_BACK: (CLEAN, JobStarted(JobKind.ROLLBACK)),
    State.APPLYING: (STAGED, JobStarted(JobKind.APPLY)),
    State.CHANGING: (CLEAN, JobStarted(JobKind.KERNEL_ARGUMENTS)),
    State.REBOOTING: (STAGED, JobStarted(JobKind.APPLY), RebootRequested()),
}
EVENTS: dict[Trigger, Event] = {
    Trigger.OBSERVED: CLEAN,
    Trigger.FOUND: UpdateFound(UPDATE),
    Trigger.ABSENT: UpdateAbsent(),
    Trigger.REBOOT: RebootRequested(),
    Trigger.MISSED: RebootMissed(),
    Trigger.ENDED: JobEnded(),
} | {Trigger(kind.value): JobStarted(kind) for kind in JobKind}


# The table as a whole


def test_ways_reach_every_state() -> None:
    assert {state: after(*way).state for state, way in WAYS.items()} == {state: state for state in State}


def test_events_cover_every_trigger() -> None:
    assert {trigger_of(event) for event in EVENTS.values()} == set(Trigger)
    assert set(TABLE) == set(State)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("trigger", Trigger)
def test_advance_does_what_the_table_says_or_raises(state: State, trigger: Trigger) -> None:
    before = after(*WAYS[state])
    if trigger not in TABLE[state]:
        with pytest.raises((WrongState, NotBootcSystem, IllegalTransition)):
            advance(before, EVENTS[trigger])
        return
    target = TABLE[state][trigger]
    result = advance(before, EVENTS[trigger])
    if target is SETTLED:
        assert result.state in SETTLED_WAYS
    else:
        assert result.state is target


@pytest.mark.parametrize("state", State)
def test_host_observed_is_legal_in_every_state(state: State) -> None:
    for observed in (CLEAN, STAGED, QUEUED, UNMANAGED):
        result = after(*WAYS[state], observed)
        assert result.view is observed.view
        if state in WORKING or state is State.REBOOTING:
            assert result.state is state


def legal(trigger: Trigger) -> set[State]:
    return {state for state, row in TABLE.items() if trigger in row}


def test_apply_is_legal_only_with_something_pending() -> None:
    assert legal(Trigger.APPLY) == {State.UNKNOWN, State.STAGED, State.ROLLBACK_QUEUED}


@pytest.mark.parametrize(
    "verb", [Trigger.CHECK, Trigger.UPGRADE, Trigger.SWITCH, Trigger.ROLLBACK], ids=lambda verb: verb.value
)
def test_verb_is_legal_in_every_settled_state_of_a_managed_host(verb: Trigger) -> None:
    assert legal(verb) == set(SETTLED_WAYS) - {State.UNMANAGED}


def test_job_ended_is_legal_exactly_while_a_job_is_or_was_at_work() -> None:
    assert legal(Trigger.ENDED) == WORKING | {State.REBOOTING}


# Refusals


@pytest.mark.parametrize("kind", JobKind)
def test_verb_on_an_unmanaged_host_is_refused_as_such(kind: JobKind) -> None:
    with pytest.raises(NotBootcSystem):
        after(UNMANAGED, JobStarted(kind))


@pytest.mark.parametrize("kind", JobKind)
def test_verb_while_rebooting_is_wrong_state_and_says_so(kind: JobKind) -> None:
    with pytest.raises(WrongState, match=f"cannot {kind} while the host is about to reboot"):
        after(*WAYS[State.REBOOTING], JobStarted(kind))


@pytest.mark.parametrize("state", [State.IDLE, State.AVAILABLE])
def test_apply_with_nothing_pending_is_wrong_state_with_a_hint(state: State) -> None:
    with pytest.raises(WrongState, match="nothing to apply") as caught:
        after(*WAYS[state], JobStarted(JobKind.APPLY))
    assert "bootcctl upgrade" in caught.value.hint


@pytest.mark.parametrize("state", sorted(WORKING))
def test_second_job_beside_the_first_is_a_defect_of_the_caller(state: State) -> None:
    with pytest.raises(IllegalTransition, match=f"check in state {state}"):
        after(*WAYS[state], JobStarted(JobKind.CHECK))


def test_illegal_transition_is_no_error_of_the_product() -> None:
    assert not issubclass(IllegalTransition, BootcdError)


# Stories


def test_check_that_finds_an_update_makes_it_available() -> None:
    result = after(CLEAN, JobStarted(JobKind.CHECK), UpdateFound(UPDATE), JobEnded())
    assert (result.state, result.available) == (State.AVAILABLE, UPDATE)


def test_check_that_finds_nothing_forgets_an_old_update() -> None:
    result = after(*WAYS[State.AVAILABLE], JobStarted(JobKind.CHECK), UpdateAbsent(), JobEnded())
    assert (result.state, result.available) == (State.IDLE, None)


def test_check_that_fails_keeps_what_was_known() -> None:
    result = after(*WAYS[State.AVAILABLE], JobStarted(JobKind.CHECK), JobEnded())
    assert (result.state, result.available) == (State.AVAILABLE, UPDATE)


def test_check_while_staged_returns_to_staged_and_remembers_what_is_newer() -> None:
    result = after(STAGED, JobStarted(JobKind.CHECK), UpdateFound(NEWER_UPDATE), JobEnded())
    assert (result.state, result.available) == (State.STAGED, NEWER_UPDATE)


@pytest.mark.parametrize("update", [UPDATE, ImageUpdate(image=IMAGE, digest=OLD)], ids=["staged", "booted"])
def test_check_that_finds_what_is_already_taken_makes_nothing_available(update: ImageUpdate) -> None:
    result = after(STAGED, JobStarted(JobKind.CHECK), UpdateFound(update), JobEnded())
    assert (result.state, result.available) == (State.STAGED, None)


def test_upgrade_staged_the_available_update_is_no_longer_available() -> None:
    result = after(*WAYS[State.AVAILABLE], JobStarted(JobKind.UPGRADE), JobEnded(), STAGED)
    assert (result.state, result.available) == (State.STAGED, None)


def test_upgrade_that_replaces_a_staged_update_by_a_newer_one_ends_staged() -> None:
    newer = replace(STAGED, taken=frozenset({OLD, NEWER}))
    result = after(STAGED, UpdateFound(NEWER_UPDATE), JobStarted(JobKind.UPGRADE), newer, JobEnded())
    assert (result.state, result.available) == (State.STAGED, None)


def test_upgrade_that_reboots_stays_rebooting_after_its_job_ended() -> None:
    result = after(CLEAN, JobStarted(JobKind.UPGRADE), STAGED, RebootRequested(), JobEnded(), STAGED)
    assert result.state is State.REBOOTING


def test_reboot_that_never_comes_makes_the_host_usable_again() -> None:
    result = after(*WAYS[State.REBOOTING], JobEnded(), RebootMissed())
    assert result.state is State.STAGED
    assert after(JobStarted(JobKind.APPLY), start=result).state is State.APPLYING


def test_switch_drops_an_update_of_the_image_tracked_before() -> None:
    switched = HostObserved(HostView.STAGED, OTHER_IMAGE, frozenset({OLD, NEWER}))
    result = after(*WAYS[State.AVAILABLE], JobStarted(JobKind.SWITCH), JobEnded(), switched)
    assert (result.state, result.available) == (State.STAGED, None)


def test_rollback_twice_returns_to_a_clean_host() -> None:
    start = JobStarted(JobKind.ROLLBACK)
    once = after(CLEAN, start, JobEnded(), QUEUED)
    assert once.state is State.ROLLBACK_QUEUED
    assert after(start, JobEnded(), CLEAN, start=once).state is State.IDLE


def test_change_by_another_tool_during_a_job_shows_when_the_job_ends() -> None:
    during = after(CLEAN, JobStarted(JobKind.CHECK), STAGED)
    assert during.state is State.CHECKING
    assert after(JobEnded(), start=during).state is State.STAGED


def test_job_found_at_work_at_start_ends_in_unknown_until_the_host_was_seen() -> None:
    adopted = after(JobStarted(JobKind.APPLY))
    assert adopted.state is State.APPLYING
    assert after(JobEnded(), start=adopted).state is State.UNKNOWN
    assert after(JobEnded(), QUEUED, start=adopted).state is State.ROLLBACK_QUEUED


@pytest.mark.parametrize(
    ("observed", "state", "available"),
    [
        pytest.param(CLEAN, State.AVAILABLE, UPDATE, id="same image"),
        pytest.param(replace(CLEAN, image=OTHER_IMAGE), State.IDLE, None, id="another image"),
        pytest.param(replace(CLEAN, taken=frozenset({NEW})), State.IDLE, None, id="booted into it"),
    ],
)
def test_update_remembered_across_a_restart_is_kept_if_it_still_is_one(
    observed: HostObserved, state: State, available: ImageUpdate | None
) -> None:
    result = after(observed, start=Situation(image=IMAGE, available=UPDATE))
    assert (result.state, result.available) == (state, available)


# Random walks

observations = st.builds(
    HostObserved,
    view=st.sampled_from(HostView),
    image=st.sampled_from(["", IMAGE, OTHER_IMAGE]),
    taken=st.frozensets(st.sampled_from([OLD, NEW, NEWER]), max_size=2),
)
events = st.one_of(
    observations,
    st.builds(JobStarted, kind=st.sampled_from(JobKind)),
    st.builds(UpdateFound, update=st.sampled_from([UPDATE, NEWER_UPDATE])),
    st.sampled_from([UpdateAbsent(), RebootRequested(), RebootMissed(), JobEnded()]),
)

VIEW_OF_STATE = {
    State.UNKNOWN: None,
    State.UNMANAGED: HostView.UNMANAGED,
    State.IDLE: HostView.CLEAN,
    State.AVAILABLE: HostView.CLEAN,
    State.STAGED: HostView.STAGED,
    State.ROLLBACK_QUEUED: HostView.ROLLBACK_QUEUED,
}


@given(st.lists(events, max_size=40))
def test_any_sequence_of_events_keeps_the_invariants(sequence: list[Event]) -> None:
    situation = Situation()
    job_at_work = False
    for event in sequence:
        before = replace(situation)
        try:
            situation = advance(situation, event)
        except (WrongState, NotBootcSystem, IllegalTransition):
            assert trigger_of(event) not in TABLE[before.state]
            assert situation == before
            continue
        assert trigger_of(event) in TABLE[before.state]
        if isinstance(event, JobStarted):
            assert not job_at_work
            job_at_work = True
        elif isinstance(event, JobEnded | RebootRequested):
            job_at_work = False
        assert (situation.state in WORKING) is job_at_work
        if isinstance(event, HostObserved):
            assert (situation.view, situation.taken) == (event.view, event.taken)
        if situation.state in VIEW_OF_STATE:
            assert situation.view is VIEW_OF_STATE[situation.state]
        if situation.state is State.IDLE:
            assert situation.available is None
        if situation.state is State.AVAILABLE:
            assert situation.available is not None
        if situation.available:
            assert situation.available.digest not in situation.taken
            assert situation.view is not HostView.UNMANAGED


@given(st.lists(events, max_size=20), observations)
def test_any_sequence_then_end_and_observation_settles_by_the_observation(
    sequence: list[Event], observed: HostObserved
) -> None:
    situation = Situation()
    for event in [*sequence, JobEnded(), RebootMissed(), observed]:
        try:
            situation = advance(situation, event)
        except (WrongState, NotBootcSystem, IllegalTransition):
            continue
    assert VIEW_OF_STATE[situation.state] is observed.view


# The view of a host


def entry(digest: str = OLD, image: str = IMAGE) -> BootEntry:
    reference = ImageReferenceStatus(image=image, transport="registry")
    return BootEntry(image=ImageStatus(image=reference, image_digest=digest, architecture="amd64"))


@pytest.mark.parametrize(
    ("status", "view"),
    [
        pytest.param(HostState(), HostView.UNMANAGED, id="nothing booted"),
        pytest.param(HostState(staged=entry()), HostView.UNMANAGED, id="staged but not booted from"),
        pytest.param(HostState(booted=entry()), HostView.CLEAN, id="booted"),
        pytest.param(HostState(booted=entry(), rollback=entry()), HostView.CLEAN, id="with rollback"),
        pytest.param(HostState(booted=BootEntry(store=None)), HostView.CLEAN, id="booted from no image"),
        pytest.param(HostState(booted=entry(), staged=entry()), HostView.STAGED, id="staged"),
        pytest.param(
            HostState(booted=entry(), rollback=entry(), rollback_queued=True),
            HostView.ROLLBACK_QUEUED,
            id="rollback queued",
        ),
        pytest.param(
            HostState(booted=entry(), staged=entry(), rollback=entry(), rollback_queued=True),
            HostView.STAGED,
            id="staged after a rollback was queued",
        ),
    ],
)
def test_view_of_host_is_what_comes_at_the_next_boot(status: HostState, view: HostView) -> None:
    assert view_of(Host(status=status)) is view


def test_observe_host_collects_tracked_image_and_taken_digests() -> None:
    host = Host(
        spec=HostSpec(image=ImageReferenceStatus(image=OTHER_IMAGE, transport="registry")),
        status=HostState(booted=entry(OLD), staged=entry(NEW, OTHER_IMAGE), rollback=entry(NEWER)),
    )
    assert observe(host) == HostObserved(HostView.STAGED, OTHER_IMAGE, frozenset({OLD, NEW}))


def test_observe_host_booted_from_no_image_has_no_empty_digest() -> None:
    host = Host(status=HostState(booted=BootEntry(store=None)))
    assert observe(host) == HostObserved(HostView.CLEAN, "", frozenset())


# The picture


def test_to_dot_draws_every_transition_of_the_table() -> None:
    edges = {
        (source, label, target)
        for source, target, labels in re.findall(r'^  "(\S+)" -> "(\S+)" \[label="(.*)"\];$', to_dot(), re.M)
        for label in labels.split(r"\n")
    }
    assert edges == {
        (state.value, trigger.value, target.value)
        for state, row in TABLE.items()
        for trigger, target in row.items()
    }
