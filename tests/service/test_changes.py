"""What the verbs that only change a host do to one bootc deployed, and what `ostree admin status` says."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bootcd.model.job import JobKind
from tests.support.deployed import REBOOT_REQUIRED, REPOSITORY, Host, deploy_first, prepared_host
from tests.support.foreign import PYTHON, deploy, image_ref, layer_ref, refs, reorder
from tests.support.machine import KARGS

pytestmark = pytest.mark.machine


@pytest.fixture
async def unbooted(tmp_path: Path) -> AsyncIterator[Host]:
    async with prepared_host(tmp_path) as host:
        yield host


@pytest.fixture
async def host(unbooted: Host) -> Host:
    await deploy_first(unbooted)
    return unbooted


@pytest.fixture
async def upgraded(host: Host) -> Host:
    """A host that runs version 2 and can roll back to version 1; nothing says it was changed."""
    await host.publish("2")
    await host.done(JobKind.UPGRADE)
    assert await host.reboot() == "2"
    host.announced()
    return host


async def arguments(host: Host) -> dict[str, list[str]]:
    """Return the kernel arguments of every deployment, in any order but for those of one key, by role."""
    done = await host.machine.run([PYTHON, "-m", "bootcd.worker", "inspect"])
    report = json.loads(done.stdout)
    found = {}
    for role in ("staged", "booted", "rollback"):
        if entry := report["host"]["status"][role]:
            name = f"{entry['ostree']['checksum']}.{entry['ostree']['deploySerial']}"
            found[role] = sorted(report["deployments"][name]["kernel_arguments"])
    return found


def default_options(host: Host) -> list[str]:
    """Return what the boot loader gives the kernel by default, but for what libostree sets itself."""
    return sorted(option for option in host.machine.boot_entries()[0].options if "ostree=" not in option)


# kernel arguments


async def test_kernel_arguments_come_with_a_new_deployment_of_the_same_image(host: Host) -> None:
    outcome = await host.done(
        JobKind.KERNEL_ARGUMENTS, append=("audit=0", "rw", 'x="a b"'), replace=("root=LABEL=root=UUID=7",)
    )

    assert outcome.changed
    assert host.announced()
    assert host.read(REBOOT_REQUIRED) == f"bootc: Reboot required for image: {host.image('1').digest}\n"
    wanted = sorted(["root=UUID=7", "rw", "audit=0", 'x="a b"'])
    assert await arguments(host) == {"staged": wanted, "booted": sorted(KARGS)}
    assert await host.versions() == ["staged 1", "booted 1"]
    assert await host.reboot() == "1"
    assert await host.versions() == ["booted 1", "rollback 1"]
    assert default_options(host) == sorted(["root=UUID=7", "rw", "audit=0", 'x="a', 'b"'])
    (origin,) = host.machine.sysroot.glob(
        f"ostree/deploy/default/deploy/{host.machine.booted_entry().deployment.name}.origin"
    )
    assert origin.read_text() == host.origin

    unchanged = await host.done(JobKind.KERNEL_ARGUMENTS, append=("audit=0",))
    assert (unchanged.changed, await host.versions()) == (False, ["booted 1", "rollback 1"])

    await host.publish("2")
    await host.done(JobKind.UPGRADE)
    assert (await arguments(host))["staged"] == wanted


async def test_kernel_arguments_that_are_not_there_or_not_ours_are_refused(host: Host) -> None:
    for change, name in (
        ({"delete": ("quiet",)}, "WrongState"),
        ({"replace": ("root=UUID=7",)}, "WrongState"),
        ({"delete": ("ostree",)}, "InvalidArguments"),
        ({"append": ("a\nlinux /x",)}, "InvalidArguments"),
        ({}, "InvalidArguments"),
    ):
        error = await host.refused(JobKind.KERNEL_ARGUMENTS, **change)
        assert (error.name, bool(error.hint)) == (name, "\\n" not in error.message), change


@pytest.mark.parametrize("locked", [True, False], ids=["locked", "unlocked"])
async def test_kernel_arguments_join_what_is_staged_and_outlive_it(host: Host, locked: bool) -> None:
    await host.publish("2")
    await host.done(JobKind.UPGRADE, download_only=locked)

    await host.done(JobKind.KERNEL_ARGUMENTS, append=("audit=0",))

    staged = (await host.status())["staged"]
    assert (staged["image"]["version"], staged["downloadOnly"]) == ("2", locked)
    assert (await arguments(host))["staged"] == sorted([*KARGS, "audit=0"])
    await host.publish("3")
    await host.done(JobKind.UPGRADE)
    assert await host.reboot() == "3"
    assert default_options(host) == sorted([*KARGS, "audit=0"])


async def test_kernel_arguments_of_a_host_with_layered_packages_keep_them(unbooted: Host) -> None:
    host = unbooted
    origin = host.origin + "\n[packages]\nrequested=vim;\n"
    await deploy(host.machine, await host.commit("1"), origin)
    await host.machine.boot()

    await host.done(JobKind.KERNEL_ARGUMENTS, delete=("rw",), apply=True)

    await host.machine.reboot_requested()
    await host.reboot()
    assert default_options(host) == ["root=LABEL=root"]
    (kept,) = host.machine.sysroot.glob(
        f"ostree/deploy/default/deploy/{host.machine.booted_entry().deployment.name}.origin"
    )
    assert kept.read_text().split() == origin.split()


MARKS = """
import sys, gi; gi.require_version("OSTree", "1.0"); from gi.repository import GLib, OSTree
from pathlib import Path
from bootcd.ostree.sysroot import keep_staged_marks
path = Path("/run/ostree/staged-deployment")
staged = GLib.Variant.new_from_bytes(GLib.VariantType("a{sv}"), GLib.Bytes.new(path.read_bytes()), False)
entries = {key: staged.lookup_value(key, None) for key in staged.keys()}
marks = {"x-options-source-tuned": "nohz=full", "x-options-source-gone": ""}
entries["bootconfig-extra"] = GLib.Variant("a{ss}", marks)
path.write_bytes(GLib.Variant("a{sv}", entries).get_data_as_bytes().get_data())
entry = OSTree.BootconfigParser.new()
keep_staged_marks(Path("/"), entry)
print({key: entry.get(key) for key in marks})
"""


async def test_marks_staged_with_the_kernel_arguments_are_put_where_the_next_staging_takes_them_from(
    host: Host,
) -> None:
    await host.done(JobKind.KERNEL_ARGUMENTS, append=("nohz=full",))
    done = await host.machine.run([PYTHON, "-c", MARKS])

    assert done.stdout.strip() == str({"x-options-source-tuned": "nohz=full", "x-options-source-gone": ""})
    await host.done(JobKind.KERNEL_ARGUMENTS, append=("audit=0",))
    assert await host.reboot() == "1"


# options of bootc


async def test_upgrade_from_what_is_downloaded_asks_no_registry(host: Host) -> None:
    error = await host.refused(JobKind.UPGRADE, from_downloaded=True)
    assert (error.name, "--download-only" in error.hint) == ("WrongState", True)
    digest = await host.publish("2")
    await host.done(JobKind.UPGRADE, download_only=True)
    host.front = "127.0.0.1:1"

    outcome = await host.done(JobKind.UPGRADE, from_downloaded=True)

    assert outcome.update is not None
    assert (outcome.changed, outcome.update.digest, outcome.update.version) == (True, digest, "2")
    assert (await host.done(JobKind.UPGRADE, from_downloaded=True)).changed is False
    outcome = await host.done(JobKind.UPGRADE, from_downloaded=True, apply=True)
    assert (outcome.changed, outcome.reboot) == (False, True)
    assert await host.reboot() == "2"


async def test_upgrade_to_another_digest_than_expected_fails_before_anything_is_fetched(host: Host) -> None:
    wanted = await host.publish("2")
    newest = await host.publish("3")

    error = await host.refused(JobKind.UPGRADE, expect_digest=wanted)

    assert (error.name, error.fields) == ("DigestMismatch", {"expected": wanted, "actual": newest})
    outcome = await host.done(JobKind.UPGRADE, expect_digest=newest)
    assert outcome.update is not None
    assert (outcome.changed, outcome.update.digest) == (True, newest)
    assert (await host.done(JobKind.UPGRADE, expect_digest=newest)).changed is False
    assert (await host.refused(JobKind.UPGRADE, from_downloaded=True, expect_digest=newest)).name == (
        "InvalidArguments"
    )


async def test_upgrade_goes_back_to_an_older_version_only_by_leave(host: Host) -> None:
    await host.publish("2")
    await host.done(JobKind.UPGRADE)
    oldest = await host.publish("0")

    error = await host.refused(JobKind.UPGRADE)

    assert (error.name, error.fields["digest"]) == ("DowngradeRefused", oldest)
    assert ("which is staged" in error.message, "--allow-downgrade" in error.hint) == (True, True)
    await host.done(JobKind.SWITCH, image=f"{host.front}/{REPOSITORY}:stable")
    assert await host.versions() == ["staged 0", "booted 1"], "who names an image says where to go"
    await host.publish("00")
    assert "which is booted" in (await host.refused(JobKind.UPGRADE)).message
    assert (await host.done(JobKind.UPGRADE, allow_downgrade=True)).changed is True
    assert (await host.done(JobKind.UPGRADE)).changed is False, "it is here already, by leave"
    assert await host.reboot() == "00"


async def test_upgrade_to_another_tag_is_what_the_host_tracks_from_then_on(host: Host) -> None:
    await host.publish("1", tag="edge")
    name = f"{host.front}/{REPOSITORY}:edge"

    outcome = await host.done(JobKind.UPGRADE, tag="edge")

    assert (outcome.changed, outcome.bytes_fetched) == (True, 0), "the same image by another name"
    staged = (await host.status())["staged"]["image"]
    assert staged["image"] == {"image": name, "transport": "registry"}
    assert await host.reboot() == "1"
    await host.publish("2", tag="edge")
    await host.done(JobKind.UPGRADE)
    assert await host.versions() == ["staged 2", "booted 1", "rollback 1"]
    assert (await host.refused(JobKind.UPGRADE, tag="absent")).name == "NotFound"


async def test_check_tells_what_differs(host: Host) -> None:
    await host.publish("2")

    outcome = await host.done(JobKind.CHECK)

    assert outcome.update is not None
    changes = outcome.update.changes
    assert changes is not None
    (old,), (new,) = host.image("1").layers, host.image("2").layers
    assert (changes.from_version, changes.from_digest) == ("1", host.image("1").digest)
    assert (changes.layers, changes.added_layers, changes.removed_layers) == (1, 1, 1)
    assert (changes.added_bytes, changes.removed_bytes) == (len(new.blob), len(old.blob))


async def test_version_whose_layer_the_registry_lacks_is_not_offered_until_it_has_it(
    host: Host, tmp_path: Path
) -> None:
    digest = await host.publish("2")
    (layer,) = host.image("2").layers
    value = hashlib.sha256(layer.blob).hexdigest()
    link = next(host.registry.directory.rglob(f"_layers/sha256/{value}"))
    link.rename(tmp_path / "aside")

    error = await host.refused(JobKind.CHECK)

    assert error.name == "NotFound"
    assert error.message.endswith(f"of 1 new layers 1 cannot be found, the first is sha256:{value}")
    assert (await host.status())["booted"]["cachedUpdate"] is None
    (tmp_path / "aside").rename(link)
    for _ in range(2):
        outcome = await host.done(JobKind.CHECK)
        assert outcome.update is not None
        assert outcome.update.digest == digest


async def test_soft_reboot_is_refused_where_required_and_left_out_where_not(host: Host) -> None:
    await host.publish("2")
    error = await host.refused(JobKind.UPGRADE, soft_reboot="required")
    assert error.name == "Unsupported"

    outcome = await host.done(JobKind.UPGRADE, soft_reboot="auto", apply=True)

    assert (outcome.reboot, outcome.soft_reboot) == (True, False)
    await host.machine.reboot_requested()


@pytest.mark.parametrize("retain", [True, False], ids=["retained", "by default"])
async def test_switch_from_a_plain_ref_deletes_it_unless_it_is_to_stay(unbooted: Host, retain: bool) -> None:
    host = unbooted
    commit = await host.machine.commit_tree(host.tree("1"), branch="fedora/42")
    await deploy(host.machine, commit, "[origin]\nrefspec=fedora/42\n")
    await host.machine.boot()
    await host.publish("2")

    await host.done(JobKind.SWITCH, image=host.name, retain=retain)

    assert ("fedora/42" in await refs(host.machine)) is retain
    assert await host.reboot() == "2"
    assert await host.versions() == ["booted 2", "rollback 1"]


# pins and drops


async def test_pin_keeps_a_deployment_until_it_is_unpinned(upgraded: Host) -> None:
    host = upgraded

    assert (await host.done(JobKind.PIN)).changed is True
    assert (await host.status())["booted"]["pinned"] is True
    assert host.announced()
    assert (await host.done(JobKind.PIN, deployment="booted")).changed is False
    await host.done(JobKind.PIN, deployment="1")
    listed = (await host.machine.run(["ostree", "admin", "status"])).stdout
    assert listed.count("Pinned: yes") == 2

    error = await host.refused(JobKind.DROP, deployment="rollback")
    assert (error.name, error.hint) == ("WrongState", "unpin it first: bootcctl unpin")
    rollback = (await host.status())["rollback"]["ostree"]
    await host.done(JobKind.UNPIN, deployment=f"{rollback['checksum']}.{rollback['deploySerial']}")
    assert (await host.status())["rollback"]["pinned"] is False
    for name in ("staged", "5", "0" * 64 + ".0"):
        assert (await host.refused(JobKind.PIN, deployment=name)).name == "NoSuchDeployment"
    assert (await host.refused(JobKind.PIN, deployment="newest")).name == "InvalidArguments"
    await host.publish("3")
    await host.done(JobKind.UPGRADE)
    assert (await host.refused(JobKind.PIN, deployment="staged")).name == "WrongState"


async def test_drop_of_what_is_staged_takes_it_off_the_host_and_its_image_off_the_disk(
    upgraded: Host,
) -> None:
    host = upgraded
    before = await host.versions(), await refs(host.machine)
    digest = await host.publish("3")
    await host.done(JobKind.UPGRADE, download_only=True)
    host.announced()

    outcome = await host.done(JobKind.DROP, deployment="staged")

    assert (outcome.changed, outcome.dropped) == (True, digest)
    assert host.announced()
    assert host.read(REBOOT_REQUIRED) is None
    assert not host.machine.path("/run/ostree/staged-deployment-locked").exists()
    assert (await host.versions(), await refs(host.machine)) == before
    assert (await host.refused(JobKind.DROP, deployment="staged")).name == "NoSuchDeployment"
    assert await host.reboot() == "2"


async def test_drop_of_the_rollback_leaves_what_is_booted_and_staged(upgraded: Host) -> None:
    host = upgraded
    await host.publish("3")
    await host.done(JobKind.UPGRADE)

    outcome = await host.done(JobKind.DROP, deployment="rollback")

    assert outcome.dropped == host.image("1").digest
    assert await host.versions() == ["staged 3", "booted 2"]
    assert layer_ref(host.image("1").layers[0]) not in await refs(host.machine)
    assert image_ref(host.name) in await refs(host.machine)
    assert await host.reboot() == "3"
    await host.machine.ostree("fsck", f"--repo={host.machine.repo}")


async def test_drop_of_what_runs_or_comes_next_is_refused(upgraded: Host) -> None:
    host = upgraded
    for name in ("booted", "0"):
        error = await host.refused(JobKind.DROP, deployment=name)
        assert (error.name, "runs on it" in error.message) == ("WrongState", True)
    await reorder(host.machine)
    error = await host.refused(JobKind.DROP, deployment="rollback")
    assert (error.name, error.hint) == ("WrongState", "take that back first: bootcctl rollback")
    assert (await host.refused(JobKind.DROP, deployment="")).name == "InvalidArguments"


# the overlay on /usr


async def test_usr_overlay_is_mounted_for_the_host_until_it_reboots(host: Host) -> None:
    pid = host.machine._init_pid
    # As systemd does at boot: what is mounted in a namespace, those it was made from see.
    await host.machine.run(["mount", "--make-rshared", "/"])

    outcome = await host.done(JobKind.USR_OVERLAY)

    assert outcome.changed
    (overlay,) = re.findall(r" /usr (rw|ro).* - overlay .*upperdir=/var/tmp/ostree-unlock", mounts(pid))
    assert overlay == "rw"
    # It shows the deployment alone, which has no programs, as this machine's /usr is below no more.
    subprocess.run([PYTHON, "-c", UNMOUNT, str(pid)], check=True)
    assert "Unlocked: development" in (await host.machine.run(["ostree", "admin", "status"])).stdout
    assert (await host.status())["usrOverlay"] == {"accessMode": "readWrite", "persistence": "transient"}
    assert (await host.refused(JobKind.USR_OVERLAY)).name == "WrongState"
    await host.reboot()
    assert (await host.status())["usrOverlay"] is None


UNMOUNT = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
assert libc.setns(os.open(f"/proc/{sys.argv[1]}/ns/mnt", os.O_RDONLY), 0x20000) == 0
assert libc.umount2(b"/usr", 2) == 0
"""


def mounts(pid: int) -> str:
    return Path(f"/proc/{pid}/mountinfo").read_text()
