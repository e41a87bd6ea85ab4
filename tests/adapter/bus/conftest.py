"""A private bus for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.bus import PrivateBus
from tests.support.bus_peers import private_bus


@pytest.fixture
async def bus() -> AsyncIterator[PrivateBus]:
    async with private_bus() as running:
        yield running
