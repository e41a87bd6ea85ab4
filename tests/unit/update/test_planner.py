from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.model.errors import (
    BackendFailed,
    BootcdError,
    DigestMismatch,
    DowngradeRefused,
    FleetLockRefused,
    InvalidLayer,
    OutOfSpace,
    RegistryUnavailable,
)
from bootcd.model.health import FailedBoot, HealthRecord
from bootcd.model.host import (
    BootEntry,
    Host,
    HostSpec,
    HostState,
    ImageReferenceStatus,
    ImageStatus,
    OstreeStatus,
)
from bootcd.model.job import (
    ImageUpdate,
    JobKind,
    JobRecord,
    JobRequest,
    JobState,
    Outcome,
    Requester,
)
from bootcd.policy.window import parse_window
from bootcd.update.appointment import Appointment
from bootcd.update.attempts import (
    DIGESTS_REMEMBERED,
    GIVE_UP_AFTER,
    AppliedDeployment,
    Attempts,
    StageFailures,
)
from bootcd.update.driver import Driver
from bootcd.update.facts import Action, Facts, Mode, Rules
from bootcd.update.gates import Gate
from bootcd.update.inhibit import How, Inhibitor, What
from bootcd.update.machine import (
    HostObserved,
    HostView,
    JobEnded,
    JobStarted,
    RebootRequested,
    Situation,
    UpdateFound,
    advance,
    observe,
)
from bootcd.update.pause import Pause
from bootcd.update.planner import Plan, plan

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
RULES = Rules(mode=Mode.STAGE, interval=6 * HOUR, jitter=timedelta(0))

TRACKED = ImageReferenceStatus(image="quay.io/example/os:1", transport="registry")
BOOTED, NEW, NEWER = ("sha256:" + digit * 64 for digit in "abc")
UPDATE = ImageUpdate(image=TRACKED.image, digest=NEW)


def entry(digest: str, *, incompatible: bool = False, download_only: bool = False) -> BootEntry:
    return BootEntry(
        image=ImageStatus(image=TRACKED, image_digest=digest, architecture="amd64"),
        incompatible=incompatible,
        download_only=download_only,
    )


def host_with(**status: object) -> Host:
    return Host(
        spec=HostSpec(image=TRACKED),
        status=HostState.model_validate({"booted": entry(BOOTED), **status}),
    )


HOST = host_with()
CHECKED = Attempts(last_check=NOW - HOUR)


def facts(
    host: Host = HOST, attempts: Attempts = CHECKED, *, now: datetime = NOW, job_active: bool = False
) -> Facts:
    return Facts(
        now=now,
        started=NOW - timedelta(days=30),
        chance=0.0,
        job_active=job_active,
        host=host,
        attempts=attempts,
    )


def situation_of(host: Host = HOST, update: ImageUpdate | None = UPDATE) -> Situation:
    situation = advance(Situation(), observe(host))
    return advance(situation, UpdateFound(update)) if update else situation


FAILED = HealthRecord(
    failures=(FailedBoot(uuid=str(UUID(int=1)), digest=NEW, time=NOW, reasons=("disk: exit status 1",)),)
)


def test_plan_with_a_version_that_booted_badly_checks_on_until_it_is_cleared() -> None:
    rolled_back = host_with(rollback=entry(NEW))
    known = replace(facts(rolled_back), health=FAILED)
    planned = plan(situation_of(rolled_back), known, RULES)
    assert planned.action is Action.CHECK
    assert "this version booted badly here; disk: exit status 1" in planned.reason

    cleared = replace(known, health=FAILED.without_failures(NEW))
    assert plan(situation_of(rolled_back), cleared, RULES).action is Action.STAGE


def test_plan_with_a_newer_version_than_one_that_booted_badly_stages_it() -> None:
    newer = UPDATE.model_copy(update={"digest": NEWER})
    planned = plan(situation_of(update=newer), replace(facts(), health=FAILED), RULES)
    assert planned.action is Action.STAGE


# Inhibitors


def inhibited(*what: What, not_after: datetime | None = None) -> Facts:
    held = Inhibitor(
        number=1, what=what, who="backup", why="copying /etc", how=How.DELAY, uid=1, not_after=not_after
    )
    return replace(facts(), inhibitors=(held,))


def test_plan_while_staging_is_inhibited_checks_and_says_who_and_why() -> None:
    planned = plan(situation_of(), inhibited(What.STAGE), RULES)
    assert planned.action is Action.CHECK
    assert planned.reason.endswith("is not staged: backup inhibits stage: copying /etc")


def test_plan_while_checking_is_inhibited_waits_for_its_end_but_stages() -> None:
    planned = plan(situation_of(update=None), inhibited(What.CHECK), RULES)
    [gate] = planned.gates
    assert (planned.action, planned.not_before, planned.reason) == (Action.NOTHING, None, gate.reason)
    assert gate == Gate("inhibitor", "backup inhibits check: copying /etc", None, (Action.CHECK,))
    assert plan(situation_of(), inhibited(What.CHECK), RULES).action is Action.STAGE


@pytest.mark.parametrize(
    "held", [inhibited(What.REBOOT), inhibited(What.STAGE, not_after=NOW)], ids=["reboot", "over"]
)
def test_plan_is_not_held_up_by_an_inhibitor_of_something_else_or_one_that_is_over(held: Facts) -> None:
    assert plan(situation_of(), held, RULES).action is Action.STAGE


# Gates


def test_plan_names_every_gate_that_is_shut_with_what_it_holds_up() -> None:
    """Of what is staged and of what is newer, each for itself; of more than one action once."""
    host = host_with(staged=entry(NEW, download_only=True), readOnly=True)
    newer = situation_of(host, UPDATE.model_copy(update={"digest": NEWER}))
    planned = plan(newer, replace(facts(host), health=FAILED), APPLY)
    assert [(gate.name, gate.actions) for gate in planned.gates] == [
        ("locked", (Action.APPLY,)),
        ("booted-badly", (Action.APPLY,)),
        ("window", (Action.APPLY,)),
        ("read-only", (Action.STAGE,)),
        ("locked", (Action.STAGE,)),
    ]
    assert planned.action is Action.CHECK
    changed = host_with(booted=entry(BOOTED, incompatible=True), staged=entry(NEW))
    planned = plan(situation_of(changed), facts(changed), replace(APPLY, windows=()))
    assert [gate.actions for gate in planned.gates] == [(Action.APPLY, Action.CHECK)]


@pytest.mark.parametrize("until", [None, NOW + 9 * HOUR])
def test_plan_while_paused_is_nothing_before_the_pause_ends(until: datetime | None) -> None:
    pause = Pause(since=NOW - HOUR, until=until, uid=1000)
    host = host_with(staged=entry(NEW))
    newer = situation_of(host, UPDATE.model_copy(update={"digest": NEWER}))
    planned = plan(newer, replace(facts(host), pause=pause), replace(APPLY, windows=()))
    assert planned.not_before == until
    everything = (Action.APPLY, Action.STAGE, Action.CHECK)
    assert planned.gates == (Gate("paused", "user 1000 has paused updates", until, everything),)
    assert planned.reason.count("user 1000 has paused updates") == 1
    over = replace(facts(host, now=NOW + 9 * HOUR), pause=pause)
    assert plan(newer, over, replace(APPLY, windows=())).is_due(NOW + 9 * HOUR) is (until is not None)


def test_plan_of_a_host_that_another_program_drives_is_nothing() -> None:
    driver = Driver("fleet-agent", "not before Monday")
    host = host_with(staged=entry(NEW))
    planned = plan(situation_of(host, None), replace(facts(host), drivers=(driver,)), APPLY)
    assert planned.action is Action.NOTHING
    assert planned.reason == "fleet-agent decides when this host is updated: not before Monday"
    driven = [gate.actions for gate in planned.gates if gate.name == "driver"]
    assert driven == [(Action.APPLY, Action.CHECK)]


def test_plan_with_an_appointment_reboots_neither_before_it_nor_in_its_place() -> None:
    made = Appointment(when=OPENS + HOUR, requester=Requester(uid=5))
    for now, ends in ((OPENS, OPENS + HOUR), (OPENS + 2 * HOUR, None)):
        planned = apply_plan(replace(APPLY, windows=()), now=now, appointment=made)
        assert planned.action is Action.CHECK
        sentence = "user 5 has the host reboot at a time of their own"
        assert planned.gates == (Gate("scheduled", sentence, ends, (Action.APPLY,)),)


def test_plan_of_a_check_says_once_what_holds_up_it_and_more() -> None:
    pause = Pause(since=NOW - HOUR, until=NOW + HOUR, uid=1000)
    locked = host_with(staged=entry(NEW, download_only=True))
    for host in (locked, host_with(staged=entry(NEW))):
        known = replace(
            facts(host), pause=pause, appointment=Appointment(when=NOW + 9 * HOUR, requester=Requester())
        )
        planned = plan(situation_of(host, None), known, replace(APPLY, windows=()))
        assert planned.action is Action.CHECK
        assert planned.reason.count("user 1000 has paused updates") == 1


def test_plan_while_a_job_is_at_work_still_names_the_gates() -> None:
    host = host_with(readOnly=True)
    planned = plan(situation_of(host), facts(host, job_active=True), RULES)
    assert (planned.action, [gate.name for gate in planned.gates]) == (Action.NOTHING, ["read-only"])


def test_plan_with_a_gate_that_opens_when_another_shuts_looks_beyond_both() -> None:
    """The reboot is put off beyond the end of this window, so that it comes in the next one."""
    now = OPENS + 119 * MINUTE
    attempts = Attempts(now, applied=AppliedDeployment(NEW, now, 1))
    rules = replace(APPLY, interval=timedelta(days=30))
    planned = apply_plan(rules, now=now, attempts=attempts)
    assert [gate.ends for gate in planned.gates] == [now + 5 * MINUTE]
    assert (planned.action, planned.not_before) == (Action.APPLY, OPENS + timedelta(days=7))


def test_plan_while_checking_is_inhibited_for_a_time_checks_after_it() -> None:
    planned = plan(situation_of(update=None), inhibited(What.CHECK, not_after=NOW + 9 * HOUR), RULES)
    assert (planned.action, planned.not_before) == (Action.CHECK, NOW + 9 * HOUR)
    early = plan(situation_of(update=None), inhibited(What.CHECK, not_after=NOW + HOUR), RULES)
    assert (early.action, early.not_before) == (Action.CHECK, NOW + 5 * HOUR)


# Nothing at all


@pytest.mark.parametrize(
    ("situation", "moment", "mode", "reason"),
    [
        pytest.param(situation_of(), facts(), Mode.OFF, "switched off", id="mode off"),
        pytest.param(Situation(), facts(), Mode.STAGE, "not been looked at", id="unknown"),
        pytest.param(
            advance(Situation(), HostObserved(HostView.UNMANAGED)),
            facts(Host()),
            Mode.STAGE,
            "not booted from an image",
            id="unmanaged",
        ),
        pytest.param(
            advance(advance(situation_of(), JobStarted(JobKind.UPGRADE)), RebootRequested()),
            facts(),
            Mode.STAGE,
            "about to reboot",
            id="rebooting",
        ),
        pytest.param(situation_of(), facts(job_active=True), Mode.STAGE, "job is at work", id="job active"),
        pytest.param(
            advance(situation_of(), JobStarted(JobKind.CHECK)),
            facts(),
            Mode.STAGE,
            "job is at work",
            id="working state",
        ),
        pytest.param(
            situation_of(),
            facts(host_with(booted=entry(BOOTED, incompatible=True))),
            Mode.STAGE,
            "local modifications",
            id="local modifications",
        ),
        pytest.param(
            situation_of(),
            facts(Host(status=HostState(booted=BootEntry(store=None)))),
            Mode.STAGE,
            "tracks no image",
            id="no tracked image",
        ),
    ],
)
def test_plan_with_a_hindrance_is_nothing_and_says_why(
    situation: Situation, moment: Facts, mode: Mode, reason: str
) -> None:
    result = plan(situation, moment, replace(RULES, mode=mode))
    assert (result.action, result.not_before) == (Action.NOTHING, None)
    assert reason in result.reason
    assert not result.is_due(NOW)


# Checks


@pytest.mark.parametrize(
    ("attempts", "wait", "reason"),
    [
        pytest.param(Attempts(last_check=NOW - HOUR), 5 * HOUR, "regular check", id="in time"),
        pytest.param(Attempts(last_check=NOW - 7 * HOUR), -HOUR, "regular check", id="overdue"),
        pytest.param(Attempts(last_check=NOW + 99 * HOUR), 0 * HOUR, "regular check", id="clock went back"),
        pytest.param(
            Attempts(last_check=NOW, check_failures=1), 5 * MINUTE, "the last check failed", id="failed"
        ),
        pytest.param(
            Attempts(last_check=NOW, check_failures=3), 20 * MINUTE, "the last 3 checks failed", id="failing"
        ),
    ],
)
@pytest.mark.parametrize("mode", [Mode.CHECK, Mode.STAGE])
def test_plan_without_an_update_is_the_next_check(
    attempts: Attempts, wait: timedelta, reason: str, mode: Mode
) -> None:
    result = plan(situation_of(update=None), facts(attempts=attempts), replace(RULES, mode=mode))
    assert result == Plan(Action.CHECK, reason, NOW + wait)


def test_plan_never_checked_waits_from_the_start_of_the_service() -> None:
    moment = replace(facts(attempts=Attempts()), started=NOW)
    result = plan(situation_of(update=None), moment, RULES)
    assert result == Plan(Action.CHECK, "first check", NOW + 6 * MINUTE)


def test_plan_in_mode_check_never_stages() -> None:
    result = plan(situation_of(), facts(), replace(RULES, mode=Mode.CHECK))
    assert result == Plan(Action.CHECK, "regular check", NOW + 5 * HOUR)


# Staging


def test_plan_with_an_update_stages_it_at_once() -> None:
    result = plan(situation_of(), facts(), RULES)
    assert result == Plan(Action.STAGE, "an update is available", NOW)
    assert result.is_due(NOW)


def test_plan_with_update_and_overdue_check_stages_first() -> None:
    assert plan(situation_of(), facts(attempts=Attempts(last_check=NOW - 9 * HOUR)), RULES).action == "stage"


def test_plan_with_something_newer_than_staged_stages_it() -> None:
    host = host_with(staged=entry(NEW))
    newer = ImageUpdate(image=TRACKED.image, digest=NEWER)
    assert plan(situation_of(host, newer), facts(host), RULES).action is Action.STAGE


@pytest.mark.parametrize(
    ("host", "attempts", "reason"),
    [
        pytest.param(
            host_with(rollback=entry(NEWER), rollbackQueued=True),
            CHECKED,
            "a rollback is queued",
            id="rollback queued",
        ),
        pytest.param(host_with(readOnly=True), CHECKED, "storage is read-only", id="read-only"),
        pytest.param(
            host_with(rollback=entry(NEW)), CHECKED, "run this version before", id="rolled back from it"
        ),
        pytest.param(
            host_with(otherDeployments=[entry(NEW)]), CHECKED, "run this version before", id="pinned one"
        ),
        pytest.param(
            host_with(staged=entry(NEWER, download_only=True)), CHECKED, "staged is locked", id="locked"
        ),
        pytest.param(
            HOST,
            replace(CHECKED, stage_failures=(StageFailures(NEW, NOW - 99 * HOUR, 7, lasting=GIVE_UP_AFTER),)),
            "staging this version failed 7 times",
            id="given up",
        ),
    ],
)
def test_plan_with_an_update_that_must_not_be_staged_checks_on_and_says_why(
    host: Host, attempts: Attempts, reason: str
) -> None:
    result = plan(situation_of(host), facts(host, attempts), RULES)
    assert (result.action, result.not_before) == (Action.CHECK, NOW + 5 * HOUR)
    assert "not staged" in result.reason
    assert reason in result.reason


def test_plan_after_giving_up_on_a_digest_stages_the_next_one() -> None:
    attempts = replace(CHECKED, stage_failures=(StageFailures(BOOTED, NOW, 7, lasting=7),))
    assert plan(situation_of(), facts(attempts=attempts), RULES).is_due(NOW)


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        pytest.param(
            replace(CHECKED, stage_failures=(StageFailures(NEW, NOW - MINUTE, 1),)),
            Plan(Action.STAGE, "an update is available; staging it failed once", NOW + 4 * MINUTE),
            id="failed once",
        ),
        pytest.param(
            replace(CHECKED, stage_failures=(StageFailures(NEW, NOW, 2),)),
            Plan(Action.STAGE, "an update is available; staging it failed 2 times", NOW + 10 * MINUTE),
            id="failed twice",
        ),
        pytest.param(
            replace(CHECKED, stage_failures=(StageFailures(NEW, NOW, 99),)),
            Plan(
                Action.CHECK,
                "regular check; the available update is not staged: staging it failed 99 times",
                NOW + 5 * HOUR,
            ),
            id="retry comes after the next check",
        ),
        pytest.param(
            replace(CHECKED, stage_failures=(StageFailures(NEW, NOW + 99 * HOUR, 2),)),
            Plan(Action.STAGE, "an update is available", NOW),
            id="clock went back",
        ),
        pytest.param(
            replace(CHECKED, stage_cancelled=NOW - 2 * HOUR),
            Plan(Action.STAGE, "an update is available; staging was cancelled", NOW + 4 * HOUR),
            id="cancelled",
        ),
        pytest.param(
            replace(CHECKED, stage_cancelled=NOW - 7 * HOUR),
            Plan(Action.STAGE, "an update is available", NOW),
            id="cancelled long ago",
        ),
        pytest.param(
            replace(CHECKED, stage_cancelled=NOW + 99 * HOUR),
            Plan(Action.STAGE, "an update is available", NOW),
            id="cancelled before the clock went back",
        ),
        pytest.param(
            Attempts(NOW, 1, stage_cancelled=NOW),
            Plan(
                Action.CHECK,
                "the last check failed; the available update is not staged: staging was cancelled",
                NOW + 5 * MINUTE,
            ),
            id="a check comes before staging again",
        ),
    ],
)
def test_plan_after_failures_or_a_cancel_holds_staging_back(attempts: Attempts, expected: Plan) -> None:
    planned = plan(situation_of(), facts(attempts=attempts), RULES)
    assert replace(planned, gates=()) == expected
    assert {gate.actions for gate in planned.gates} <= {(Action.STAGE,)}
    assert all(gate.ends and gate.ends > NOW for gate in planned.gates)


# What is remembered


def ended(kind: JobKind, state: JobState, error: BootcdError | None = None) -> JobRecord:
    return JobRecord(
        number=1,
        request=JobRequest(uuid="00000000-0000-4000-8000-000000000001", kind=kind),
        requester=Requester(),
        state=state,
        created=NOW - HOUR,
        finished=NOW,
        outcome=Outcome(state=state, error=error.info() if error else None),
    )


@pytest.mark.parametrize(
    ("state", "failures"),
    [
        (JobState.DONE, 0),
        (JobState.FAILED, 3),
        (JobState.INTERRUPTED, 3),
        (JobState.CANCELLED, 0),
    ],
)
def test_attempts_after_a_check_count_its_failures(state: JobState, failures: int) -> None:
    before = Attempts(last_check=NOW - 9 * HOUR, check_failures=2)
    after = before.after(ended(JobKind.CHECK, state), digest="")
    assert after == Attempts(last_check=NOW, check_failures=failures)


def test_attempts_after_a_done_upgrade_forget_all_failures() -> None:
    before = Attempts(NOW - HOUR, 3, NOW - HOUR, (StageFailures(NEW, NOW - HOUR, 2, 2),))
    assert before.after(ended(JobKind.UPGRADE, JobState.DONE), digest=NEW) == Attempts(last_check=NOW)


def test_attempts_after_a_failed_upgrade_tell_lasting_failures_from_passing_ones() -> None:
    attempts = CHECKED
    for error in (RegistryUnavailable("gone"), InvalidLayer("bad"), None):
        state = JobState.FAILED if error else JobState.INTERRUPTED
        attempts = attempts.after(ended(JobKind.UPGRADE, state, error), digest=NEW)
    assert attempts == replace(CHECKED, stage_failures=(StageFailures(NEW, NOW, 3, lasting=1),))


def test_attempts_after_a_refused_downgrade_do_not_give_the_version_up() -> None:
    record = ended(JobKind.UPGRADE, JobState.FAILED, DowngradeRefused("older than what is booted"))
    [failures] = CHECKED.after(record, digest=NEW).stage_failures
    assert (failures.count, failures.lasting) == (1, 0)


def test_lack_of_space_is_a_gate_of_its_own_that_says_what_failed() -> None:
    error = OutOfSpace("there is no room\nfor the image")
    attempts = CHECKED.after(ended(JobKind.UPGRADE, JobState.FAILED, error), digest=NEW)
    [gate] = plan(situation_of(), facts(attempts=attempts), RULES).gates
    assert (gate.name, gate.ends) == ("free-space", NOW + 5 * MINUTE)
    assert gate.reason == "staging it failed once: there is no room for the image"
    attempts = attempts.after(
        ended(JobKind.UPGRADE, JobState.FAILED, RegistryUnavailable("gone")), digest=NEW
    )
    [gate] = plan(situation_of(), facts(attempts=attempts), RULES).gates
    assert (gate.name, gate.reason) == ("attempts", "staging it failed 2 times: gone")


def test_attempts_after_a_failed_upgrade_to_nothing_known_remember_no_digest() -> None:
    record = ended(JobKind.UPGRADE, JobState.FAILED, InvalidLayer("bad"))
    assert CHECKED.after(record, digest="") == CHECKED


def test_attempts_after_an_upgrade_to_another_digest_than_expected_hold_nothing_against_the_newest() -> None:
    record = ended(JobKind.UPGRADE, JobState.FAILED, DigestMismatch("another"))
    named = record.request.model_copy(update={"expect_digest": BOOTED})
    assert CHECKED.after(record.model_copy(update={"request": named}), digest=NEW) == CHECKED


def test_attempts_of_many_digests_keep_the_newest() -> None:
    attempts = CHECKED
    digests = [f"sha256:{number:064x}" for number in range(DIGESTS_REMEMBERED + 3)]
    for digest in [*digests, digests[-2]]:
        attempts = attempts.after(ended(JobKind.UPGRADE, JobState.FAILED), digest=digest)
    assert [entry.digest for entry in attempts.stage_failures] == [
        *digests[3:-2],
        digests[-1],
        digests[-2],
    ]
    assert attempts.stage_failures[-1].count == 2


def test_attempts_after_a_cancelled_upgrade_remember_when() -> None:
    after = CHECKED.after(ended(JobKind.UPGRADE, JobState.CANCELLED), digest=NEW)
    assert after == replace(CHECKED, stage_cancelled=NOW)


def test_attempts_after_a_switch_belong_to_the_new_image() -> None:
    before = Attempts(NOW - HOUR, 3, NOW, (StageFailures(NEW, NOW, 2, 2),))
    assert before.after(ended(JobKind.SWITCH, JobState.DONE), digest=NEW) == Attempts(last_check=NOW)
    assert before.after(ended(JobKind.SWITCH, JobState.FAILED), digest=NEW) == before


@pytest.mark.parametrize("kind", [JobKind.ROLLBACK, JobKind.PIN])
@pytest.mark.parametrize("state", JobState)
def test_attempts_after_other_jobs_are_unchanged(kind: JobKind, state: JobState) -> None:
    assert CHECKED.after(ended(kind, state), digest=NEW) == CHECKED


# A simulated host, left alone for a month


@given(
    chances=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=8),
    failing=st.lists(st.booleans(), min_size=1, max_size=8),
    error=st.sampled_from([RegistryUnavailable("gone"), InvalidLayer("bad")]),
)
def test_plans_of_a_month_neither_hammer_nor_starve(
    chances: list[float], failing: list[bool], error: BootcdError
) -> None:
    """Follow every plan; the update appears on the fifth check, and staging it fails at will."""
    situation, attempts, now = situation_of(update=None), Attempts(), NOW
    checks = stages = lasting = 0
    while now < NOW + timedelta(days=30):
        moment = Facts(
            now=now,
            started=NOW,
            chance=chances[checks % len(chances)],
            job_active=False,
            host=HOST,
            attempts=attempts,
        )
        decided = plan(situation, moment, replace(RULES, jitter=HOUR))
        assert decided.not_before is not None
        assert decided.not_before - now <= timedelta(days=2)
        now = max(now, decided.not_before)
        known = situation.available.digest if situation.available else ""
        failed = failing[(checks + stages) % len(failing)]
        state = JobState.FAILED if failed else JobState.DONE
        if decided.action is Action.CHECK:
            checks += 1
            situation = advance(situation, JobStarted(JobKind.CHECK))
            if not failed and checks >= 5 and not stages:
                situation = advance(situation, UpdateFound(UPDATE))
            record = ended(JobKind.CHECK, state, error if failed else None)
        else:
            stages += 1
            lasting += failed and not error.retryable
            situation = advance(situation, JobStarted(JobKind.UPGRADE))
            if not failed:
                staged = host_with(staged=entry(NEW))
                situation = advance(situation, observe(staged))
            record = ended(JobKind.UPGRADE, state, error if failed else None)
        situation = advance(situation, JobEnded())
        attempts = attempts.after(record.model_copy(update={"finished": now}), digest=known)
    assert 10 <= checks <= 30 * 24
    assert stages <= 60
    assert lasting <= GIVE_UP_AFTER
    if not any(failing):
        assert stages == 1


# Applying


STAGED = host_with(staged=entry(NEW))
APPLY = replace(
    RULES, mode=Mode.APPLY, windows=(parse_window("Thu 22:00", 2 * HOUR),), zone=ZoneInfo("Europe/Berlin")
)
OPENS = datetime(2026, 1, 15, 21, tzinfo=UTC)
CHECKED_AT_OPENING = Attempts(last_check=OPENS)


def apply_plan(rules: Rules = APPLY, *, now: datetime, host: Host = STAGED, **changes: object) -> Plan:
    known = replace(facts(host, CHECKED_AT_OPENING, now=now), **changes)  # type: ignore[arg-type]
    return plan(situation_of(host, None), known, rules)


@pytest.mark.parametrize(
    ("minutes", "is_open"),
    [(-1, False), (0, True), (119, True), (120, False)],
)
def test_plan_with_a_staged_update_applies_it_within_a_window_only(minutes: int, is_open: bool) -> None:
    now = OPENS + minutes * MINUTE
    planned = apply_plan(now=now)
    assert (planned.action is Action.APPLY and planned.is_due(now)) is is_open


def test_plan_outside_of_the_windows_names_the_next_opening() -> None:
    planned = apply_plan(now=OPENS - HOUR, attempts=Attempts(last_check=OPENS - HOUR))
    assert (planned.action, planned.not_before) == (Action.APPLY, OPENS)
    assert planned.reason == (
        "an update is staged; the next maintenance window opens Thu 2026-01-15 22:00 CET"
    )
    assert [(gate.name, gate.ends) for gate in planned.gates] == [("window", OPENS)]


def test_plan_with_a_check_before_the_next_opening_tells_of_both() -> None:
    planned = apply_plan(now=OPENS + 3 * HOUR)
    assert planned.action is Action.CHECK
    assert planned.reason.endswith("maintenance window opens Thu 2026-01-22 22:00 CET")


def test_plan_without_windows_applies_at_any_time() -> None:
    planned = apply_plan(replace(APPLY, windows=()), now=OPENS - HOUR)
    assert planned.action is Action.APPLY
    assert planned.is_due(OPENS - HOUR)


@pytest.mark.parametrize(
    ("rules", "host", "changes"),
    [
        pytest.param(replace(APPLY, mode=Mode.STAGE), STAGED, {}, id="mode"),
        pytest.param(APPLY, host_with(staged=entry(NEW, download_only=True)), {}, id="locked"),
        pytest.param(APPLY, HOST, {}, id="nothing staged"),
        pytest.param(APPLY, STAGED, {"health": FAILED}, id="booted badly"),
        pytest.param(
            APPLY,
            STAGED,
            {"attempts": Attempts(OPENS, applied=AppliedDeployment(NEW, NOW, 3))},
            id="given up",
        ),
    ],
)
def test_plan_within_a_window_does_not_apply(rules: Rules, host: Host, changes: dict[str, object]) -> None:
    assert apply_plan(rules, now=OPENS + MINUTE, host=host, **changes).action is Action.CHECK


def test_plan_within_a_window_does_not_apply_while_a_reboot_is_inhibited() -> None:
    held = inhibited(What.REBOOT).inhibitors
    planned = apply_plan(now=OPENS + MINUTE, inhibitors=held)
    assert planned.action is Action.CHECK
    assert planned.reason.endswith("is not applied: backup inhibits reboot: copying /etc")
    assert apply_plan(now=OPENS + MINUTE, inhibitors=inhibited(What.CHECK).inhibitors).action is Action.APPLY


def test_plan_after_a_reboot_that_did_not_come_applies_later_in_the_window() -> None:
    now = OPENS + MINUTE
    attempts = replace(CHECKED_AT_OPENING, applied=AppliedDeployment(NEW, OPENS, 1))
    planned = apply_plan(now=now, attempts=attempts)
    assert (planned.action, planned.not_before) == (Action.APPLY, OPENS + 5 * MINUTE)
    other = replace(attempts, applied=AppliedDeployment(NEWER, OPENS, 3))
    assert apply_plan(now=now, attempts=other).is_due(now)


def test_plan_with_other_kernel_arguments_staged_counts_them_for_themselves() -> None:
    def deployed(serial: int) -> BootEntry:
        ostree = OstreeStatus(stateroot="default", checksum="c" * 64, deploy_serial=serial)
        return entry(NEW).model_copy(update={"ostree": ostree})

    attempts = replace(CHECKED_AT_OPENING, applied=AppliedDeployment(deployed(1).id, NOW, 3))
    again = apply_plan(now=OPENS, attempts=attempts, host=host_with(staged=deployed(1)))
    assert again.action is Action.CHECK
    assert "asked to reboot 3 times" in again.reason
    assert apply_plan(now=OPENS, attempts=attempts, host=host_with(staged=deployed(2))).is_due(OPENS)


def test_plan_with_an_inhibited_reboot_does_not_apply() -> None:
    inhibitor = Inhibitor(
        what=(What.REBOOT,), who="backup", why="runs", how=How.DELAY, uid=0, number=1, not_after=None
    )
    planned = apply_plan(now=OPENS, inhibitors=(inhibitor,))
    assert planned.action is Action.CHECK
    assert "backup inhibits reboot: runs" in planned.reason


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.CANCELLING, JobState.CANCELLED])
def test_attempts_to_apply_that_were_not_made_do_not_count(state: JobState) -> None:
    assert CHECKED.after(ended(JobKind.APPLY, state), digest=NEW) == CHECKED


@pytest.mark.parametrize("state", [JobState.DONE, JobState.FAILED])
def test_attempts_to_apply_count_by_version_and_survive_an_upgrade(state: JobState) -> None:
    def after(attempts: Attempts, kind: JobKind, state: JobState, digest: str) -> Attempts:
        request = JobRequest(uuid=str(UUID(int=1)), kind=kind)
        record = JobRecord(
            number=1, request=request, requester=Requester(), state=state, created=NOW, finished=NOW
        )
        return attempts.after(record, digest=digest)

    twice = after(after(Attempts(), JobKind.APPLY, state, NEW), JobKind.APPLY, state, NEW)
    assert twice.applied == AppliedDeployment(NEW, NOW, 2)
    assert after(twice, JobKind.UPGRADE, JobState.DONE, NEW).applied == twice.applied
    assert after(twice, JobKind.APPLY, state, NEWER).applied == AppliedDeployment(NEWER, NOW, 1)


@given(minutes=st.integers(0, 60 * 24 * 400), zone=st.sampled_from(["Europe/Berlin", "Australia/Lord_Howe"]))
def test_plan_at_any_minute_applies_if_and_only_if_a_window_is_open(minutes: int, zone: str) -> None:
    now = NOW + minutes * MINUTE
    windows = (parse_window("Sun 01:30", 2 * HOUR), parse_window("Mon..Fri 23:00", 3 * HOUR))
    planned = apply_plan(replace(APPLY, windows=windows, zone=ZoneInfo(zone)), now=now)
    starts = [(6, 1, 30, 2)] + [(day, 23, 0, 3) for day in range(5)]
    local = now.astimezone(ZoneInfo(zone))
    open_now = False
    for back in range(2):
        day = (local - timedelta(days=back)).date()
        for weekday, hour, minute, hours in starts:
            if day.weekday() == weekday:
                opens = datetime(day.year, day.month, day.day, hour, minute, tzinfo=ZoneInfo(zone))
                open_now |= opens.timestamp() <= now.timestamp() < opens.timestamp() + hours * 3600
    assert (planned.action is Action.APPLY and planned.is_due(now)) == open_now


def test_reboot_that_was_refused_is_tried_again_soon_and_counts_nothing_against_the_version() -> None:
    attempts = replace(CHECKED_AT_OPENING, applied=AppliedDeployment(NEW, NOW, 1))
    refused = ended(JobKind.APPLY, JobState.FAILED, FleetLockRefused("the fleet says no"))
    for _ in range(9):
        attempts = attempts.after(refused, digest=NEW)
    assert attempts.applied == AppliedDeployment(NEW, NOW, 1, "the fleet says no")

    failed = ended(JobKind.APPLY, JobState.FAILED, BackendFailed("no"))
    assert attempts.after(failed, digest=NEW).applied == AppliedDeployment(NEW, NOW, 2)


@pytest.mark.parametrize("rules", [APPLY, replace(APPLY, windows=())], ids=["window", "no window"])
def test_plan_after_a_refused_reboot_says_by_whom_and_when_it_is_tried_again(rules: Rules) -> None:
    refused = AppliedDeployment(NEW, OPENS, 0, "the fleet says no")
    attempts = replace(CHECKED_AT_OPENING, applied=refused)
    planned = apply_plan(rules, now=OPENS + MINUTE, attempts=attempts)
    assert (planned.action, planned.not_before) == (Action.APPLY, OPENS + 5 * MINUTE)
    assert planned.reason == "an update is staged; the fleet says no"
    assert [gate.reason for gate in planned.gates] == ["the fleet says no"]
    assert apply_plan(rules, now=OPENS + 5 * MINUTE, attempts=attempts).is_due(OPENS + 5 * MINUTE)
