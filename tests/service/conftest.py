"""Hosts for end-to-end tests: the test system deployed by our own worker, booted, with the daemon on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.faultproxy import FaultProxy
from tests.support.host import Host, new_host
from tests.support.os_image import OsImages


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[AsyncExitStack]:
    """What is opened for a test; `tmp_path` is asked for so that it goes after what lies in it."""
    async with AsyncExitStack() as opened:
        yield opened


@pytest.fixture
async def undeployed(stack: AsyncExitStack, tmp_path: Path, os_images: OsImages) -> Host:
    """A host with an empty disk; version 1 is published."""
    host = await stack.enter_async_context(new_host(tmp_path, os_images))
    await host.publish("v1")
    return host


@pytest.fixture
async def proxy(stack: AsyncExitStack, undeployed: Host) -> FaultProxy:
    """What stands between the host and its registry."""
    proxy = await stack.enter_async_context(FaultProxy(undeployed.registry.url))
    undeployed.front = proxy.host
    return proxy


@pytest.fixture
async def host(undeployed: Host, proxy: FaultProxy) -> Host:
    """A host that runs version 1 and tracks `stable` through the proxy."""
    await undeployed.deploy()
    await undeployed.boot()
    return undeployed
