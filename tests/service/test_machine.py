"""The simulated host itself: every service test stands on what is shown here."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import MachineFactory
from tests.support.bus import PrivateBus
from tests.support.machine import KARGS, PERSON, REPOSITORY, Machine, minimal_tree, mounts_below
from tests.support.tree import differences, scan_tree

pytestmark = pytest.mark.machine

STAGE = """
import ctypes, sys
import gi
gi.require_version("OSTree", "1.0")
from gi.repository import OSTree
CLONE_NEWNS = 0x20000
if "--own-namespace" in sys.argv:
    assert ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0
sysroot = OSTree.Sysroot.new_default()
if "--own-namespace" in sys.argv:
    sysroot.set_mount_namespace_in_use()
sysroot.load(None)
assert sysroot.get_booted_deployment() is not None
origin = sysroot.origin_new_from_refspec("fixture")
merge = sysroot.get_merge_deployment("default")
kargs = ["root=LABEL=root", "rw"]
done, deployment = sysroot.stage_tree("default", sys.argv[1], origin, merge, kargs, None)
print(deployment.get_csum())
"""

CHECK_OWN_AUTHORIZATION = """
import asyncio, sys
from dbus_fast import BusType, Message, Variant
from dbus_fast.aio import MessageBus
async def main():
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    subject = ["system-bus-name", {"name": Variant("s", bus.unique_name)}]
    reply = await bus.call(Message(
        destination="org.freedesktop.PolicyKit1", path="/org/freedesktop/PolicyKit1/Authority",
        interface="org.freedesktop.PolicyKit1.Authority", member="CheckAuthorization",
        signature="(sa{sv})sa{ss}us", body=[subject, sys.argv[1], {}, 0, ""]))
    print(reply.body[0][0])
asyncio.run(main())
"""

GRANTING_ACTION = """<?xml version="1.0"?>
<policyconfig>
  <action id="org.example.granted">
    <description>test</description>
    <message>test</message>
    <defaults><allow_any>yes</allow_any></defaults>
  </action>
</policyconfig>
"""


async def stage(machine: Machine, tree: Path) -> str:
    """Commit a tree and stage it from inside; return the commit."""
    commit = await machine.commit_tree(tree)
    done = await machine.run([sys.executable, "-c", STAGE, commit, "--own-namespace"])
    assert done.stdout.strip() == commit
    return commit


async def status(machine: Machine) -> list[tuple[str, str]]:
    """Return (mark, commit) of every deployment as `ostree admin status` prints them."""
    found = []
    for line in (await machine.run(["ostree", "admin", "status"])).stdout.splitlines():
        if " default " in line:
            checksum = line.split("default ")[1].partition(".")[0]
            mark = line[0].strip() or line.partition("(")[2].rstrip(")")
            found.append((mark, checksum))
    return found


async def test_machine_when_booted_is_an_ostree_host(machine_factory: MachineFactory) -> None:
    machine = await machine_factory()

    entry = machine.booted_entry()
    ((mark, commit),) = await status(machine)
    assert mark == "*"
    assert entry.deployment.name == f"{commit}.0"
    assert entry.options[:2] == KARGS
    assert (await machine.run(["cat", "/proc/cmdline"])).stdout.split()[1:] == list(entry.options)
    assert (await machine.run(["cat", "/etc/version.conf"])).stdout == "1\n"
    from_image = await machine.run(["cat", "/usr/lib/version"])
    assert from_image.stdout == "1\n"
    release = await machine.run(["cat", "/usr/lib/os-release"])
    assert 'PRETTY_NAME="fixture 1"' in release.stdout


async def test_machine_when_booted_leaves_deployment_as_committed(
    machine_factory: MachineFactory, tmp_path: Path
) -> None:
    tree = minimal_tree(tmp_path / "tree")
    machine = await machine_factory(tree)
    deployment = machine.booted_entry().deployment

    assert differences(scan_tree(tree), machine.scan(deployment)) == []
    await machine.power_cut()
    assert differences(scan_tree(tree), scan_tree(deployment, without=["etc"])) == []


@pytest.mark.parametrize("place", ["/", "/usr", "/sysroot", "/sysroot/ostree/repo"])
async def test_machine_when_booted_refuses_writes(machine_factory: MachineFactory, place: str) -> None:
    machine = await machine_factory()

    assert (await machine.run(["touch", f"{place}/new"], check=False)).returncode == 1


@pytest.mark.parametrize("place", ["/etc", "/var", "/run", "/tmp", "/boot"])
async def test_machine_when_booted_accepts_writes(machine_factory: MachineFactory, place: str) -> None:
    machine = await machine_factory()

    await machine.run(["touch", f"{place}/new"])


async def test_sysroot_when_read_only_needs_own_mount_namespace_to_stage(
    machine_factory: MachineFactory, tmp_path: Path
) -> None:
    machine = await machine_factory()
    commit = await machine.commit_tree(minimal_tree(tmp_path / "two", "2"))

    refused = await machine.run([sys.executable, "-c", STAGE, commit], check=False)
    assert "Read-only file system" in refused.stderr
    await machine.run([sys.executable, "-c", STAGE, commit, "--own-namespace"])
    assert [mark for mark, _ in await status(machine)] == ["staged", "*"]


async def test_reboot_with_staged_deployment_boots_it_and_keeps_rollback(
    machine_factory: MachineFactory, tmp_path: Path
) -> None:
    machine = await machine_factory()
    ((_, first),) = await status(machine)
    second = await stage(machine, minimal_tree(tmp_path / "two", "2"))
    assert await status(machine) == [("staged", second), ("*", first)]
    assert len(machine.boot_entries()) == 1

    entry = await machine.reboot()

    assert machine.finalisation is not None
    assert machine.finalisation.returncode == 0
    assert entry.deployment.name == f"{second}.0"
    assert await status(machine) == [("*", second), ("rollback", first)]
    assert [e.deployment.name for e in machine.boot_entries()] == [f"{second}.0", f"{first}.0"]
    assert (await machine.run(["cat", "/etc/version.conf"])).stdout == "2\n"
    assert (await machine.run(["ls", "/run/ostree"])).stdout == "", "/run is fresh"


async def test_etc_changed_after_staging_survives_reboot(
    machine_factory: MachineFactory, tmp_path: Path
) -> None:
    machine = await machine_factory()
    await stage(machine, minimal_tree(tmp_path / "two", "2"))
    await machine.run(
        ["sh", "-c", "echo late >/etc/late; echo mine >/etc/version.conf; echo kept >/var/kept"]
    )

    await machine.reboot()

    found = await machine.run(["cat", "/etc/late", "/etc/version.conf", "/var/kept", "/usr/lib/version"])
    assert found.stdout == "late\nmine\nkept\n2\n"


async def test_power_cut_before_finalisation_boots_first_again(
    machine_factory: MachineFactory, tmp_path: Path
) -> None:
    machine = await machine_factory()
    ((_, first),) = await status(machine)
    await stage(machine, minimal_tree(tmp_path / "two", "2"))

    await machine.power_cut()
    entry = await machine.boot()

    assert entry.deployment.name == f"{first}.0"
    assert await status(machine) == [("*", first)]
    assert not mounts_below(machine.directory)


async def test_finalisation_when_locked_leaves_first_booted(
    machine_factory: MachineFactory, tmp_path: Path
) -> None:
    machine = await machine_factory()
    ((_, first),) = await status(machine)
    await stage(machine, minimal_tree(tmp_path / "two", "2"))
    await machine.run(["touch", "/run/ostree/staged-deployment-locked"])

    await machine.reboot()

    assert await status(machine) == [("*", first)]


async def test_run_as_person_has_no_privilege(machine_factory: MachineFactory) -> None:
    machine = await machine_factory()

    assert (await machine.run(["id"], user=PERSON)).stdout == (
        f"uid={PERSON}(person) gid={PERSON}(person) groups={PERSON}(person)\n"
    )
    assert (await machine.run(["touch", "/etc/new"], user=PERSON, check=False)).returncode == 1
    imported = await machine.run([sys.executable, "-c", "import bootcd; print(bootcd.__file__)"], user=PERSON)
    assert imported.stdout.startswith(str(REPOSITORY))


async def test_signal_reaches_the_program_itself(machine_factory: MachineFactory) -> None:
    machine = await machine_factory()
    process = await machine.popen(["cat"], user=PERSON, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"running\n")
    assert await process.stdout.readline() == b"running\n"
    assert Path(f"/proc/{process.pid}/comm").read_text() == "cat\n"

    process.kill()

    assert await process.wait() == -signal.SIGKILL


async def test_shutdown_ends_programs_by_sigterm_first(machine_factory: MachineFactory) -> None:
    machine = await machine_factory()
    script = "trap 'echo ended >/var/ended; exit 0' TERM; echo ready; while :; do sleep 100 & wait; done"
    polite = await machine.popen(["sh", "-c", script], stdout=subprocess.PIPE)
    orphan = await machine.popen(["setsid", "sleep", "100"])
    assert polite.stdout is not None
    await polite.stdout.readline()

    await machine.reboot()

    assert (await machine.run(["cat", "/var/ended"])).stdout == "ended\n"
    assert await polite.wait() == 0
    assert await orphan.wait() == -signal.SIGTERM


async def test_systemctl_shim_knows_reboot_alone(machine_factory: MachineFactory) -> None:
    machine = await machine_factory()

    await machine.run(["systemctl", "reboot"])
    await machine.reboot_requested()
    assert (await machine.run(["systemctl", "poweroff"], check=False)).returncode == 1


async def test_overlay_hides_programs_of_the_host(machine_factory: MachineFactory, tmp_path: Path) -> None:
    program = tmp_path / "overlay/bin/systemctl"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho overlay\n")
    program.chmod(0o755)
    machine = await machine_factory(overlay=tmp_path / "overlay")

    assert (await machine.run(["systemctl"])).stdout == "overlay\n"


async def test_close_while_programs_run_leaves_nothing(tmp_path: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    machine = await Machine.create(tmp_path / "machine")
    async with machine:
        await machine.install_fixture(minimal_tree(tmp_path / "tree"))
        await machine.boot()
        process = await machine.popen(["sleep", "100"])
        pid = process.pid

    assert await process.wait() == -signal.SIGKILL
    assert not Path(f"/proc/{pid}").exists()
    assert not machine.directory.exists()
    assert Path("/proc/self/mountinfo").read_text() == before


async def test_machine_when_its_test_dies_ends_and_can_be_removed(tmp_path: Path) -> None:
    """A test run killed outright closes the pipe to process 1, and nothing else."""
    machine = await Machine.create(tmp_path / "machine")
    try:
        await machine.install_fixture(minimal_tree(tmp_path / "tree"))
        await machine.boot()
        process = await machine.popen(["sleep", "100"])
        assert machine._init is not None
        assert machine._init.stdin is not None

        machine._init.stdin.close()

        assert await process.wait() == -signal.SIGKILL
        shutil.rmtree(machine.directory)
    finally:
        await machine.power_cut()


async def test_boot_with_missing_mount_point_fails_by_name(tmp_path: Path) -> None:
    tree = minimal_tree(tmp_path / "tree")
    (tree / "var").rmdir()
    async with await Machine.create(tmp_path / "machine") as machine:
        await machine.install_fixture(tree)

        with pytest.raises(RuntimeError, match=r"did not boot(.|\n)*/var"):
            await machine.boot()

        assert not machine.running


async def test_private_bus_keeps_a_system_bus_policy(machine_factory: MachineFactory) -> None:
    machine = await machine_factory()
    async with await PrivateBus.start(machine):
        own = ["gdbus", "call", "--system", "-d", "org.freedesktop.DBus", "-o", "/org/freedesktop/DBus"]
        own += ["-m", "org.freedesktop.DBus.RequestName", "org.example.Name", "0"]
        for user in (0, PERSON):
            refused = await machine.run(own, user=user, check=False)
            assert "AccessDenied" in refused.stderr


async def test_private_bus_outside_of_a_machine_answers(tmp_path: Path) -> None:
    async with await PrivateBus.start(tmp_path) as bus:
        assert (await bus.wait_for_name("org.freedesktop.DBus")) == "org.freedesktop.DBus"
        with pytest.raises(TimeoutError):
            await bus.wait_for_name("org.example.Nobody", timeout=0.05)


@pytest.mark.parametrize(
    ("user", "action", "authorized"),
    [
        pytest.param(PERSON, "org.freedesktop.policykit.exec", "False", id="person"),
        pytest.param(0, "org.freedesktop.policykit.exec", "True", id="root"),
        pytest.param(PERSON, "org.example.granted", "True", id="action of the overlay"),
        pytest.param(PERSON, "org.freedesktop.policykit.exec", "True", id="rule in etc"),
    ],
)
async def test_polkitd_answers_by_caller_action_and_rule(
    machine_factory: MachineFactory,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    user: int,
    action: str,
    authorized: str,
) -> None:
    actions = tmp_path / "overlay/share/polkit-1/actions"
    actions.mkdir(parents=True)
    (actions / "org.example.policy").write_text(GRANTING_ACTION)
    machine = await machine_factory(overlay=tmp_path / "overlay")
    if "rule in etc" in request.node.name:
        rule = "polkit.addRule(function(action, subject) { if (subject.user == 'person') return 'yes'; });"
        machine.path("/etc/polkit-1/rules.d/50-test.rules").write_text(rule)
    async with await PrivateBus.start(machine) as bus:
        await bus.start_polkitd()
        code = [sys.executable, "-c", CHECK_OWN_AUTHORIZATION, action]

        assert (await machine.run(code, user=user)).stdout.strip() == authorized
