"""Good or bad, and what follows: every rule alone, then all of them together over arbitrary facts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.policy.health import Action, Result, Standing, Verdict, judge, respond

NEW = Standing(digest="sha256:new", target="sha256:old")
BAD = Verdict(problems=("network: exit status 1",))

results = st.builds(
    Result, name=st.sampled_from("abc"), problem=st.sampled_from(("", "failed")), required=st.booleans()
)
digests = st.sampled_from(("", "sha256:1", "sha256:2"))
standings = st.builds(
    Standing,
    digest=digests,
    was_good=st.booleans(),
    rolled_back=st.booleans(),
    target=digests,
    target_failed=st.booleans(),
    keeper=st.sampled_from(("", "greenboot")),
    allowed=st.booleans(),
)


def test_boot_with_nothing_to_check_is_good() -> None:
    assert judge([]).good


def test_failed_required_check_makes_boot_bad() -> None:
    verdict = judge([Result("disk"), Result("network", "exit status 1")])

    assert verdict == Verdict(problems=("network: exit status 1",))


def test_failed_wanted_check_is_told_and_decides_nothing() -> None:
    verdict = judge([Result("clock", "exit status 2", required=False)])

    assert verdict.good
    assert verdict.warnings == ("clock: exit status 2",)


def test_good_boot_is_marked_whatever_was_before() -> None:
    assert respond(Verdict(), replace(NEW, rolled_back=True)).action is Action.MARK_GOOD


def test_bad_first_boot_of_new_version_is_rolled_back() -> None:
    assert respond(BAD, NEW).action is Action.ROLL_BACK


@pytest.mark.parametrize(
    ("standing", "why"),
    [
        (replace(NEW, digest=""), "not booted from an image"),
        (replace(NEW, was_good=True), "good before"),
        (replace(NEW, rolled_back=True), "rolled back once already"),
        (replace(NEW, allowed=False), "switched off"),
        (replace(NEW, keeper="greenboot"), "greenboot decides"),
        (replace(NEW, target=""), "nothing to roll back to"),
        (replace(NEW, target=NEW.digest), "the same version"),
        (replace(NEW, target_failed=True), "failed as well"),
    ],
)
def test_bad_boot_is_left_alone_for_a_reason_that_is_told(standing: Standing, why: str) -> None:
    response = respond(BAD, standing)

    assert response.action is Action.LEAVE
    assert why in response.reason


@given(st.lists(results))
def test_verdict_names_every_problem_once_and_is_bad_for_required_ones_alone(found: list[Result]) -> None:
    verdict = judge(found)

    assert verdict.good is not any(result.problem and result.required for result in found)
    assert len(verdict.problems) + len(verdict.warnings) == sum(bool(result.problem) for result in found)


@given(st.lists(results), standings)
def test_rollback_is_of_new_versions_to_another_one_that_has_not_failed(
    found: list[Result], standing: Standing
) -> None:
    verdict = judge(found)
    response = respond(verdict, standing)

    assert (response.action is Action.MARK_GOOD) is verdict.good
    assert bool(response.reason) is (response.action is Action.LEAVE)
    if response.action is Action.ROLL_BACK:
        assert not standing.was_good
        assert not standing.rolled_back
        assert not standing.target_failed
        assert standing.target not in ("", standing.digest)


@given(st.lists(st.tuples(st.sampled_from(("sha256:1", "sha256:2", "sha256:3")), st.booleans()), max_size=30))
def test_no_sequence_of_boots_rolls_a_version_back_twice(boots: list[tuple[str, bool]]) -> None:
    good: set[str] = set()
    failed: set[str] = set()
    left: list[str] = []
    before = ""
    for digest, healthy in boots:
        standing = Standing(
            digest=digest,
            was_good=digest in good,
            rolled_back=digest in failed,
            target=before,
            target_failed=before in failed,
        )
        action = respond(Verdict() if healthy else BAD, standing).action
        if action is Action.MARK_GOOD:
            good.add(digest)
        elif action is Action.ROLL_BACK:
            left.append(digest)
            failed.add(digest)
        before = digest

    assert len(left) == len(set(left))
