"""A new version that boots badly is left by itself, once; on a real system root that boots in a namespace."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bootcd.install.grub import static_config
from bootcd.ostreefmt.grubenv import change_block, read_variable
from tests.conftest import MachineFactory
from tests.service.test_machine import stage
from tests.support.machine import PERSON, Machine, minimal_tree

pytestmark = pytest.mark.machine

CHECK = "etc/bootcd/health.d/required.d/10-version"


def set_check(machine: Machine, command: str) -> None:
    path = machine.path(CHECK)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)


async def judge(machine: Machine) -> int:
    done = await machine.run([sys.executable, "-m", "bootcd.health"], check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode


async def ctl(machine: Machine, *arguments: str, user: int = 0) -> subprocess.CompletedProcess[str]:
    """Run bootcctl, with bootcd-health where it looks for it."""
    programs = Path(sys.executable).parent
    command = [programs / "bootcctl", *arguments]
    return await machine.run(command, user=user, env={"PATH": f"{programs}:/usr/bin"}, check=False)


async def record(machine: Machine, *, user: int = PERSON) -> dict[str, Any]:
    place = "/run/bootcd" if user else "/var/lib/bootcd"
    return dict(json.loads((await machine.run(["cat", f"{place}/health.json"], user=user)).stdout))


def version(machine: Machine) -> str:
    return machine.path("/usr/lib/version").read_text().strip()


def reboots(machine: Machine) -> bool:
    return machine.path("/run/reboot-requested").exists()


@pytest.fixture
async def updated(machine_factory: MachineFactory, tmp_path: Path) -> tuple[Machine, str]:
    """A host that has booted version 2 for the first time, and its digest; a check is good with version 1."""
    machine = await machine_factory()
    set_check(machine, 'echo "found $(cat /usr/lib/version)"; grep -qx 1 /usr/lib/version')
    assert await judge(machine) == 0
    commit = await stage(machine, minimal_tree(tmp_path / "v2", "2"))
    await machine.reboot()
    assert version(machine) == "2"
    return machine, commit


async def test_bad_first_boot_is_rolled_back_and_remembered_and_never_twice(
    updated: tuple[Machine, str],
) -> None:
    machine, commit = updated

    assert await judge(machine) == 1
    await machine.reboot_requested()
    await machine.reboot()

    assert version(machine) == "1"
    assert await judge(machine) == 0
    [failure] = (await record(machine, user=0))["failures"]
    assert (failure["digest"], failure["state"]) == (commit, "rolled-back")
    shown = json.loads((await ctl(machine, "health", "--json", user=PERSON)).stdout)
    assert (shown["health"], shown["failures"][0]["digest"]) == ("good", commit)
    assert failure["reasons"] == [f"/{CHECK}: exit status 1: found 2"]
    assert machine.path("/var/lib/bootcd/health.json").stat().st_mode & 0o777 == 0o600

    await machine.shutdown()
    await machine.boot(choice=1)
    assert (version(machine), await judge(machine)) == ("2", 1)
    last = (await record(machine))["last"]
    assert (last["action"], reboots(machine)) == ("leave", False)
    assert "rolled back once already" in last["reason"]

    set_check(machine, "true")
    assert await judge(machine) == 0
    assert (await record(machine))["failures"] == []


async def test_rollback_cut_off_by_a_power_cut_is_finished_and_not_undone(
    updated: tuple[Machine, str],
) -> None:
    machine, commit = updated
    assert await judge(machine) == 1
    path = machine.path("/var/lib/bootcd/health.json")
    document = json.loads(path.read_text())
    document["failures"][0]["state"] = "rolling-back"
    path.write_text(json.dumps(document))
    machine.path("/run/reboot-requested").unlink()

    assert await judge(machine) == 1

    assert reboots(machine)
    await machine.reboot()
    assert version(machine) == "1"
    assert await judge(machine) == 0
    [failure] = (await record(machine))["failures"]
    assert (failure["digest"], failure["state"]) == (commit, "rolled-back")


async def test_version_that_was_good_once_is_left_alone(updated: tuple[Machine, str]) -> None:
    machine, commit = updated
    set_check(machine, "true")
    assert await judge(machine) == 0

    set_check(machine, "false")
    await machine.reboot()

    assert (version(machine), await judge(machine)) == ("2", 1)
    found = await record(machine)
    assert not reboots(machine)
    assert (found["last"]["action"], found["failures"], found["good"][-1]) == ("leave", [], commit)


async def test_rollback_that_is_switched_off_is_not_done(updated: tuple[Machine, str]) -> None:
    machine, commit = updated
    config = machine.path("/run/bootcd/config.d/10-test.toml")
    config.parent.mkdir(parents=True)
    config.write_text("[health]\nrollback = false\n")

    assert await judge(machine) == 1

    found = await record(machine)
    assert (found["last"]["reason"], reboots(machine)) == ("automatic rollback is switched off", False)
    assert found["failures"][0]["state"] == "bad"
    assert (await ctl(machine, "health")).returncode == 78
    assert (await ctl(machine, "health", "clear", user=PERSON)).returncode == 4
    assert (await ctl(machine, "health", "clear", "sha256:other")).returncode == 2
    assert (await ctl(machine, "health", "clear", commit)).stdout == f"{commit} may be taken again\n"
    assert (await record(machine))["failures"] == []


async def test_rollback_is_left_to_greenboot_where_that_is_at_work(updated: tuple[Machine, str]) -> None:
    machine, commit = updated
    machine.path("/run/units").write_text(
        "Id=greenboot-healthcheck.service\nLoadState=loaded\nUnitFileState=enabled\nActiveState=active\n"
    )

    assert await judge(machine) == 1

    found = await record(machine)
    assert (found["last"]["reason"], reboots(machine)) == ("greenboot decides on this host", False)
    assert (found["failures"][0]["digest"], found["failures"][0]["state"]) == (commit, "bad")


async def test_boot_that_was_not_judged_yet_is_told(machine_factory: MachineFactory) -> None:
    done = await ctl(await machine_factory(), "health")

    assert done.returncode == 5
    assert "has not been judged yet" in done.stderr


async def test_version_that_never_comes_up_is_left_for_good_where_grub_gave_up_on_it(
    machine_factory: MachineFactory, tmp_path: Path
) -> None:
    machine = await machine_factory()
    grub = machine.path("/boot/grub2")
    grub.mkdir()
    (grub / "grub.cfg").write_text(static_config("/boot", ""))
    machine.path("/run/units").write_text("Id=bootcd-health.service\nUnitFileState=enabled\n")
    arm = [sys.executable, "-m", "bootcd.health", "arm"]
    assert await judge(machine) == 0
    plain = await stage(machine, minimal_tree(tmp_path / "plain", "3"))
    await machine.run(arm)
    assert counter(machine) == (None, "1"), "nobody would stop counting boots of what judges none"

    tree = minimal_tree(tmp_path / "v2", "2")
    (tree / "usr/lib/systemd/system").mkdir(parents=True)
    (tree / "usr/lib/systemd/system/bootcd-health.service").touch()
    commit = await stage(machine, tree)
    await machine.run(arm)
    assert counter(machine) == ("3", "1")
    await machine.shutdown()
    set_counter(machine.sysroot / "boot/grub2/grubenv", "-1")  # as GRUB does after it has tried often enough
    await machine.boot(choice=1)
    await machine.run(["mount", "-o", "remount,bind,ro", "/boot"])  # as on hosts installed by bootc

    assert version(machine) == "1"
    assert await judge(machine) == 0

    assert counter(machine) == (None, "1")
    [failure] = (await record(machine))["failures"]
    assert (failure["digest"], failure["state"]) == (commit, "rolled-back")
    assert "the boot loader gave up" in failure["reasons"][0]
    assert commit != plain
    assert not reboots(machine)
    await machine.reboot()
    assert version(machine) == "1"


def counter(machine: Machine) -> tuple[str | None, str | None]:
    block = machine.path("/boot/grub2/grubenv").read_bytes()
    return read_variable(block, "boot_counter"), read_variable(block, "boot_success")


def set_counter(path: Path, value: str) -> None:
    path.write_bytes(change_block(path.read_bytes(), {"boot_counter": value, "boot_success": "0"}))
