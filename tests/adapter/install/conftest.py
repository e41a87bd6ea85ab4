"""A small host image, made once, and disks to install it to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.install import raw_disk, small_image, write_layout


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="needs root and loop devices"))


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The reference of the small image."""
    return write_layout(small_image(), tmp_path_factory.mktemp("source"))


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return raw_disk(tmp_path / "disk.img")
