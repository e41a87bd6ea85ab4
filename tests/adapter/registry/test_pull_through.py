"""A fleet behind a pull-through mirror: the registry is asked once, for all hosts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from bootcd.oci.reference import ImageReference
from bootcd.oci.registries import PullSource
from bootcd.registry.client import RegistryClient
from tests.adapter.registry.conftest import REPOSITORY, read_blob
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.oci_image import Image
from tests.support.registry import Registry

IMAGE = ImageReference("example.com", REPOSITORY, "44")


@pytest.fixture
async def mirror(tmp_path: Path, proxy: FaultProxy) -> AsyncIterator[Registry]:
    """A mirror of the registry, which it reaches through `proxy`."""
    (directory := tmp_path / "mirror").mkdir()
    async with Registry(directory, upstream=proxy.url) as mirror:
        yield mirror


async def test_hosts_of_a_fleet_share_what_their_mirror_has(
    mirror: Registry, proxy: FaultProxy, image: Image, client_for: Callable[..., RegistryClient]
) -> None:
    source = PullSource(ImageReference(mirror.host, REPOSITORY, "44"))

    async def pull() -> None:
        async with client_for(insecure={mirror.host}, sources=lambda _: [source]) as client:
            resolved = await client.resolve(IMAGE, architecture="amd64")
            assert resolved.digest == image.digest
            for layer in image.layers:
                assert await read_blob(client, IMAGE, layer) == layer.blob

    await pull()
    async with asyncio.timeout(60):
        # It keeps what it has passed on a moment later.
        while not all(mirror.keeps(REPOSITORY, layer.digest) for layer in image.layers):  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0.02)
    proxy.requests.clear()
    await pull()
    await pull()
    assert [seen for seen in proxy.requests if "/blobs/" in seen.path and seen.method == "GET"] == []

    # What the mirror has, it gives while the registry is away.
    proxy.inject(Fault(drop=True), always=True)
    await pull()
