"""A bad new version is left by itself, once, on a host that boots a composefs image and that bootc drives.

Its deployments are those of the stand-in for bootc; all else is as on other hosts.
"""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MachineFactory
from tests.support.bootc_stand_in import BootcStandIn, composefs_entry, composefs_host
from tests.support.bus import PrivateBus
from tests.support.machine import PERSON, REPOSITORY, Machine
from tests.support.oci_image import file, make_image, make_layer
from tests.support.registry import Registry

pytestmark = pytest.mark.machine

CHECK = "/etc/bootcd/health.d/required.d/10-app"
NEW, OLD = composefs_entry("booted", "2"), composefs_entry("rollback", "1")
DIGEST: str = NEW["image"]["imageDigest"]
RECORD = "/var/lib/bootcd/health.json"
BLESS = REPOSITORY / ".cache/systemd-boot/systemd-bless-boot"
BOOTED_NEW, BOOTED_OLD = NEW["composefs"]["verity"], OLD["composefs"]["verity"]
VARIABLE = "/sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"


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


class Menu:
    """The boot entries of a host with systemd-boot, as bootc writes them."""

    def __init__(self, host: Composefs) -> None:
        self._host = host
        self.directory = host.machine.path("/boot/loader")
        self.directory.unlink()  # of ostree
        (self.directory / "entries").mkdir(parents=True)

    def stage(self) -> None:
        """Have bootc stage version 2 beside the booted version 1."""
        staged = composefs_entry("booted", "2")
        self._host.bootc.answer("host.json", composefs_host(booted=OLD, staged=staged))
        link = f"state/deploy/{BOOTED_NEW}/etc/systemd/system/boot-complete.target.requires"
        enabled = self._host.machine.sysroot / link / "bootcd-health.service"
        enabled.parent.mkdir(parents=True)
        enabled.symlink_to("/usr/lib/systemd/system/bootcd-health.service")
        (self.directory / "entries.staged").mkdir()
        for number, version, image in ((1, "2", BOOTED_NEW), (0, "1", BOOTED_OLD)):
            (self.directory / f"entries.staged/bootc_os-{version}-{number}.conf").write_text(
                f"title OS\nversion {version}\nlinux /EFI/Linux/{image}/vmlinuz\n"
                f"options rw composefs={image}\nsort-key bootc-os-{1 - number}\n"
            )

    async def shut_down(self) -> None:
        """Stop the units that `bootc upgrade` has started: ours, then bootc's."""
        environment = {"PATH": f"{self._host.bootc.directory}:/usr/bin:/bin"}
        await self._host.machine.run([sys.executable, "-m", "bootcd.health", "arm"], env=environment)
        (self.directory / "entries").rmdir()
        (self.directory / "entries.staged").rename(self.directory / "entries")

    async def attempt(self, before: str, after: str) -> None:
        """Boot version 2, which counts, as systemd-boot does."""
        entries = self.directory / "entries"
        (entries / f"bootc_os-2-1{before}.conf").rename(entries / f"bootc_os-2-1{after}.conf")
        self._host.bootc.answer("host.json", composefs_host(booted=NEW, rollback=OLD))
        variable = self._host.machine.path(VARIABLE)
        if not variable.parent.exists():
            await self._host.machine.run(["mount", "-t", "tmpfs", "tmpfs", "/sys/firmware"])
            variable.parent.mkdir(parents=True)
        path = f"\\loader\\entries\\bootc_os-2-1{after}.conf\0"
        variable.write_bytes(b"\x06\0\0\0" + path.encode("utf-16-le"))

    async def bless(self, *arguments: str) -> str:
        """Have systemd tell of the boot, or mark it."""
        done = await self._host.machine.run([BLESS, "--path=/boot", *arguments])
        return str(done.stdout).strip()

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in (self.directory / "entries").iterdir())


@pytest.fixture
def menu(host: Composefs) -> Menu:
    menu = Menu(host)
    menu.stage()
    host.machine.path("/run/units").write_text("Id=bootcd-health.service\nUnitFileState=enabled\n")
    return menu


@pytest.mark.skipif(not BLESS.exists(), reason="was not fetched, see tests/systemd-boot-tools.sh")
async def test_boots_of_a_staged_version_are_counted_by_systemd_boot_until_one_is_good(
    host: Composefs, menu: Menu
) -> None:
    await menu.shut_down()
    assert menu.names == ["bootc_os-1-0.conf", "bootc_os-2-1+3.conf"]
    await menu.attempt("+3", "+2-1")
    assert await menu.bless("status") == "indeterminate"
    host.set_check("true")

    assert await host.judge() == 0

    assert menu.names == ["bootc_os-1-0.conf", "bootc_os-2-1.conf"]
    # systemd marks it after boot-complete.target, and finds that done.
    assert await menu.bless("status") == "good"
    await menu.bless("good")
    assert menu.names == ["bootc_os-1-0.conf", "bootc_os-2-1.conf"]

    # What others count is theirs to mark.
    await menu.attempt("", "+1-2")
    assert await host.judge() == 0
    assert await menu.bless("status") == "indeterminate"
    await menu.bless("good")
    assert menu.names == ["bootc_os-1-0.conf", "bootc_os-2-1.conf"]


async def test_version_systemd_boot_gave_up_on_is_remembered_and_stays_left(
    host: Composefs, menu: Menu
) -> None:
    await menu.shut_down()
    await menu.attempt("+3", "+0-3")
    # systemd-boot takes the version before, of which bootc knows nothing.
    left = composefs_host(booted=OLD, rollback=NEW)
    left["status"]["rollbackQueued"] = True
    host.bootc.answer("host.json", left)
    host.set_check("true")

    assert await host.judge() == 0

    [failure] = host.record()["failures"]
    assert (failure["digest"], failure["state"]) == (DIGEST, "rolled-back")
    assert "the boot loader gave up" in failure["reasons"][0]
    assert (host.bootc.calls, host.takes_reboot()) == ([["rollback"]], False)


async def test_boots_are_not_counted_where_nobody_would_stop_that(host: Composefs, menu: Menu) -> None:
    names = ["bootc_os-1-0.conf", "bootc_os-2-1.conf"]
    for changes in ({"downloadOnly": True}, {"composefs": {**NEW["composefs"], "bootloader": "grub"}}):
        staged = composefs_entry("booted", "2", **changes)
        host.bootc.answer("host.json", composefs_host(booted=OLD, staged=staged))
        await menu.shut_down()
        assert menu.names == names
        (menu.directory / "entries").rename(menu.directory / "entries.staged")
        (menu.directory / "entries").mkdir()

    host.bootc.answer("host.json", composefs_host(booted=OLD, staged=composefs_entry("booted", "2")))
    (enabled,) = host.machine.sysroot.glob("state/deploy/*/etc/systemd/system/*/*")
    enabled.unlink()
    await menu.shut_down()
    assert menu.names == names


async def test_version_that_was_left_is_told_and_not_staged_again(host: Composefs, tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    async with Registry(tmp_path / "registry") as registry:
        newest = make_image([make_layer([file("usr/version", b"2")])], labels={"version": "2"})
        digest = await registry.push("os", "1", newest)
        for entry, known in ((new := deepcopy(NEW), digest), (old := deepcopy(OLD), "sha256:" + "1" * 64)):
            reference = {"image": f"{registry.host}/os:1", "transport": "registry"}
            entry["image"] |= {"image": reference, "imageDigest": known}
        host.bootc.answer("host.json", composefs_host(booted=new, rollback=old))
        assert await host.judge() == 1
        host.bootc.reboot()
        host.set_check("true")
        assert await host.judge() == 0
        machine = host.machine
        config = machine.path("/run/config/10-test.toml")
        config.parent.mkdir()
        config.write_text(f'[updates]\nmode = "stage"\n[registry]\ninsecure = ["{registry.host}"]\n')
        async with await PrivateBus.start(machine) as bus:
            environment = {"PATH": f"{host.bootc.directory}:/usr/bin:/bin"}
            await machine.popen([sys.executable, "-m", "bootcd", "--config-dir=/run/config"], env=environment)
            await bus.wait_for_name("org.bootcd1")
            ctl = [sys.executable, "-m", "bootcctl"]
            await machine.run([*ctl, "check"])
            history = json.loads((await machine.run([*ctl, "history", "--json"])).stdout)["entries"]
            service = json.loads(machine.path("/run/bootcd/service.json").read_text())
    told = [entry for entry in history if entry["requester"] == "health"]
    assert [(entry["kind"], entry["state"]) for entry in told] == [("rollback", "done")]
    assert told[0]["reason"].endswith(f"{CHECK}: exit status 1: no answer")
    assert "not staged: this version booted badly here" in service["next-action"]["reason"]
    assert host.bootc.calls == [["rollback"]]
