"""A worker killed at any moment: nothing is lost, and the next run needs no hand."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

import pytest

from bootcd.model.job import JobKind, JobState, Outcome
from tests.support.host import PYTHON, prepare_job, run_worker, worker_command
from tests.support.machine import Machine, Process
from tests.support.oci_image import Entry, Image, directory, file, make_image, make_layer, whiteout
from tests.support.registry import Registry

POINTS = int(os.environ.get("BOOTCD_KILL_POINTS", "40"))

pytestmark = [pytest.mark.machine, pytest.mark.timeout(300 + 6 * POINTS)]

RANDOM = random.Random(42)

KERNEL = [
    directory("usr"),
    directory("etc"),
    file("usr/lib/os-release", b"ID=test\nPRETTY_NAME=Test\n"),
    file("usr/lib/modules/6.1/vmlinuz", b"kernel"),
    file("usr/lib/modules/6.1/initramfs.img", b"initramfs"),
    *(directory(name) for name in ("boot", "dev", "proc", "run", "sys", "sysroot", "tmp", "var")),
    *(Entry(name, "symlink", target=f"usr/{name}", mode=0o777) for name in ("bin", "sbin", "lib", "lib64")),
    Entry("ostree", "symlink", target="sysroot/ostree", mode=0o777),
]


def files(where: str, count: int) -> list[Entry]:
    return [
        file(f"usr/{where}/{n % 40}/{n}", RANDOM.randbytes(RANDOM.randrange(20_000))) for n in range(count)
    ]


def versions() -> tuple[Image, Image]:
    base = make_layer(KERNEL)
    old = make_image([base, make_layer(files("share", 400))], labels={"version": "1"})
    changed = [whiteout("usr/share/1"), *files("new", 500), file("usr/big", RANDOM.randbytes(12 << 20))]
    second = make_layer(changed, compression="zstd")
    new = make_image([base, old.layers[1], second, make_layer(files("more", 500))], labels={"version": "2"})
    return old, new


async def start_upgrade(machine: Machine, registry: Registry) -> tuple[Path, Process]:
    """Start a worker on the booted host, without a daemon; returns its job directory and the process."""
    job, _ = prepare_job(machine.path("/run"), JobKind.UPGRADE, registry=registry.host)
    inside = Path("/run/jobs") / job.name
    process = await machine.popen(worker_command(inside), stderr=asyncio.subprocess.DEVNULL)
    return job, process


def outcome_of(job: Path) -> Outcome | None:
    path = job / "outcome.json"
    return Outcome.model_validate_json(path.read_bytes()) if path.exists() else None


async def test_worker_killed_at_many_moments_leaves_a_sound_host(tmp_path: Path) -> None:
    old, new = versions()
    (tmp_path / "registry").mkdir()
    binds = [PYTHON.parent.parent]
    async with (
        Registry(tmp_path / "registry") as registry,
        await Machine.create(tmp_path / "machine", binds=binds) as machine,
    ):
        await registry.push("os", "1", old)
        image = f"{registry.host}/os:1"
        sysroot = machine.sysroot
        first = await run_worker(
            tmp_path, JobKind.SWITCH, image=image, sysroot=sysroot, registry=registry.host
        )
        assert first.error is None
        await machine.boot()
        await registry.push("os", "1", new)
        booted = machine.booted_entry().deployment

        # How long it takes undisturbed says where the moments are.
        job, process = await start_upgrade(machine, registry)
        began = time.monotonic()
        await process.wait()
        whole = time.monotonic() - began
        assert outcome_of(job) == Outcome.model_validate(
            {
                **{"state": "done", "changed": True, "update": described(job)},
                "bytes_fetched": fetched_bytes(new),
                "bytes_reused": sum(len(layer.blob) for layer in new.layers[:2]),
            }
        )

        killed = 0
        for point in range(POINTS):
            await forget_update(machine)
            job, process = await start_upgrade(machine, registry)
            await asyncio.sleep(whole * (point + 0.5) / POINTS)
            process.kill()
            await process.wait()
            killed += outcome_of(job) is None
            assert machine.boot_entries()[0].deployment == booted
            assert (booted / "usr/share/1/1").exists()
            await machine.ostree("fsck", "--quiet", f"--repo={machine.repo}")
        assert killed >= POINTS // 2

        job, process = await start_upgrade(machine, registry)
        await process.wait()
        outcome = outcome_of(job)
        assert outcome is not None
        assert outcome.state is JobState.DONE, outcome.error
        assert not list((machine.repo / "tmp").glob("bootcd-stage-*"))
        await machine.ostree("fsck", "--quiet", f"--repo={machine.repo}")
        await machine.reboot()
        deployment = machine.booted_entry().deployment
        assert deployment != booted
        assert not (deployment / "usr/share/1").exists()
        assert (deployment / "usr/big").stat().st_size == 12 << 20


def described(job: Path) -> object:
    outcome = outcome_of(job)
    assert outcome is not None
    assert outcome.update is not None, outcome.error
    return outcome.update


def fetched_bytes(new: Image) -> int:
    return sum(len(layer.blob) for layer in new.layers[2:])


async def forget_update(machine: Machine) -> None:
    """Take the host back to where the update is neither staged nor in the layer cache."""
    if machine.path("/run/ostree/staged-deployment").exists():
        await machine.run(["ostree", "admin", "undeploy", "0"])
    booted = machine.booted_entry().deployment.name.partition(".")[0]
    repo = f"--repo={machine.repo}"
    refs = (await machine.ostree("refs", repo, "--list")).split()
    for ref in refs:
        if ref.startswith("ostree/container/blob/"):
            await machine.ostree("refs", repo, "--delete", ref)
        elif ref.startswith("ostree/container/image/"):
            await machine.ostree("refs", repo, "--force", f"--create={ref}", booted)
    await machine.ostree("prune", repo, "--refs-only")
