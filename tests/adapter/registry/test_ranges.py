"""Parts of blobs, from registries as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from bootcd.model.errors import RegistryProtocolError, Truncated
from bootcd.oci.reference import ImageReference
from bootcd.oci.registries import PullSource
from bootcd.registry.client import RegistryClient
from tests.adapter.registry.conftest import RETRIES, layer_descriptor
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.oci_image import Image
from tests.support.registry import Registry

START, SIZE = 1_000_000, 2_000_000


async def read(client: RegistryClient, reference: ImageReference, image: Image) -> bytes | None:
    return await client.read_range(reference, layer_descriptor(image.layers[0]), START, SIZE)


def wanted(image: Image) -> bytes:
    return image.layers[0].blob[START : START + SIZE]


async def test_part_of_a_blob_is_all_that_is_sent(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference, image: Image
) -> None:
    assert await read(client, reference, image) == wanted(image)
    (seen,) = proxy.requests
    assert seen.headers["Range"] == f"bytes={START}-{START + SIZE - 1}"
    assert (seen.status, seen.body_bytes) == (206, SIZE)


async def test_part_that_is_cut_is_continued_where_it_stopped(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference, image: Image
) -> None:
    proxy.inject(Fault(cut_after=1_500_000), Fault(cut_after=100_000), path="/blobs/")
    assert await read(client, reference, image) == wanted(image)
    starts = [int(seen.headers["Range"].removeprefix("bytes=").partition("-")[0]) for seen in proxy.requests]
    assert starts == sorted(starts)
    assert START < starts[1] < starts[2]


async def test_server_that_sends_the_whole_blob_gives_no_parts(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference, image: Image
) -> None:
    proxy.inject(Fault(ignore_range=True), path="/blobs/", always=True)
    assert await read(client, reference, image) is None
    assert len(proxy.requests) == 1


@pytest.mark.parametrize(
    "header", ["", "bytes 0-99/4194304", "bytes 1000000-99999999/4194304", f"bytes {START}-2999999/1"]
)
async def test_part_of_another_place_is_refused(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference, image: Image, header: str
) -> None:
    fault = Fault(status=206, body=b"x" * 100, headers={"Content-Range": header or None})
    proxy.inject(fault, path="/blobs/", always=True)
    with pytest.raises(RegistryProtocolError):
        await read(client, reference, image)


async def test_part_longer_than_asked_is_refused(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference, image: Image
) -> None:
    proxy.inject(Fault(append=b"more"), path="/blobs/", always=True)
    with pytest.raises(RegistryProtocolError):
        await read(client, reference, image)


async def test_part_that_always_ends_early_is_truncated(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference, image: Image
) -> None:
    proxy.inject(Fault(status=416), path="/blobs/", always=True)
    with pytest.raises(Truncated):
        await read(client, reference, image)
    assert len(proxy.requests) == RETRIES + 1


async def test_part_a_mirror_breaks_off_goes_on_at_the_registry(
    client_for: Callable[..., RegistryClient], proxy: FaultProxy, registry: Registry, image: Image
) -> None:
    origin = ImageReference("example.com", "os/base", "44")
    async with FaultProxy(registry.url) as mirror:
        mirror.inject(Fault(cut_after=300_000), Fault(status=404), path="/blobs/", always=True)
        sources = [PullSource(ImageReference(one.host, "os/base", "44")) for one in (mirror, proxy)]
        async with client_for(insecure={mirror.host, proxy.host}, sources=lambda _: sources) as client:
            assert await read(client, origin, image) == wanted(image)
    assert proxy.requests[0].body_bytes < SIZE


async def test_parts_take_the_places_of_downloads(
    client_for: Callable[..., RegistryClient], proxy: FaultProxy, reference: ImageReference, image: Image
) -> None:
    proxy.inject(*[Fault(stall_after=10)] * 8, path="/blobs/")
    async with client_for(proxy.host, parallel=2) as client:
        tasks = [asyncio.create_task(read(client, reference, image)) for _ in range(5)]
        await proxy.wait_for_requests(2)
        done, _ = await asyncio.wait(tasks, timeout=0.2)
        assert not done
        assert len(proxy.requests) == 2
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
