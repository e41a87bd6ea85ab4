"""A registry for images to be sent to, and somebody who has no login but those a test names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.faultproxy import FaultProxy
from tests.support.registry import Registry


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    directory = tmp_path / "registry"
    directory.mkdir()
    async with Registry(directory) as registry:
        yield registry


@pytest.fixture
async def proxy(registry: Registry) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(registry.url) as proxy:
        yield proxy


@pytest.fixture
def nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
