"""Tests of `bootcd.health.boot` that need a service manager; run by test_service_manager.py inside one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bootcd.health.boot import is_enabled, is_kept_by_greenboot, required_units, wait_for_end
from bootcd.host.clock import SystemClock
from bootcd.policy.health import Result

UNITS = {
    # The test stands in for it: its job runs for as long as the test does.
    "bootcd-health.service": "[Unit]\nBefore=boot-complete.target\n[Service]\nType=oneshot\n"
    "ExecStart=/bin/sleep infinity\n[Install]\nRequiredBy=boot-complete.target\n",
    "boot-complete.target": "[Unit]\nRequires=other.service\n",
    "multi-user.target": "[Unit]\nWants=boot-complete.target bootcd-health.service\n"
    "Wants=slow.service skipped.service\n",
    "slow.service": "[Service]\nType=oneshot\nExecStart=/bin/sh -c '"
    "until [ -e %t/go ]; do sleep 0.1; done'\n",
    "of-a-timer.service": "[Service]\nType=oneshot\nExecStart=/bin/sleep infinity\n",
    "up.service": "[Service]\nExecStart=/bin/sleep infinity\n",
    "down.service": "[Service]\nType=oneshot\nExecStart=/bin/false\n",
    "other.service": "[Unit]\nBefore=boot-complete.target\n[Service]\nType=oneshot\nExecStart=/bin/true\n",
    "after.service": "[Unit]\nAfter=bootcd-health.service\n[Service]\nType=oneshot\nExecStart=/bin/true\n",
    "skipped.service": "[Unit]\nConditionPathExists=/nowhere\n[Service]\nExecStart=/bin/true\n",
}
WATCHED = ("up.service", "down.service", "other.service", "after.service", "skipped.service")


def systemctl(*arguments: str, check: bool = True) -> None:
    subprocess.run(["systemctl", "--user", *arguments], check=check, capture_output=True)


@pytest.fixture(autouse=True)
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A boot whose slow part ends when the file that is returned is there."""
    runtime = Path(os.environ["XDG_RUNTIME_DIR"])
    directory = runtime / "systemd/user"
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in UNITS.items():
        (directory / name).write_text(text)
    systemctl("daemon-reload")
    systemctl("enable", "--runtime", "bootcd-health.service")
    systemctl("start", "down.service", check=False)
    systemctl("start", "--no-block", "multi-user.target", "of-a-timer.service", "up.service", "after.service")
    (wrapper := tmp_path / "systemctl").write_text('#!/bin/sh\nexec /usr/bin/systemctl --user "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return runtime / "go"


async def test_boot_is_waited_for_and_judged_as_the_service_manager_sees_it(boot: Path) -> None:
    [*_, late] = await wait_for_end(WATCHED, limit_secs=1, clock=SystemClock())
    assert late == Result("boot", "not at its end after 1 s, slow.service still at work")

    boot.touch()
    results = await wait_for_end(WATCHED, limit_secs=60, clock=SystemClock())

    assert [(result.name, result.problem, result.required) for result in results] == [
        ("up.service", "", True),
        ("down.service", "failed (exit-code)", True),
        ("other.service", "", True),
        ("after.service", "waits for this check, so that it cannot be a part of it", False),
        ("skipped.service", "", True),
    ]
    assert await required_units() == ("other.service",)
    assert await is_enabled()


async def test_greenboot_is_found_at_work(boot: Path) -> None:
    assert await is_kept_by_greenboot() == (False, False)

    unit = boot.parent / "systemd/user/greenboot-healthcheck.service"
    unit.write_text("[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n")
    systemctl("daemon-reload")
    assert await is_kept_by_greenboot() == (True, False)

    systemctl("enable", "--runtime", unit.name)
    assert await is_kept_by_greenboot() == (True, True)
