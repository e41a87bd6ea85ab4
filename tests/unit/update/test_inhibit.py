from datetime import UTC, datetime, timedelta

import pytest

from bootcd.model.errors import Inhibited, InvalidArguments, LimitsExceeded
from bootcd.model.job import JobKind, JobOptions
from bootcd.update.inhibit import (
    DELAY,
    DELAY_AGAIN,
    IN_ALL,
    PER_USER,
    Inhibitors,
    What,
    Wish,
    parse_wish,
    require_uninhibited,
)

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def wish(
    what: str = "stage", mode: str = "block", uid: int = 1000, not_after: datetime | None = None
) -> Wish:
    return parse_wish(what, "backup", "copying /etc", mode, uid, not_after)


def with_each(*wishes: Wish, now: datetime = NOW) -> Inhibitors:
    made = Inhibitors()
    for one in wishes:
        made = made.with_one(one, now)
    return made


def test_wish_names_what_in_order_and_once() -> None:
    assert wish("reboot:check:reboot").what == (What.CHECK, What.REBOOT)
    assert wish("reboot:check").names == "check:reboot"


@pytest.mark.parametrize(
    "arguments",
    [
        ("", "who", "why", "block"),
        ("stage:", "who", "why", "block"),
        ("sleep", "who", "why", "block"),
        ("stage", " ", "why", "block"),
        ("stage", "who", "", "block"),
        ("stage", "who", "w" * 257, "block"),
        ("stage", "who", "why", "Block"),
    ],
    ids=["nothing", "empty-part", "unknown", "nobody", "no-reason", "long", "mode"],
)
def test_wish_that_makes_no_sense_is_refused(arguments: tuple[str, str, str, str]) -> None:
    with pytest.raises(InvalidArguments):
        parse_wish(*arguments, 0, None)


def test_wish_that_is_over_already_is_refused() -> None:
    with pytest.raises(InvalidArguments, match="past"):
        Inhibitors().with_one(wish(not_after=NOW), NOW)


def test_one_user_and_all_together_may_have_so_many() -> None:
    full = with_each(*[wish()] * PER_USER)
    with pytest.raises(LimitsExceeded):
        full.with_one(wish(), NOW)
    full.with_one(wish(uid=1001), NOW)
    everybody = with_each(*(wish(uid=number) for number in range(IN_ALL)))
    with pytest.raises(LimitsExceeded):
        everybody.with_one(wish(uid=IN_ALL), NOW)
    everybody.without([1]).with_one(wish(uid=IN_ALL), NOW)


def test_number_is_never_given_again() -> None:
    held = with_each(wish(), wish()).without([2]).with_one(wish(), NOW).held
    assert [one.number for one in held] == [1, 3]


def test_delays_of_a_user_end_together_an_hour_after_the_first_and_count_anew_the_next_day() -> None:
    made = with_each(wish(mode="delay"))
    later = NOW + DELAY - MINUTE
    made = made.with_one(wish(mode="delay"), later).with_one(wish(mode="delay", uid=1001), later)
    assert [one.not_after for one in made.held] == [NOW + DELAY, NOW + DELAY, later + DELAY]
    assert sorted(made.expired(NOW + DELAY)) == [1, 2]
    assert made.next_end() == NOW + DELAY
    gone = made.without([1, 2])
    with pytest.raises(LimitsExceeded, match="long enough today"):
        gone.with_one(wish(mode="delay"), NOW + DELAY)
    gone.with_one(wish(mode="block"), NOW + DELAY)
    tomorrow = NOW + DELAY_AGAIN
    assert gone.with_one(wish(mode="delay"), tomorrow).held[-1].not_after == tomorrow + DELAY


def test_delay_may_be_wished_shorter_and_a_clock_that_went_back_does_not_lengthen_it() -> None:
    made = with_each(wish(mode="delay", not_after=NOW + MINUTE))
    assert made.held[-1].not_after == NOW + MINUTE
    before = NOW - timedelta(days=400)
    assert made.with_one(wish(mode="delay"), before).held[-1].not_after == before + DELAY


@pytest.mark.parametrize(
    ("what", "kind", "options", "refused"),
    [
        ("check", JobKind.CHECK, JobOptions(), True),
        ("check", JobKind.UPGRADE, JobOptions(), False),
        ("download", JobKind.UPGRADE, JobOptions(), True),
        ("download", JobKind.UPGRADE, JobOptions(from_downloaded=True), False),
        ("stage", JobKind.UPGRADE, JobOptions(from_downloaded=True), True),
        ("stage", JobKind.SWITCH, JobOptions(), True),
        ("stage", JobKind.ROLLBACK, JobOptions(), True),
        ("stage", JobKind.KERNEL_ARGUMENTS, JobOptions(), True),
        ("reboot", JobKind.APPLY, JobOptions(), True),
        ("reboot", JobKind.UPGRADE, JobOptions(), False),
        ("reboot", JobKind.UPGRADE, JobOptions(apply=True), True),
        ("check:download:stage", JobKind.APPLY, JobOptions(), False),
        ("check:download:stage:reboot", JobKind.PIN, JobOptions(), False),
    ],
)
def test_block_refuses_what_needs_something_it_names(
    what: str, kind: JobKind, options: JobOptions, refused: bool
) -> None:
    held = with_each(wish(what)).held
    if not refused:
        require_uninhibited(held, kind, options, NOW)
        return
    with pytest.raises(Inhibited, match=f"^backup inhibits {what}: copying /etc$") as caught:
        require_uninhibited(held, kind, options, NOW)
    assert caught.value.fields == {"what": what, "who": "backup", "why": "copying /etc", "uid": 1000}


def test_delay_refuses_nobody_and_neither_does_a_block_that_is_over() -> None:
    held = with_each(wish("reboot", "delay"), wish("reboot", not_after=NOW + MINUTE)).held
    require_uninhibited(held, JobKind.APPLY, JobOptions(), NOW + MINUTE)
