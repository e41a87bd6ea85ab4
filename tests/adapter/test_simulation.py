"""A part of `make simulate`, and that its judge finds a planner out."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from bootcd.agent.service import Service
from bootcd.policy.schedule import next_check
from bootcd.policy.window import Opening, next_opening
from bootcd.update import applying, maturity, outside, staging
from bootcd.update.planner import Plan
from tests.simulate.__main__ import simulate

MINUTES = 20_160


def test_simulated_machines_do_what_they_must_and_nothing_else() -> None:
    figures = simulate(MINUTES, seed=1)
    assert figures.violations == []
    assert figures.minutes == MINUTES
    seen = (figures.checks, figures.staged, figures.openings_used, figures.clock_jumps, figures.clock_changes)
    assert all((*seen, figures.told)), figures.text()
    assert figures.openings == figures.openings_used + figures.unused.total()


def _for_another_moment(service: Service, **arguments: Any) -> Plan:
    """Make a plan for a moment that is not the one it is judged by."""
    return PLAN(service, **{**arguments, "now": service._clock.now()})


PLAN = Service.plan


def _shifted(real: Callable[..., Any], minutes: int) -> Callable[..., Any]:
    def wrong(*arguments: Any, **named: Any) -> Any:
        found, by = real(*arguments, **named), timedelta(minutes=minutes)
        if isinstance(found, Opening):
            return Opening(found.opens + by, found.closes + by)
        return found + by if found else found

    return wrong


WRONG = [
    pytest.param("agent.service.Service.plan", _for_another_moment, "a loop", id="never due"),
    pytest.param(
        "update.applying.next_opening",
        _shifted(next_opening, -1),
        "a reboot outside",
        id="window opens early",
    ),
    pytest.param(
        "update.applying.next_opening", _shifted(next_opening, 1), "a window was skipped", id="opens late"
    ),
    pytest.param(
        "update.planner.next_check", _shifted(next_check, -1), "a check before its turn", id="check early"
    ),
    pytest.param(
        "update.planner.courtesy_from",
        lambda now, rules: now + timedelta(seconds=30),
        "a reboot before people could finish",
        id="courtesy short",
    ),
    pytest.param(
        "update.planner.next_check", _shifted(next_check, 60), "a check is overdue", id="check late"
    ),
    *(
        pytest.param(
            f"update.planner.{actions}",
            tuple(check for check in checks if check is not left_out),
            problem,
            id=f"no gate {left_out.__name__}",
        )
        for actions, checks, left_out, problem in (
            ("APPLYING", applying.APPLYING, applying.window, "a reboot outside"),
            ("APPLYING", applying.APPLYING, outside.sessions, "a reboot nobody was told of"),
            ("APPLYING", applying.APPLYING, outside.shutdown_blocked, "a reboot at a bad moment"),
            ("STAGING", staging.STAGING, outside.metered, "staging at a bad moment"),
            ("STAGING", staging.STAGING, maturity.rollout, "staging before the turn"),
            ("STAGING", staging.STAGING, maturity.downgrade, "staging of what is older"),
        )
    ),
]


@pytest.mark.parametrize(("where", "wrong", "problem"), WRONG)
def test_planner_that_is_wrong_is_found_out(
    monkeypatch: pytest.MonkeyPatch, where: str, wrong: object, problem: str
) -> None:
    monkeypatch.setattr(f"bootcd.{where}", wrong)
    figures = simulate(3_000_000, seed=3, until_first=True)
    assert any(violation.startswith(problem) for violation in figures.violations), figures.text()
