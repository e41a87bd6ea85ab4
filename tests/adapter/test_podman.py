"""The store of bound images, with the real podman and a real registry."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bootcd.model.errors import BackendFailed, Unsupported
from bootcd.podman import BoundImageStore
from tests.support.oci_image import Image, file, make_image, make_layer
from tests.support.registry import Registry

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: podman keeps the store of the system"),
    pytest.mark.timeout(180),
]


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    (tmp_path / "registry").mkdir()
    async with Registry(tmp_path / "registry") as registry:
        yield registry


@pytest.fixture
def store(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> BoundImageStore:
    # Overlay file systems cannot lie on each other everywhere.
    monkeypatch.setenv("STORAGE_DRIVER", "vfs")
    return BoundImageStore(
        tmp_path / "ostree/bootc/storage", insecure_registries={registry.host}, alias=tmp_path / "run/storage"
    )


def container(content: bytes) -> Image:
    return make_image([make_layer([file("app", content)])])


def images_in(tmp_path: Path) -> set[str]:
    """Return the ids of what is in the store, as it lies on the disk."""
    (index,) = (tmp_path / "ostree/bootc/storage").glob("*-images/images.json")
    return {image["id"] for image in json.loads(index.read_bytes())}


async def test_pulled_images_are_kept_and_the_others_removed(
    store: BoundImageStore, registry: Registry, tmp_path: Path
) -> None:
    await registry.push("web", "1", container(b"web"))
    await registry.push("db", "latest", container(b"db"))
    pinned = await registry.push("tool", "1", container(b"tool"))
    web, db, tool = f"{registry.host}/web:1", f"{registry.host}/db", f"{registry.host}/tool@{pinned}"
    assert not store.exists
    await store.create()
    assert store.exists
    assert not (tmp_path / "ostree/bootc/storage.tmp").exists()
    for image in (web, db, tool):
        assert not await store.has(image)
        await store.pull(image)
        assert await store.has(image)

    assert await store.remove_except([web, db, tool]) == []
    (removed,) = await store.remove_except([db, tool])
    assert len(removed) == 64
    assert [await store.has(image) for image in (web, db, tool)] == [False, True, True]
    # The name of the store is there in the commands' own mount namespaces alone.
    assert list((tmp_path / "run/storage").glob("*-images")) == []
    assert len(images_in(tmp_path)) == 2


async def test_image_that_is_there_stays_as_it_is(
    store: BoundImageStore, registry: Registry, tmp_path: Path
) -> None:
    await registry.push("web", "1", container(b"web"))
    await store.create()
    await store.pull(f"{registry.host}/web:1")
    before = images_in(tmp_path)
    await registry.push("web", "1", container(b"newer"))
    await store.pull(f"{registry.host}/web:1")
    assert images_in(tmp_path) == before


async def test_image_that_cannot_be_pulled_is_an_error_in_podmans_words(
    store: BoundImageStore, registry: Registry
) -> None:
    await store.create()
    with pytest.raises(BackendFailed, match=r"cannot pull bound image .*missing:1: .+"):
        await store.pull(f"{registry.host}/missing:1")


async def test_unfinished_store_is_made_anew(store: BoundImageStore, tmp_path: Path) -> None:
    left = tmp_path / "ostree/bootc/storage.tmp"
    left.mkdir(parents=True)
    (left / "half").write_text("x")
    await store.create()
    assert not left.exists()
    assert not (tmp_path / "ostree/bootc/storage/half").exists()


async def test_host_without_podman_is_an_error_that_names_it(
    store: BoundImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(Unsupported, match="podman"):
        await store.create()
    assert not store.exists


def test_podman_here_is_the_real_one() -> None:
    assert subprocess.run(["podman", "--version"], check=True, capture_output=True).stdout.startswith(
        b"podman"
    )
