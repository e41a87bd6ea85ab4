from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from bootcd.model.errors import DigestMismatch, NotFound, RegistryBlocked
from bootcd.oci.authfile import Credential
from bootcd.oci.reference import ImageReference
from bootcd.oci.registries import PullSource
from bootcd.registry.client import RegistryClient
from tests.adapter.registry.conftest import REPOSITORY, RETRIES, Waits, read_blob
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.oci_image import Image
from tests.support.registry import PASSWORD, USER, Registry

IMAGE = ImageReference("example.com", REPOSITORY, "44")


@pytest.fixture
async def mirror(registry: Registry) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(registry.url) as mirror:
        yield mirror


@pytest.fixture
def sources(mirror: FaultProxy, proxy: FaultProxy) -> list[PullSource]:
    return [PullSource(ImageReference(one.host, REPOSITORY, "44")) for one in (mirror, proxy)]


@pytest.fixture
async def client(
    mirror: FaultProxy,
    proxy: FaultProxy,
    sources: Sequence[PullSource],
    client_for: Callable[..., RegistryClient],
) -> AsyncIterator[RegistryClient]:
    async with client_for(insecure={mirror.host, proxy.host}, sources=lambda reference: sources) as client:
        yield client


async def test_image_of_a_mirror_is_had_from_it_alone(
    client: RegistryClient, mirror: FaultProxy, proxy: FaultProxy, image: Image
) -> None:
    resolved = await client.resolve(IMAGE, architecture="amd64")
    assert resolved.digest == image.digest
    assert await read_blob(client, IMAGE, image.layers[0]) == image.layers[0].blob
    assert len(mirror.requests) == 3
    assert proxy.requests == []


@pytest.mark.parametrize(
    ("fault", "asked"),
    [
        (Fault(status=404), 1),
        (Fault(status=403), 1),
        (Fault(status=429, headers={"Retry-After": "60"}), 1),
        (Fault(status=500), 2),
        (Fault(drop=True), 4),  # aiohttp asks once more itself
        (Fault(status=200, body=b"<html>", headers={"Content-Type": "text/html"}), 1),
        (Fault(overwrite=(5, b"????")), 1),
        (Fault(cut_after=10), 2),
    ],
    ids=["missing", "denied", "limited", "broken", "dropped", "web-page", "altered", "cut"],
)
async def test_mirror_that_fails_is_left_at_once_and_for_good(
    client: RegistryClient,
    mirror: FaultProxy,
    proxy: FaultProxy,
    image: Image,
    waits: Waits,
    caplog: pytest.LogCaptureFixture,
    fault: Fault,
    asked: int,
) -> None:
    mirror.inject(fault, path="/manifests/", always=True)
    with caplog.at_level(logging.WARNING):
        assert (await client.resolve(IMAGE, architecture="amd64")).digest == image.digest
    assert await read_blob(client, IMAGE, image.layers[0]) == image.layers[0].blob
    assert 1 <= len(mirror.requests) <= asked
    assert len(proxy.requests) == 3
    assert sum(waits) == 0
    (record,) = caplog.records
    assert record.getMessage().startswith(f"going on with {proxy.host}/{REPOSITORY}: ")
    assert mirror.host in record.getMessage()
    assert str(IMAGE) in record.getMessage()


async def test_blob_cut_at_a_mirror_for_good_goes_on_where_it_stopped(
    client: RegistryClient, mirror: FaultProxy, proxy: FaultProxy, image: Image
) -> None:
    layer = image.layers[0]
    mirror.inject(Fault(cut_after=1_500_000), Fault(status=404), path="/blobs/")
    assert await read_blob(client, IMAGE, layer) == layer.blob
    (rest,) = proxy.requests
    done = int(rest.headers["Range"].removeprefix("bytes=").partition("-")[0])
    assert rest.body_bytes == len(layer.blob) - done
    assert mirror.body_bytes + proxy.body_bytes <= len(layer.blob) + (1_500_000 - done)


async def test_blobs_that_fail_together_leave_a_mirror_once(
    client: RegistryClient,
    mirror: FaultProxy,
    proxy: FaultProxy,
    image: Image,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mirror.inject(Fault(status=404), path="/blobs/", always=True)
    blobs = await asyncio.gather(*(read_blob(client, IMAGE, layer) for layer in image.layers))
    assert blobs == [layer.blob for layer in image.layers]
    assert len(proxy.requests) == 2
    assert len(caplog.records) == 1


async def test_blob_altered_by_a_mirror_fails_and_is_had_elsewhere_next(
    client: RegistryClient, mirror: FaultProxy, proxy: FaultProxy, image: Image
) -> None:
    layer = image.layers[0]
    mirror.inject(Fault(overwrite=(2_000_000, b"spoilt")), path="/blobs/", always=True)
    with pytest.raises(DigestMismatch, match=mirror.host):
        await read_blob(client, IMAGE, layer)
    assert proxy.requests == []
    assert await read_blob(client, IMAGE, layer) == layer.blob
    assert len(proxy.requests) == 1


async def test_error_of_the_registry_itself_counts_when_all_fail(
    client: RegistryClient, mirror: FaultProxy, proxy: FaultProxy
) -> None:
    mirror.inject(Fault(drop=True), always=True)
    proxy.inject(Fault(status=404), always=True)
    with pytest.raises(NotFound) as caught:
        await client.resolve(IMAGE, architecture="amd64")
    assert caught.value.fields["registry"] == proxy.host
    assert str(IMAGE) in caught.value.message


async def test_registry_behind_a_mirror_has_all_its_retries(
    client: RegistryClient, mirror: FaultProxy, proxy: FaultProxy, image: Image
) -> None:
    mirror.inject(Fault(status=404), always=True)
    proxy.inject(*[Fault(status=503)] * RETRIES, path="/manifests/")
    assert (await client.resolve(IMAGE, architecture="amd64")).digest == image.digest


async def test_blocked_places_are_not_asked(
    mirror: FaultProxy, proxy: FaultProxy, client_for: Callable[..., RegistryClient], image: Image
) -> None:
    places = [
        PullSource(ImageReference(mirror.host, REPOSITORY, "44"), blocked=True),
        PullSource(ImageReference(proxy.host, REPOSITORY, "44")),
    ]
    hosts = {mirror.host, proxy.host}
    async with client_for(insecure=hosts, sources=lambda reference: places) as client:
        assert await client.head_digest(IMAGE) == image.digest
    async with client_for(insecure=hosts, sources=lambda reference: places[:1]) as client:
        with pytest.raises(RegistryBlocked):
            await client.head_digest(IMAGE)
    assert mirror.requests == []


async def test_credential_of_one_place_is_not_given_to_another(
    new_directory: Callable[[str], Path], client_for: Callable[..., RegistryClient], image: Image
) -> None:
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(Registry(new_directory("private"), basic_auth=True))
        mirror = await stack.enter_async_context(FaultProxy(registry.url))
        private = await stack.enter_async_context(FaultProxy(registry.url))

        async def lookup(name: str, repository: str) -> Credential | None:
            return Credential(USER, PASSWORD) if name == private.host else None

        places = [PullSource(ImageReference(one.host, REPOSITORY, "44")) for one in (mirror, private)]
        client = client_for(
            insecure={mirror.host, private.host}, sources=lambda reference: places, credentials=lookup
        )
        await stack.enter_async_context(client)
        assert await client.head_digest(IMAGE) == image.digest
    assert [seen.status for seen in mirror.requests] == [401]
    assert "Authorization" not in mirror.requests[0].headers
