"""What the system manager says of units and jobs, read."""

from __future__ import annotations

import pytest

from bootcd.health.boot import parse_running, parse_units, state_of

JOBS = """\
   98 boot-complete.target  start waiting
   97 bootcd-health.service start running
  101 slow.service          start running
"""
DOWN = {"ActiveState": "inactive", "LoadState": "loaded"}


def test_running_jobs_are_those_of_others() -> None:
    assert parse_running(JOBS) == ["slow.service"]
    assert parse_running("No jobs running.\n") == []


def test_units_are_told_apart_by_blank_lines() -> None:
    text = "Id=a.service\nActiveState=active\nAfter=x.target y=z.mount\n\nId=b.socket\nActiveState=failed\n"

    units = parse_units(text)

    assert list(units) == ["a.service", "b.socket"]
    assert units["a.service"]["After"] == "x.target y=z.mount"


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        pytest.param({"ActiveState": "active"}, "", id="up"),
        pytest.param({"ActiveState": "activating"}, None, id="on its way"),
        pytest.param({"ActiveState": "failed", "Result": "exit-code"}, "failed (exit-code)", id="failed"),
        pytest.param({**DOWN, "LoadState": "not-found"}, "cannot be started (not-found)", id="not there"),
        pytest.param({**DOWN, "InactiveEnterTimestampMonotonic": "7"}, "", id="done"),
        pytest.param({**DOWN, "ConditionTimestampMonotonic": "7", "ConditionResult": "no"}, "", id="skipped"),
        pytest.param({**DOWN, "ConditionTimestampMonotonic": "0"}, "was not started", id="never started"),
    ],
)
def test_state_of_unit_is_judged(properties: dict[str, str], expected: str | None) -> None:
    assert state_of(properties) == expected
