"""Images on local media, read through the engine's seam as a pull reads them."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest

from bootcd.engine.source import open_source
from bootcd.model.job import WorkerSettings
from bootcd.oci.resolve import ResolvedImage
from bootcd.ostreefmt.origin import TrackedImage
from tests.support.oci_image import Image, file, make_image, make_layer

SETTINGS = WorkerSettings(stall_timeout_secs=20)

Taken = tuple[ResolvedImage, str, dict[str, bytes]]
Take = Callable[[str, str], Awaitable[Taken]]


@pytest.fixture(scope="session")
def image() -> Image:
    return make_image(
        [
            # More than is read ahead, and as large when compressed.
            make_layer([file("usr/large", random.Random(1).randbytes(6 << 20))]),
            make_layer([file("usr/small", b"1")]),
        ],
        labels={"org.opencontainers.image.version": "44.1"},
    )


@pytest.fixture
def take() -> Take:
    """Read all of an image: what it resolves to, its digest now, and its layers."""

    async def take(transport: str, name: str) -> Taken:
        async with open_source(TrackedImage.unverified(transport, name), SETTINGS) as source:
            digest = await source.current_digest()
            resolved = await source.resolve(architecture="amd64")
            layers = {}
            for layer in resolved.manifest.layers:
                async with aclosing(source.open_blob(layer)) as chunks:
                    layers[layer.digest] = b"".join([chunk async for chunk in chunks])
            return resolved, digest, layers

    return take
