"""A bad new version is left by itself, once, on a host that boots a composefs image and that bootc drives.

Its deployments are those of the stand-in for bootc; all else is as on other hosts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MachineFactory
from tests.support.bootc_stand_in import BootcStandIn, composefs_entry, composefs_host
from tests.support.machine import PERSON, Machine

pytestmark = pytest.mark.machine

CHECK = "/etc/bootcd/health.d/required.d/10-app"
NEW, OLD = composefs_entry("booted", "2"), composefs_entry("rollback", "1")
DIGEST: str = NEW["image"]["imageDigest"]
RECORD = "/var/lib/bootcd/health.json"


class Composefs:
    """A machine that is not of ostree, and its bootc."""

    def __init__(self, machine: Machine, bootc: BootcStandIn) -> None:
        self.machine = machine
        self.bootc = bootc

    def set_check(self, command: str) -> None:
        path = self.machine.path(CHECK)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{command}\n")
        path.chmod(0o755)

    async def judge(self) -> int:
        environment = {"PATH": f"{self.bootc.directory}:/usr/bin:/bin"}
        command = [sys.executable, "-m", "bootcd.health"]
        done = await self.machine.run(command, env=environment, check=False)
        assert done.returncode in (0, 1), done.stderr
        assert "Traceback" not in done.stderr
        return done.returncode

    def record(self) -> dict[str, Any]:
        return dict(json.loads(self.machine.path(RECORD).read_text()))

    def takes_reboot(self) -> bool:
        """Tell whether a reboot was asked for, and forget it."""
        requested = self.machine.path("/run/reboot-requested")
        found = requested.exists()
        requested.unlink(missing_ok=True)
        return found


@pytest.fixture
async def host(machine_factory: MachineFactory, tmp_path: Path) -> Composefs:
    """A host that has booted version 2 for the first time, which is bad."""
    bootc = BootcStandIn(tmp_path / "bin")
    bootc.answer("host.json", composefs_host(booted=NEW, rollback=OLD))
    bootc.answer("journalctl", "#!/bin/sh\necho app: no such table\n")
    (bootc.directory / "journalctl").chmod(0o755)
    machine = await machine_factory(binds=[bootc.directory])
    machine.path("/run/ostree-booted").unlink()
    machine.path("/run/cmdline").write_text(f"root=UUID=1 composefs={'0a' * 64} rw\n")
    await machine.run(["mount", "--bind", "/run/cmdline", "/proc/cmdline"])
    host = Composefs(machine, bootc)
    host.set_check("echo no answer; exit 1")
    return host


async def test_bad_first_boot_is_rolled_back_by_bootc_and_never_twice(host: Composefs) -> None:
    assert await host.judge() == 1

    assert host.takes_reboot()
    assert host.bootc.calls == [["rollback"]]
    host.bootc.reboot()
    host.set_check("true")
    assert await host.judge() == 0
    [failure] = host.record()["failures"]
    assert (failure["digest"], failure["version"], failure["state"]) == (DIGEST, "2", "rolled-back")
    assert failure["reasons"] == [f"{CHECK}: exit status 1: no answer"]
    assert failure["journal"] == "app: no such table\n"
    public = (await host.machine.run(["cat", "/run/bootcd/health.json"], user=PERSON)).stdout
    assert "no such table" not in public
    assert json.loads(public)["last"]["good"] is True

    # Somebody boots it once more.
    host.bootc.answer("host.json", composefs_host(booted=NEW, rollback=OLD))
    host.set_check("false")
    assert await host.judge() == 1
    assert (host.takes_reboot(), host.bootc.calls) == (False, [["rollback"]])
    assert "rolled back once already" in host.record()["last"]["reason"]


async def test_rollback_bootc_fails_at_is_told_and_the_host_stays_up(host: Composefs) -> None:
    host.bootc.answer("fail", "error: Rolling back composefs: Opening loader dir: Read-only file system\n")

    assert await host.judge() == 1

    last = host.record()["last"]
    told = "Rolling back composefs: Opening loader dir: Read-only file system"
    assert last["reason"] == f"the rollback failed: bootc cannot change the boot order: {told}"
    assert (last["action"], host.record()["failures"][0]["state"]) == ("leave", "bad")
    assert not host.takes_reboot()

    # One that claims success and changes nothing would have the host boot the same version again and again.
    (host.bootc.directory / "fail").unlink()
    host.bootc.answer("after.json", composefs_host(booted=NEW, rollback=OLD))
    assert await host.judge() == 1
    assert not host.takes_reboot()
    assert "what boots next is the same as before" in host.record()["last"]["reason"]


async def test_rollback_cut_off_by_a_power_cut_is_finished_and_not_undone(host: Composefs) -> None:
    assert await host.judge() == 1
    assert host.takes_reboot()
    document = host.record()
    document["failures"][0]["state"] = "rolling-back"
    host.machine.path(RECORD).write_text(json.dumps(document))

    assert await host.judge() == 1

    assert host.takes_reboot()
    assert host.bootc.calls == [["rollback"]]
