"""Hosts for end-to-end tests: the test system deployed by our own worker, booted, with the daemon on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.faultproxy import FaultProxy
from tests.support.host import Host, copy_tree, new_host
from tests.support.os_image import OsImages


@dataclass(frozen=True)
class Template:
    """A host that runs version 1, not booted, to be copied. It knows its registry by `port`."""

    directory: Path
    port: int


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, os_images: OsImages) -> Template:
    work, kept = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("template")

    async def make() -> int:
        async with new_host(work, os_images) as host, FaultProxy(host.registry.url) as proxy:
            host.front = proxy.host
            await host.publish("v1")
            await host.deploy()
            await copy_tree(work, kept)
            return int(proxy.host.rpartition(":")[2])

    return Template(kept, asyncio.run(make()))


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[AsyncExitStack]:
    """What is opened for a test; `tmp_path` is asked for so that it goes after what lies in it."""
    async with AsyncExitStack() as opened:
        yield opened


@pytest.fixture
async def unbooted(stack: AsyncExitStack, tmp_path: Path, os_images: OsImages, template: Template) -> Host:
    return await stack.enter_async_context(new_host(tmp_path, os_images, template=template.directory))


@pytest.fixture
async def proxy(stack: AsyncExitStack, unbooted: Host, template: Template) -> FaultProxy:
    """What stands between the host and its registry."""
    proxy = FaultProxy(unbooted.registry.url, port=template.port)
    unbooted.front = (await stack.enter_async_context(proxy)).host
    return proxy


@pytest.fixture
async def host(unbooted: Host, proxy: FaultProxy) -> Host:
    """A host that runs version 1 and tracks `stable` through the proxy."""
    await unbooted.boot()
    return unbooted
