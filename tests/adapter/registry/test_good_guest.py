"""How hard a registry is asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bootcd.model.errors import RegistryRateLimited, RegistryUnavailable
from bootcd.oci.reference import ImageReference
from bootcd.registry.client import RegistryClient
from tests.adapter.registry.conftest import Waits, read_blob
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.oci_image import Image, file, make_layer
from tests.support.registry import Registry


async def test_bandwidth_bounds_all_downloads_together(
    proxy: FaultProxy,
    client_for: Callable[..., RegistryClient],
    reference: ImageReference,
    registry: Registry,
) -> None:
    layers = [make_layer([file("x", bytes([n]) * (256 << 10))], compression="none") for n in range(4)]
    for layer in layers:
        await registry.push_blob(reference.repository, layer.digest, layer.blob)
    size = sum(len(layer.blob) for layer in layers)
    async with client_for(
        proxy.host, max_bandwidth=1 << 20, sleep=asyncio.sleep, parallel=4, per_registry=4
    ) as client:
        start = time.monotonic()
        blobs = await asyncio.gather(*(read_blob(client, reference, layer) for layer in layers))
        took = time.monotonic() - start
    assert blobs == [layer.blob for layer in layers]
    # A quarter of a second is given on credit.
    assert size / (1 << 20) - 0.3 <= took <= 10 * size / (1 << 20)


async def test_requests_to_one_registry_are_bounded(
    proxy: FaultProxy,
    client_for: Callable[..., RegistryClient],
    reference: ImageReference,
    registry: Registry,
) -> None:
    layers = [make_layer([file(f"usr/{n}", bytes([n]) * 5000)]) for n in range(4)]
    for layer in layers:
        await registry.push_blob(reference.repository, layer.digest, layer.blob)
    async with client_for(proxy.host, parallel=4, per_registry=2) as client:
        proxy.inject(*[Fault(stall_after=10)] * 4, path="/blobs/")
        tasks = [asyncio.create_task(read_blob(client, reference, layer)) for layer in layers]
        await proxy.wait_for_requests(2)
        done, _ = await asyncio.wait(tasks, timeout=0.2)
        assert not done
        assert len(proxy.requests) == 2
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(
    ("status", "kind"), [(429, RegistryRateLimited), (503, RegistryUnavailable)], ids=["limited", "down"]
)
async def test_pause_a_registry_asked_for_is_kept_by_the_next_job(
    tmp_path: Path,
    proxy: FaultProxy,
    client_for: Callable[..., RegistryClient],
    reference: ImageReference,
    image: Image,
    waits: Waits,
    status: int,
    kind: type[RegistryRateLimited | RegistryUnavailable],
) -> None:
    kept = tmp_path / "pauses.json"
    proxy.inject(Fault(status, headers={"Retry-After": "200"}), path="/manifests/")
    async with client_for(proxy.host, pauses_file=kept, retries=0) as client:
        with pytest.raises(kind):
            await client.head_digest(reference)
    async with client_for(proxy.host, pauses_file=kept, retries=0) as client:
        with pytest.raises(kind) as caught:
            await client.head_digest(reference)
    assert len(proxy.requests) == 1
    left = caught.value.fields["retry_after_secs"]
    assert isinstance(left, int)
    assert 190 <= left <= 200
    async with client_for(proxy.host, pauses_file=kept) as client:
        assert await client.head_digest(reference) == image.digest
    assert len(waits) == 1
    assert 190 <= waits[0] <= 200


async def test_pause_without_a_time_is_not_kept(
    tmp_path: Path, proxy: FaultProxy, client_for: Callable[..., RegistryClient], reference: ImageReference
) -> None:
    proxy.inject(Fault(503), path="/manifests/")
    async with client_for(proxy.host, pauses_file=tmp_path / "pauses.json", retries=0) as client:
        with pytest.raises(RegistryUnavailable):
            await client.head_digest(reference)
        await client.head_digest(reference)
    assert not (tmp_path / "pauses.json").exists()


async def test_pause_of_one_download_holds_for_the_others(
    proxy: FaultProxy, client_for: Callable[..., RegistryClient], reference: ImageReference, image: Image
) -> None:
    proxy.inject(Fault(429, headers={"Retry-After": "30"}), path="/blobs/")
    async with client_for(proxy.host, retries=0) as client:
        for layer in image.layers:
            with pytest.raises(RegistryRateLimited):
                await read_blob(client, reference, layer)
    assert len(proxy.requests) == 1
