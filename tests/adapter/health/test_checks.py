"""Checks found in their directories and run for real, and a scripted system manager."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootcd.health.boot import is_kept_by_greenboot, required_units, wait_for_end
from bootcd.health.checks import Check, find_checks, run_check
from bootcd.policy.health import Result


def script(path: Path, text: str, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return path


class Clock:
    def __init__(self) -> None:
        self.secs = 0.0

    def boottime(self) -> float:
        return self.secs

    async def sleep(self, secs: float) -> None:
        self.secs += secs


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory whose files `jobs` and `units` are what systemctl says; `jobs-<n>` says it the nth time."""
    script(
        tmp_path / "bin/systemctl",
        f"""cd {tmp_path}; shift
case $1 in
list-jobs) echo x >>asked; n=$(wc -l <asked); [ -e jobs-$n ] && exec cat jobs-$n; exec cat jobs ;;
show) exec cat units ;;
esac""",
    )
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    (tmp_path / "jobs").touch()
    (tmp_path / "units").touch()
    return tmp_path


def test_checks_of_etc_replace_those_of_the_image_and_required_ones_come_first(tmp_path: Path) -> None:
    image, etc = tmp_path / "usr/lib/bootcd/health.d", tmp_path / "etc/bootcd/health.d"
    for path in (image / "required.d/20-b", image / "required.d/30-off", image / "wanted.d/10-w"):
        script(path, "true")
    replaced = script(etc / "required.d/20-b", "true")
    (etc / "required.d/30-off").symlink_to("/dev/null")
    script(etc / "required.d/.hidden", "true")
    script(etc / "required.d/40-old~", "true")

    found = find_checks(tmp_path, greenboot=False)

    assert found == [Check(replaced, True), Check(image / "wanted.d/10-w", False)]


def test_checks_of_greenboot_run_only_if_asked_for(tmp_path: Path) -> None:
    check = script(tmp_path / "etc/greenboot/check/required.d/01.sh", "true", 0o644)
    program = script(tmp_path / "etc/greenboot/check/required.d/02-program", "true")
    script(tmp_path / "etc/greenboot/check/required.d/README", "true", 0o644)
    image = script(tmp_path / "usr/lib/greenboot/check/required.d/01.sh", "true")
    wanted = script(tmp_path / "usr/lib/greenboot/check/wanted.d/01.sh", "true")

    assert find_checks(tmp_path, greenboot=False) == []
    assert find_checks(tmp_path, greenboot=True) == [
        Check(image, True, by_bash=True),
        Check(check, True, by_bash=True),
        Check(program, True),
        Check(wanted, False, by_bash=True),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("exit 0", "", id="good"),
        pytest.param("echo no route; exit 3", "exit status 3: no route", id="says why"),
        pytest.param("kill -TERM $$", "killed by signal 15", id="killed"),
    ],
)
async def test_check_is_judged_by_how_it_ends(tmp_path: Path, text: str, problem: str) -> None:
    path = script(tmp_path / "check", text)

    assert await run_check(Check(path, True), deadline_secs=20) == Result(str(path), problem)


async def test_check_that_hangs_is_killed_and_has_failed(tmp_path: Path) -> None:
    path = script(tmp_path / "check", "sleep 600 & wait")

    result = await run_check(Check(path, False), deadline_secs=0.2)

    assert result == Result(str(path), "has not ended after 0.2 s", required=False)


async def test_check_that_cannot_be_run_has_failed(tmp_path: Path) -> None:
    plain = script(tmp_path / "plain", "true", 0o644)
    (wrong := tmp_path / "wrong").write_text("#!/nowhere\n")
    wrong.chmod(0o755)

    assert (await run_check(Check(plain, True), deadline_secs=20)).problem == "is not executable"
    assert "cannot be run" in (await run_check(Check(wrong, True), deadline_secs=20)).problem
    assert (await run_check(Check(plain, True, by_bash=True), deadline_secs=20)).problem == ""


async def test_boot_is_waited_for_until_nothing_it_waits_for_is_started_any_more(manager: Path) -> None:
    (manager / "units").write_text("Id=multi-user.target\nAfter=slow.service\n")
    for number in (1, 2):
        (manager / f"jobs-{number}").write_text("1 slow.service start running\n")
    (manager / "jobs").write_text("2 of-a-timer.service start running\n3 multi-user.target start waiting\n")
    clock = Clock()

    assert await wait_for_end((), limit_secs=60, clock=clock, sleep=clock.sleep) == []
    assert len((manager / "asked").read_text().splitlines()) == 4


async def test_boot_that_does_not_end_in_time_is_bad(manager: Path) -> None:
    (manager / "units").write_text("Id=multi-user.target\nAfter=slow.service\n")
    (manager / "jobs").write_text("1 slow.service start running\n")
    clock = Clock()

    [result] = await wait_for_end((), limit_secs=60, clock=clock, sleep=clock.sleep)

    assert result == Result("boot", "not at its end after 60 s, slow.service still at work")
    assert clock.secs == 60


async def test_units_asked_for_are_judged_at_the_end_of_the_boot(manager: Path) -> None:
    (manager / "units").write_text(
        "Id=up.service\nActiveState=active\n\nId=down.service\nActiveState=failed\nResult=signal\n\n"
        "Id=after.service\nActiveState=inactive\nJob=7\n"
    )
    clock = Clock()
    names = ("up.service", "down.service", "after.service")

    up, down, after = await wait_for_end(names, limit_secs=60, clock=clock, sleep=clock.sleep)

    assert (up.problem, down.problem) == ("", "failed (signal)")
    assert not after.required


async def test_what_others_made_boot_complete_require_counts_too(manager: Path) -> None:
    (manager / "units").write_text(
        "Id=boot-complete.target\nRequires=sysinit.target bootcd-health.service test.service\n"
    )

    assert await required_units() == ("test.service",)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("LoadState=not-found\nUnitFileState=", (False, False)),
        ("LoadState=loaded\nUnitFileState=disabled", (True, False)),
        ("LoadState=loaded\nUnitFileState=enabled", (True, True)),
    ],
)
async def test_greenboot_is_found(manager: Path, unit: str, expected: tuple[bool, bool]) -> None:
    (manager / "units").write_text(f"Id=greenboot-healthcheck.service\n{unit}\n")

    assert await is_kept_by_greenboot() == expected
