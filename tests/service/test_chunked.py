"""A host of an image made from an ostree commit: deployed, upgraded and cleaned up by real workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from bootcd.model.job import JobKind
from bootcd.model.report import HostReport
from tests.service.test_kill import forget_update
from tests.support.chunked_host import Site
from tests.support.host import PYTHON
from tests.support.machine import Machine
from tests.support.oci_image import Layer, file, make_layer, whiteout
from tests.support.registry import Registry
from tests.support.signing import Gpg
from tests.support.tree import Tree, differences, scan_tree

pytestmark = [pytest.mark.machine, pytest.mark.timeout(120)]

KILL_POINTS = 15


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    (tmp_path / "registry").mkdir()
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(Registry(tmp_path / "registry"))
        machine = await Machine.create(tmp_path / "machine", binds=[PYTHON.parent.parent])
        yield Site(tmp_path, await stack.enter_async_context(machine), registry)


def blob_ref(layer: Layer) -> str:
    return f"ostree/container/blob/{layer.digest.replace(':', '_3A_')}"


def usr(root: Path) -> Tree:
    return {path: replace(entry, inode=0) for path, entry in scan_tree(root / "usr").items()}


async def test_chunked_image_is_deployed_upgraded_and_cleaned_up(site: Site) -> None:
    machine = site.machine
    first, first_commit = await site.publish("1")
    await site.deploy_and_boot()
    assert not differences(usr(site.directory / "tree-1"), usr(machine.booted_entry().deployment))
    assert (await site.refs())[blob_ref(first.layers[0])] == first_commit

    on_top = make_layer([file("usr/share/more", b"more"), whiteout("usr/lib/version")])
    second, second_commit = await site.publish("2", on_top)
    outcome = await site.upgrade()
    fetched = [layer for layer in second.layers if layer.digest not in {old.digest for old in first.layers}]
    assert [old.annotations["ostree.components"] for old in first.layers if old in second.layers] == ["share"]
    assert outcome.bytes_fetched == sum(len(layer.blob) for layer in fetched)
    assert (await site.status())["staged"]["image"]["imageDigest"] == second.digest

    await machine.reboot()
    deployment = machine.booted_entry().deployment
    wanted = usr(site.directory / "tree-2")
    del wanted["lib/version"]
    found = usr(deployment)
    assert found.pop("share/more").type == "file"
    assert not differences(wanted, found)
    status = await site.status()
    assert status["booted"]["image"]["imageDigest"] == second.digest
    assert status["booted"]["image"]["version"] == "2"
    assert status["rollback"]["image"]["imageDigest"] == first.digest
    refs = await site.refs()
    assert refs[blob_ref(second.layers[0])] == second_commit
    assert {blob_ref(layer) for layer in (*first.layers, *second.layers)} <= refs.keys()
    await machine.ostree("fsck", "--quiet", f"--repo={machine.repo}")

    third, _ = await site.publish("3")
    await site.upgrade()
    await machine.reboot()
    fourth, _ = await site.publish("4")
    await site.upgrade()
    refs = await site.refs()
    blobs = {name for name in refs if name.startswith("ostree/container/blob/")}
    assert blobs == {blob_ref(layer) for image in (second, third, fourth) for layer in image.layers}
    assert first_commit not in refs.values()
    lost = await asyncio.create_subprocess_exec(
        *("ostree", "show", f"--repo={machine.repo}", first_commit),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await lost.wait() != 0
    await machine.ostree("fsck", "--quiet", f"--repo={machine.repo}")


async def test_host_of_an_ostree_remote_takes_what_it_signed_and_shows_by_whom(site: Site) -> None:
    machine = site.machine
    await site.publish("1")
    await site.deploy_and_boot()
    (origin,) = machine.sysroot.glob("ostree/deploy/*/deploy/*.origin")
    origin.write_text(f"[origin]\ncontainer-image-reference=ostree-remote-registry:vendor:{site.reference}\n")
    async with Gpg(site.directory / "gpg") as gpg:
        keys = {name: await gpg.make_key(name) for name in ("right", "wrong")}
        (exported := site.directory / "key.gpg").write_bytes(await gpg.export("right", armor=False))
        remote = ["--set=gpg-verify=true", f"--gpg-import={exported}", "vendor", "https://vendor.invalid"]
        await machine.ostree("remote", f"--repo={machine.repo}", "add", *remote)

        def signed_by(name: str) -> list[str]:
            return [f"--gpg-sign={keys[name]}", f"--gpg-homedir={gpg.home}"]

        await site.publish("2", sign=signed_by("wrong"))
        refused = await site.run(JobKind.UPGRADE, verified_only=True)
        assert refused.error is not None
        assert refused.error.name == "SignatureRejected"
        assert refused.error.fields["scope"] == "ostree remote vendor"
        assert (await site.status())["staged"] is None

        third, _ = await site.publish("3", sign=signed_by("right"))
        found = (await site.run(JobKind.CHECK)).update
        assert found is not None
        assert found.trust is None, "nobody can know before the commit is here"
        taken = await site.run(JobKind.UPGRADE, verified_only=True, download_only=True)
        assert taken.error is None, taken.error
        assert taken.update is not None
        assert taken.update.trust is not None
        assert (taken.update.trust.method, taken.update.trust.key) == ("ostree", keys["right"])
        unlocked = await site.run(JobKind.UPGRADE, verified_only=True)
        assert unlocked.update is not None
        assert unlocked.update.trust == taken.update.trust
    inspected = await machine.run([str(PYTHON), "-m", "bootcd.worker", "inspect"])
    report = HostReport.model_validate_json(inspected.stdout)
    assert report.trust.verifies
    assert report.host.status.staged is not None
    assert report.host.status.staged.image is not None
    assert report.host.status.staged.image.image_digest == third.digest
    assert taken.update.trust in [details.trust for details in report.deployments.values()]


async def test_worker_killed_at_many_moments_never_leaves_half_a_commit(site: Site) -> None:
    machine = site.machine
    await site.publish("1")
    await site.deploy_and_boot()
    booted = machine.booted_entry().deployment
    image, commit = await site.publish("2", make_layer([file("usr/share/more")]), files=900)
    began = time.monotonic()
    await site.upgrade()
    whole = time.monotonic() - began
    killed = 0
    for point in range(KILL_POINTS):
        await forget_update(machine)
        job, process = await site.start_upgrade()
        await asyncio.sleep(whole * (point + 0.5) / KILL_POINTS)
        process.kill()
        await process.wait()
        killed += not (job / "outcome.json").exists()
        assert machine.boot_entries()[0].deployment == booted
        await machine.ostree("fsck", "--quiet", f"--repo={machine.repo}")
    assert killed >= KILL_POINTS // 2
    await site.upgrade()
    assert (await site.refs())[blob_ref(image.layers[0])] == commit
    await machine.ostree("fsck", "--quiet", f"--repo={machine.repo}")
    await machine.reboot()
    wanted = usr(site.directory / "tree-2")
    found = usr(machine.booted_entry().deployment)
    assert found.pop("share/more").type == "file"
    assert not differences(wanted, found)
