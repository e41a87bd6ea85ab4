"""A host of an image made from an ostree commit: deployed, upgraded and cleaned up by real workers."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from bootcd.model.job import JobKind, Outcome
from tests.service.test_kill import forget_update
from tests.support.chunked_image import encapsulate
from tests.support.host import PYTHON, prepare_job, run_worker, worker_command
from tests.support.machine import Machine, Process, minimal_tree
from tests.support.oci_image import Image, Layer, file, make_layer, whiteout
from tests.support.registry import Registry
from tests.support.tree import Tree, differences, scan_tree

pytestmark = [pytest.mark.machine, pytest.mark.timeout(120)]

COMPONENTS = {
    "kernel": ["usr/lib/modules/"],
    "share": ["usr/share/"],
    "etc": ["usr/etc/"],
    "bin": ["usr/bin/"],
    "sbin": ["usr/sbin/"],
}
RANDOM = random.Random(42)
KILL_POINTS = 15


class Site:
    """A host, its registry, and where its images are made."""

    def __init__(self, directory: Path, machine: Machine, registry: Registry) -> None:
        self.directory = directory
        self.machine = machine
        self.registry = registry
        self.repo = directory / "build-repo"
        subprocess.run(["ostree", f"--repo={self.repo}", "init", "--mode=bare"], check=True)

    @property
    def reference(self) -> str:
        return f"{self.registry.host}/os:1"

    async def publish(self, version: str, *derived: Layer, files: int = 0) -> tuple[Image, str]:
        """Commit and push a version, with this many files more; returns image and the commit it is of."""
        tree = minimal_tree(self.directory / f"tree-{version}", version)
        (tree / "usr/share").mkdir()
        (tree / "usr/share/same").write_text("the same in all versions\n" * 1000)
        for number in range(files):
            path = tree / f"usr/{('bin', 'lib', 'sbin')[number % 3]}/{number % 40}/{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(RANDOM.randbytes(RANDOM.randrange(20_000)))
        commit = ["commit", f"--tree=dir={tree}", "--branch=os", f"--add-metadata-string=version={version}"]
        done = subprocess.run(
            ["ostree", f"--repo={self.repo}", *commit], check=True, capture_output=True, text=True
        )
        checksum = done.stdout.strip()
        labels = {"org.opencontainers.image.version": version}
        image = encapsulate(self.repo, checksum, COMPONENTS).image(derived=derived, labels=labels)
        await self.registry.push("os", "1", image)
        return image, checksum

    async def deploy_and_boot(self) -> None:
        outcome = await run_worker(
            self.directory,
            JobKind.SWITCH,
            image=self.reference,
            sysroot=self.machine.sysroot,
            registry=self.registry.host,
        )
        assert outcome.error is None, outcome.error
        await self.machine.boot()

    async def start_upgrade(self) -> tuple[Path, Process]:
        """Start a worker; returns its job directory and the process."""
        job, _ = prepare_job(self.machine.path("/run"), JobKind.UPGRADE, registry=self.registry.host)
        return job, await self.machine.popen(worker_command(Path("/run/jobs") / job.name))

    async def upgrade(self) -> Outcome:
        job, process = await self.start_upgrade()
        await process.wait()
        outcome = Outcome.model_validate_json((job / "outcome.json").read_bytes())
        assert outcome.error is None, outcome.error
        return outcome

    async def status(self) -> dict[str, dict[str, dict[str, object]]]:
        done = await self.machine.run([str(PYTHON), "-m", "bootcd.worker", "inspect"])
        return dict(json.loads(done.stdout)["host"]["status"])

    async def refs(self) -> dict[str, str]:
        repo = f"--repo={self.machine.repo}"
        names = (await self.machine.ostree("refs", repo, "--list")).split()
        return {name: (await self.machine.ostree("rev-parse", repo, name)).strip() for name in names}


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
