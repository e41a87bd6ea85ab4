"""A part of `make simulate`, and that its judge finds a planner out."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from bootcd.agent.service import Service
from bootcd.policy.rollout import Rollout
from bootcd.policy.schedule import next_check
from bootcd.policy.window import Opening, next_opening, parse_window
from bootcd.update import applying, maturity, outside, staging
from bootcd.update.facts import Mode, Rules
from bootcd.update.planner import Plan
from tests.simulate.__main__ import simulate

WEEK = 7 * 24 * 60

# Of a machine that has something to do all the time.
RULES = Rules(
    mode=Mode.APPLY,
    interval=timedelta(hours=1),
    jitter=timedelta(0),
    windows=tuple(parse_window(f"{hour}:00", timedelta(minutes=90)) for hour in range(0, 24, 3)),
    rollout=Rollout(wariness=0.5, period=timedelta(hours=2)),
)


@pytest.mark.parametrize("rules", [None, RULES], ids=["some", "busy"])
def test_simulated_machines_do_what_they_must_and_nothing_else(rules: Rules | None) -> None:
    figures = simulate(WEEK, seed=1, rules=rules)
    assert figures.violations == []
    assert figures.minutes == WEEK
    assert figures.openings == figures.openings_used + figures.unused.total()
    if rules is not None:
        seen = (figures.checks, figures.staged, figures.openings_used, figures.told, figures.clock_jumps)
        assert all(seen), figures.text()


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
        "update.planner.telling_from",
        lambda now, rules: max(now, next_opening(rules.windows, rules.zone, now).opens),
        "a window was skipped",
        id="people told late",
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
    figures = simulate(100_000, seed=1, until_first=True, rules=RULES)
    assert any(violation.startswith(problem) for violation in figures.violations), figures.text()
