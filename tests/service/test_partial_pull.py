"""A host that bootc deployed takes an image in parts: killed on the way, then to the end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bootcd.model.job import JobKind
from tests.support.chunked_layer import compressed_bytes, make_chunked_layer, tables_bytes
from tests.support.deployed import REPOSITORY, Host, deploy_first, prepared_host
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.foreign import entries_of_tree
from tests.support.oci_image import make_image

pytestmark = [pytest.mark.machine, pytest.mark.timeout(120)]

FILES = 80
CHANGED = range(3, FILES, 10)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with prepared_host(tmp_path) as host:
        yield host


def fill(tree: Path, version: int) -> None:
    """Add files to a tree of which one in ten is of its version."""
    (tree / "usr/share").mkdir(parents=True)
    for number in range(FILES):
        seed = number * 100 + (version if number in CHANGED else 0)
        (tree / f"usr/share/{number}").write_bytes(random.Random(seed).randbytes(20_000))


def kept(host: Host) -> int:
    """Return how many of the changed files are staged."""
    stages = host.machine.repo.glob("tmp/bootcd-stage-vouched-*/content/*/*.file")
    return sum(path.stat().st_size == 20_000 for path in stages)


async def test_host_takes_what_changed_and_after_a_kill_what_it_had_not_got(
    host: Host,
) -> None:
    machine = host.machine
    for version in (1, 2):
        fill(host.tree(str(version)), version)
    async with FaultProxy(host.registry.url) as proxy:
        host.front = proxy.host
        await deploy_first(host)
        layer = make_chunked_layer(entries_of_tree(host.tree("2")))
        second = make_image([layer], labels={"org.opencontainers.image.version": "2"})
        await host.registry.push(REPOSITORY, "stable", second)

        blob = f"/blobs/{layer.digest}"
        proxy.inject(*[Fault()] * 10, *[Fault(stall_after=100)] * 20, path=blob)
        _, process = await host.start(JobKind.UPGRADE)
        async with asyncio.timeout(60):
            while kept(host) < 2:
                assert process.returncode is None
                await asyncio.sleep(0.02)
        process.kill()
        await process.wait()
        proxy.forget()

        outcome = await host.done(JobKind.UPGRADE)

        again = [seen for seen in proxy.requests if blob in seen.path]
    assert all(seen.status == 206 for seen in again)
    received = sum(seen.body_bytes for seen in again)
    assert outcome.bytes_fetched == received
    assert outcome.bytes_reused == len(layer.blob) - received
    changed = compressed_bytes(layer, [f"usr/share/{number}" for number in CHANGED])
    assert received <= tables_bytes(layer) + changed - 2 * 20_000 + 5_000
    assert await host.reboot() == "2"
    await machine.ostree("fsck", "--quiet", f"--repo={machine.repo}")
