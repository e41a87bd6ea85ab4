from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bootcd.oci.authfile import Credential
from bootcd.oci.manifest import Descriptor
from bootcd.oci.reference import ImageReference
from bootcd.registry.certificates import Certificates
from bootcd.registry.client import RegistryClient
from bootcd.registry.credentials import Credentials, load_credentials
from tests.support.certificate import Certificate
from tests.support.faultproxy import FaultProxy
from tests.support.oci_image import Image, Layer, directory, file, make_image, make_layer
from tests.support.registry import Registry

REPOSITORY = "os/base"
RETRIES = 3


class Waits(list[float]):
    """In place of asyncio.sleep: notes what would have been waited, and is the clock by which it was."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)
        await asyncio.sleep(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=sum(self))

    def boottime(self) -> float:
        return time.monotonic() + sum(self)


@pytest.fixture(scope="session")
def image() -> Image:
    noise = random.Random(1).randbytes(4 << 20)
    return make_image(
        [
            make_layer([directory("usr"), file("usr/noise", noise)], compression="none"),
            make_layer([file("usr/small", b"small")], compression="zstd"),
        ],
        labels={"org.opencontainers.image.version": "44.1"},
    )


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate.authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory, image: Image) -> Path:
    """Directory of a registry that was filled through its own interface and stopped."""
    directory = tmp_path_factory.mktemp("filled")

    async def fill() -> None:
        async with Registry(directory) as registry:
            await registry.push(REPOSITORY, "44", image)

    asyncio.run(fill())
    return directory


@pytest.fixture
def new_directory(tmp_path: Path, filled: Path) -> Callable[[str], Path]:
    """Make a directory for a registry that holds the image from its start."""

    def make(name: str) -> Path:
        shutil.copytree(filled / "storage", tmp_path / name / "storage")
        return tmp_path / name

    return make


@pytest.fixture
async def registry(new_directory: Callable[[str], Path]) -> AsyncIterator[Registry]:
    async with Registry(new_directory("registry")) as registry:
        yield registry


@pytest.fixture
async def proxy(registry: Registry) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(registry.url) as proxy:
        yield proxy


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def client_for(waits: Waits) -> Callable[..., RegistryClient]:
    """Make a client that trusts `host` in plain HTTP, draws no jitter and does not really wait."""

    def make(host: str = "", **options: Any) -> RegistryClient:
        ca_file = options.pop("ca_file", "")
        defaults: dict[str, Any] = {
            "insecure": {host},
            "credentials": load_credentials(()),
            "certificates": Certificates(ca_file),
            "user_agent": "bootcd/test",
            "retries": RETRIES,
            "chance": lambda: 0.0,
            "sleep": waits,
            "clock": waits,
        }
        return RegistryClient(**(defaults | options))

    return make


@pytest.fixture
async def client(
    proxy: FaultProxy, client_for: Callable[..., RegistryClient]
) -> AsyncIterator[RegistryClient]:
    async with client_for(proxy.host) as client:
        yield client


@pytest.fixture
def reference(proxy: FaultProxy) -> ImageReference:
    return ImageReference(proxy.host, REPOSITORY, "44")


def layer_descriptor(layer: Layer) -> Descriptor:
    return Descriptor(
        media_type=layer.media_type(docker=False), digest=layer.digest, size=len(layer.blob), annotations={}
    )


async def read_blob(client: RegistryClient, reference: ImageReference, layer: Layer) -> bytes:
    async with aclosing(client.open_blob(reference, layer_descriptor(layer))) as chunks:
        return b"".join([chunk async for chunk in chunks])


def login(user: str, password: str) -> Credentials:
    return give(Credential(user, password))


def give(credential: Credential) -> Credentials:
    async def lookup(registry: str, repository: str) -> Credential | None:
        return credential

    return lookup
