"""A worker killed at any moment: nothing is lost, and the next run needs no hand."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from bootcd.model.job import JobKind, JobState, Outcome
from tests.support.host import Host, prepare_job, worker_command

pytestmark = [pytest.mark.machine, pytest.mark.timeout(600)]

POINTS = 20


async def start_upgrade(host: Host) -> tuple[Path, asyncio.subprocess.Process]:
    """Start a worker on the booted host, without a daemon; returns its job directory and the process."""
    job, _ = prepare_job(host.machine.path("/run/jobs"), JobKind.UPGRADE, registry=host.front)
    inside = Path("/run/jobs/jobs") / job.name
    process = await host.machine.popen(worker_command(inside), stderr=asyncio.subprocess.DEVNULL)
    return job, process  # type: ignore[return-value]


async def test_worker_killed_at_many_moments_leaves_a_sound_host(undeployed: Host) -> None:
    host = undeployed
    await host.deploy()
    await host.machine.boot()
    v2 = await host.publish("v2")
    booted = host.machine.booted_entry().deployment

    # How long it takes undisturbed says where the moments are.
    job, process = await start_upgrade(host)
    began = time.monotonic()
    await process.wait()
    whole = time.monotonic() - began
    assert Outcome.model_validate_json((job / "outcome.json").read_bytes()).state is JobState.DONE

    unfinished = 0
    for point in range(POINTS):
        await forget_update(host)
        job, process = await start_upgrade(host)
        await asyncio.sleep(whole * (point + 0.5) / POINTS)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        unfinished += not (job / "outcome.json").exists()
        assert booted.is_dir()
        await host.machine.ostree("fsck", "--quiet", f"--repo={host.machine.repo}")
        entries = host.machine.boot_entries()
        assert entries[0].deployment == booted
    assert unfinished >= POINTS // 2

    job, process = await start_upgrade(host)
    await process.wait()
    outcome = Outcome.model_validate_json((job / "outcome.json").read_bytes())
    assert outcome.state is JobState.DONE, outcome
    assert outcome.update is not None
    assert outcome.update.digest == v2
    assert not list((host.machine.repo / "tmp").glob("bootcd-stage-*"))
    await host.machine.ostree("fsck", f"--repo={host.machine.repo}")
    await host.machine.reboot()
    assert host.machine.booted_entry().deployment != booted
    assert (host.machine.booted_entry().deployment / "usr/lib/os-release").exists()


async def forget_update(host: Host) -> None:
    """Take the host back to where the update is neither staged nor in the layer cache."""
    machine = host.machine
    if machine.path("/run/ostree/staged-deployment").exists():
        await machine.run(["ostree", "admin", "undeploy", "0"])
    repo = f"--repo={machine.repo}"
    refs = (await machine.ostree("refs", repo, "--list")).split()
    layers = [ref for ref in refs if ref.startswith("ostree/container/")]
    keep = {ref for ref in layers if ref.startswith("ostree/container/image/")}
    for ref in set(layers) - keep:
        await machine.ostree("refs", repo, "--delete", ref)
    await machine.run(["ostree", "admin", "cleanup"])
