"""Images bound to what is installed: pulled into the new system by the real podman, or a refusal before."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.install import deployment_of, install, partition, small_image, write_layout
from tests.support.oci_image import file, make_image, make_layer, symlink
from tests.support.registry import Registry

pytestmark = pytest.mark.timeout(180)
LINK = "usr/lib/bootc/bound-images.d/web.image"
QUADLET = "usr/share/containers/systemd/web.image"


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    (tmp_path / "registry").mkdir()
    async with Registry(tmp_path / "registry") as registry:
        yield registry


def bound_source(tmp_path: Path, image: str) -> str:
    entries = [file(QUADLET, f"[Image]\nImage={image}\n".encode()), symlink(LINK, f"/{QUADLET}")]
    return write_layout(small_image(entries), tmp_path / "layout")


async def test_bound_image_is_there_when_the_system_is(
    registry: Registry, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_DRIVER", "vfs")
    await registry.push("web", "1", make_image([make_layer([file("app", b"web")])]))
    (tmp_path / "config").mkdir()
    text = f'[registry]\ninsecure = ["{registry.host}"]\n'
    (tmp_path / "config/bootcd.toml").write_text(text)
    source = bound_source(tmp_path, f"{registry.host}/web:1")
    await asyncio.to_thread(
        install,
        "to-disk",
        "--via-loopback",
        "--filesystem=ext4",
        "--config-dir",
        tmp_path / "config",
        "--source-imgref",
        source,
        disk,
    )
    with partition(disk, tmp_path / "root") as root:
        [index] = (root / "ostree/bootc/storage").glob("*-images/images.json")
        assert [entry["names"] for entry in json.loads(index.read_bytes())] == [[f"{registry.host}/web:1"]]
        assert deployment_of(root).is_dir()


def test_bound_image_that_is_skipped_is_told(disk: Path, tmp_path: Path) -> None:
    source = bound_source(tmp_path, "localhost:1/web:1")
    words = ("to-disk", "--via-loopback", "--filesystem=ext4", "--bound-images=skip", "--source-imgref")
    assert "logically bound images" in install(*words, source, disk).stderr
