"""The main job on a whole host: registry, ostree system root, daemon, client, all real."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.faultproxy import FaultProxy
from tests.support.foreign import held_lock
from tests.support.host import PERSON, Host
from tests.support.tree import Tree, deployed, scan_tree

pytestmark = [pytest.mark.machine, pytest.mark.timeout(300)]


def digest(entry: dict[str, object] | None) -> object:
    return entry and entry["image"]["imageDigest"]  # type: ignore[index]


async def test_deployed_tree_is_the_flattened_image(host: Host, os_tree: Callable[[str], Tree]) -> None:
    for tag in ("v1", "v2"):
        if tag == "v2":
            await host.publish(tag)
            await host.ctl("upgrade")
            await host.reboot()
        found = scan_tree(deployment_usr(host))
        wanted = deployed(os_tree(tag), factory_var=True)
        wanted = {
            path.removeprefix("usr/"): entry for path, entry in wanted.items() if path.startswith("usr/")
        }
        assert len(found) > 10_000
        assert without_inodes(found) == without_inodes(wanted)


def deployment_usr(host: Host) -> Path:
    return host.machine.booted_entry().deployment / "usr"


def without_inodes(tree: Tree) -> Tree:
    return {path: replace(entry, inode=0) for path, entry in tree.items()}


async def test_upgrade_apply_rollback_and_switch_end_where_they_should(host: Host) -> None:
    machine = host.machine
    v1 = host.images.digest("v1")
    assert digest((await host.status())["booted"]) == v1
    assert kernel_arguments(host) == {"rw", "console=ttyS0"}
    assert (await host.ctl("check", check=False)).returncode == 77

    v2 = await host.publish("v2")
    checked = json.loads((await host.ctl("check", "--json")).stdout)
    assert v2 in json.dumps(checked)
    assert (await host.status())["booted"]["cachedUpdate"]["imageDigest"] == v2

    await host.ctl("upgrade")
    status = await host.status()
    assert (digest(status["booted"]), digest(status["staged"])) == (v1, v2)

    # What is edited after staging goes along; what is in /var is nobody's to change.
    machine.path("/etc/hosts").write_text("edited after staging\n")
    machine.path("/var/lib/precious").write_text("kept\n")
    await host.ctl("apply")
    await machine.reboot_requested()
    await host.reboot()
    status = await host.status()
    assert (digest(status["booted"]), digest(status["rollback"]), status["staged"]) == (v2, v1, None)
    assert machine.path("/etc/hosts").read_text() == "edited after staging\n"
    assert machine.path("/var/lib/precious").read_text() == "kept\n"
    assert kernel_arguments(host) == {"rw", "console=ttyS0", "quiet"}

    await host.ctl("rollback")
    assert (await host.status())["rollbackQueued"]
    await host.ctl("rollback")
    assert not (await host.status())["rollbackQueued"]
    await host.ctl("rollback", "--apply")
    await machine.reboot_requested()
    await host.reboot()
    assert digest((await host.status())["booted"]) == v1
    assert kernel_arguments(host) == {"rw", "console=ttyS0"}

    other = await host.publish("other", name="example/other")
    await host.ctl("switch", "--apply", f"{host.front}/example/other:stable")
    await machine.reboot_requested()
    await host.reboot()
    status = await host.status()
    assert digest(status["booted"]) == other
    assert status["booted"]["image"]["image"]["image"] == f"{host.front}/example/other:stable"

    kinds = [entry["kind"] for entry in await host.history()]
    assert kinds == ["switch", "rollback", "rollback", "rollback", "apply", "upgrade", "check", "check"]


def kernel_arguments(host: Host) -> set[str]:
    """Return what the host was booted with, but for what leads to its deployment."""
    return {word for word in host.machine.booted_entry().options if not word.startswith("ostree=")}


async def test_ostree_agrees_with_what_was_deployed(host: Host) -> None:
    await host.publish("v2")
    await host.ctl("upgrade")
    await host.reboot()
    machine = host.machine
    repo = f"--repo={machine.repo}"
    assert "no errors found" in await machine.ostree("fsck", repo)
    status = (await machine.run(["ostree", "admin", "status"])).stdout
    assert re.search(r"^\* default [0-9a-f]{64}\.0", status, re.MULTILINE)
    assert "(rollback)" in status
    refs = set((await machine.ostree("refs", repo, "--list")).split())
    layers = {ref for ref in refs if ref.startswith("ostree/container/blob/sha256_3A_")}
    images = {ref for ref in refs if ref.startswith("ostree/container/image/docker_3A__2F__2F_")}
    rest = refs - layers - images
    assert len(images) == 1
    assert len(layers) == len(host.layers("v1", "v2"))
    assert all(re.fullmatch(r"ostree/[01]/[01]/[01]", ref) for ref in rest)
    for entry in machine.boot_entries():
        assert (machine.sysroot / "boot" / entry.linux.removeprefix("/boot").lstrip("/")).exists()
    origins = sorted(machine.sysroot.glob("ostree/deploy/default/deploy/*.origin"))
    for origin in origins:
        lines = origin.read_text().splitlines()
        assert lines == ["[origin]", f"container-image-reference=ostree-unverified-registry:{host.reference}"]


async def test_upgrade_fetches_only_layers_that_changed(host: Host, proxy: FaultProxy) -> None:
    await host.publish("v2")
    before = len(proxy.requests)
    await host.ctl("upgrade")
    fetched = {seen.path.rpartition("/")[2] for seen in proxy.requests[before:] if "/blobs/" in seen.path}
    wanted = host.layers("v2") - host.layers("v1")
    assert wanted <= fetched
    assert not fetched & host.layers("v1")


async def test_garbage_goes_and_foreign_refs_stay(host: Host) -> None:
    machine = host.machine
    repo = f"--repo={machine.repo}"
    booted = machine.booted_entry().deployment.name.partition(".")[0]
    foreign = {"my/own/branch", "ostree/container/baseimage/someone/0", "rpmostree/base/0"}
    for ref in foreign:
        await machine.ostree("refs", repo, f"--create={ref}", booted)
    for tag in ("v2", "v3"):
        await host.publish(tag)
        await host.ctl("upgrade")
        await host.reboot()
    for ref in foreign - {"my/own/branch"}:
        await machine.ostree("refs", repo, "--delete", ref)
    await host.publish("v2")
    await host.ctl("upgrade", "--allow-downgrade")
    refs = set((await machine.ostree("refs", repo, "--list")).split())
    assert "my/own/branch" in refs
    blobs = {ref for ref in refs if ref.startswith("ostree/container/blob/")}
    assert len(blobs) == len(host.layers("v2", "v3"))
    assert "no errors found" in await machine.ostree("fsck", repo)


async def test_download_only_waits_for_apply(host: Host) -> None:
    v2 = await host.publish("v2")
    await host.ctl("upgrade", "--download-only")
    status = await host.status()
    assert digest(status["staged"]) == v2
    assert status["staged"]["downloadOnly"] is True
    await host.ctl("upgrade")
    assert (await host.status())["staged"]["downloadOnly"] is False


async def test_ordinary_user_sees_everything_and_changes_nothing(host: Host) -> None:
    await host.publish("v2")
    before = await host.status(user=PERSON)
    assert before["booted"]
    for verb in (["upgrade"], ["switch", host.reference], ["rollback"], ["apply"], ["reload"]):
        done = await host.ctl(*verb, user=PERSON, check=False)
        assert done.returncode == 4, (verb, done.stderr)
        assert "Traceback" not in done.stderr
    for verb in (["jobs"], ["history"], ["status"]):
        await host.ctl(*verb, user=PERSON)
    assert await host.status() == before
    assert await host.history() == []


async def test_kernel_arguments_pins_and_drops_are_the_administrators_to_change(host: Host) -> None:
    refused = await host.ctl("kargs", "--append", "audit=0", user=PERSON, check=False)
    assert refused.returncode == 4
    assert "an administrator has to authenticate for org.bootcd1.kernel-arguments" in refused.stderr
    assert "run the command as root" in refused.stderr
    absent = await host.ctl("kargs", "--delete", "audit", check=False)
    assert (absent.returncode, "no kernel argument audit" in absent.stderr) == (5, True)

    await host.ctl("kargs", "--append", "audit=0")
    shown = (await host.ctl("kargs", user=PERSON)).stdout.splitlines()
    assert [line.split()[0] for line in shown] == ["Staged", "Booted"]
    assert ("audit=0" in shown[0], "audit=0" in shown[1]) == (True, False)

    await host.ctl("pin")
    dropped = await host.ctl("drop", "staged")
    assert dropped.stdout.startswith("Dropped the staged deployment, sha256:")
    status = await host.status()
    assert (status["staged"], status["booted"]["pinned"]) == (None, True)
    history = await host.history()
    assert [entry["kind"] for entry in history] == ["drop", "pin", "kernel-arguments"]
    assert [entry["summary"] for entry in history] == ["staged", "booted", "append audit=0"]


async def test_polled_update_is_staged_with_no_client(host: Host) -> None:
    v2 = await host.publish("v2")
    assert host.daemon is not None
    host.daemon.terminate()
    await host.daemon.wait()
    host.mode, host.interval = "stage", "1s"
    await host.start_daemon()
    status_file = host.machine.path("/run/bootcd/status.json")
    async with asyncio.timeout(120):
        # The file is what a program without a bus sees, so it is looked at as such a program would.
        while not status_file.exists() or v2 not in staged_in(status_file):  # noqa: ASYNC110
            await asyncio.sleep(0.2)


def staged_in(status_file: Path) -> str:
    return str(digest(json.loads(status_file.read_text())["status"]["staged"]))


async def start_stalled_upgrade(host: Host, proxy: FaultProxy) -> None:
    """Start an upgrade to version 2 that hangs in the middle of a layer until the proxy lets it go."""
    layer = host.stall_upgrade(proxy)
    await host.ctl("upgrade", "--no-wait")
    await proxy.wait_for(layer)


async def test_job_outlives_a_killed_daemon_and_is_found_again(host: Host, proxy: FaultProxy) -> None:
    v2 = await host.publish("v2")
    await start_stalled_upgrade(host, proxy)
    assert host.daemon is not None
    host.daemon.kill()
    await host.daemon.wait()
    await host.start_daemon()
    (job,) = await host.jobs()
    assert (job["kind"], job["state"]) == ("upgrade", "running")
    proxy.release()
    await host.ctl("upgrade")  # the same request, so it joins that job
    assert digest((await host.status())["staged"]) == v2
    assert [(entry["kind"], entry["state"]) for entry in await host.history()] == [("upgrade", "done")]


async def test_cancelled_upgrade_leaves_the_host_as_it_was(host: Host, proxy: FaultProxy) -> None:
    await host.publish("v2")
    before = await host.status()
    await start_stalled_upgrade(host, proxy)
    await host.ctl("cancel")
    assert await host.status() == before
    assert (await host.history())[0]["state"] == "cancelled"
    assert not list((host.machine.repo / "tmp").glob("bootcd-stage-*"))
    await host.ctl("upgrade")
    assert (await host.status())["staged"]


async def test_second_job_is_refused_and_names_the_first(host: Host, proxy: FaultProxy) -> None:
    await host.publish("v2")
    await start_stalled_upgrade(host, proxy)
    refused = await host.ctl("rollback", check=False)
    assert refused.returncode == 3, refused.stderr
    proxy.release()
    await host.ctl("upgrade")


@pytest.mark.parametrize(
    ("image", "code"),
    [
        ("not a reference", 2),
        ("fedora", 2),
        ("{front}/example/missing:1", 8),
        ("127.0.0.1:1/example/os:1", 7),
    ],
    ids=["malformed", "short-name", "missing", "unreachable"],
)
async def test_switch_to_what_cannot_be_had_says_why(host: Host, image: str, code: int) -> None:
    done = await host.ctl("switch", image.format(front=host.front), check=False)
    assert done.returncode == code, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("bootcctl: ")]
    assert len(said) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert (await host.status())["staged"] is None


async def test_lock_of_another_tool_is_a_typed_busy(host: Host) -> None:
    await host.publish("v2")
    async with held_lock(host.machine):
        refused = await host.ctl("upgrade", check=False)
    assert refused.returncode == 3, refused.stderr
    assert "another program" in refused.stderr
    assert (await host.status())["staged"] is None
