"""Repositories in temporary directories, and images imported into them without a registry."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bootcd.oci.manifest import Descriptor, ImageManifest, parse_config, parse_manifest
from bootcd.ostree.fetch import ImportProgress
from bootcd.ostree.image import Image
from bootcd.ostree.importer import Importer, ImportResult
from bootcd.ostree.partial import Proof, When
from bootcd.ostree.repository import Repository
from tests.support import oci_image

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(params=["staged", "libostree"])
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Repository:
    """A repository as on a host, once for each way of writing to it."""
    opened = new_repository(tmp_path / "repo")
    opened.stages_objects = request.param == "staged"
    return opened


@pytest.fixture
def staged_repository(tmp_path: Path) -> Repository:
    """A repository as on a host, written to in the way of most hosts."""
    return new_repository(tmp_path / "repo")


def new_repository(path: Path) -> Repository:
    subprocess.run(["ostree", f"--repo={path}", "init", "--mode=bare"], check=True)
    config = ["core.min-free-space-percent", "0"]
    subprocess.run(["ostree", f"--repo={path}", "config", "set", *config], check=True)
    return Repository.open(path)


def image_of(image: oci_image.Image, reference: str = "docker://registry.example/os:1") -> Image:
    manifest = parse_manifest(image.manifest, image.media_type)
    assert isinstance(manifest, ImageManifest)
    return Image(
        reference=reference,
        digest=image.digest,
        manifest=manifest,
        manifest_json=image.manifest.decode(),
        config=parse_config(image.config),
        config_json=image.config.decode(),
    )


OpenBlob = Callable[[Descriptor], AsyncGenerator[bytes, None]]


def blobs_of(image: oci_image.Image, *, opened: list[str] | None = None, chunk: int = 1 << 16) -> OpenBlob:
    """Serve an image's blobs from memory; `opened` collects the digests asked for."""

    async def open_blob(layer: Descriptor) -> AsyncGenerator[bytes, None]:
        if opened is not None:
            opened.append(layer.digest)
        data = image.blobs[layer.digest]
        for start in range(0, len(data), chunk):
            yield data[start : start + chunk]

    return open_blob


@dataclass
class Ranges:
    """Gives parts of an image's blobs from memory and counts them."""

    image: oci_image.Image
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    damaged: bool = False
    "What is given is wrong."
    refused_after: int = 1 << 30
    "So many are given before there are none to be had."

    async def read(self, layer: Descriptor, start: int, size: int) -> bytes | None:
        if len(self.asked) >= self.refused_after:
            return None
        self.asked.append((layer.digest, start, size))
        data = self.image.blobs[layer.digest][start : start + size]
        assert len(data) == size
        return bytes(size) if self.damaged and len(self.asked) > 1 else data

    @property
    def size(self) -> int:
        return sum(size for _, _, size in self.asked)


async def run_import(
    repository: Repository,
    image: oci_image.Image,
    *,
    reference: str = "docker://registry.example/os:1",
    open_blob: OpenBlob | None = None,
    progress: ImportProgress | None = None,
    label_commit: str = "",
    ranges: Ranges | None = None,
    partial: When = "auto",
    proof: Proof = "archive",
) -> ImportResult:
    importer = Importer(repository, parallel=2, memory_bytes=16 << 20, now=NOW, label_commit=label_commit)
    return await importer.run(
        image_of(image, reference),
        open_blob or blobs_of(image),
        progress or ImportProgress(),
        read_range=ranges.read if ranges else None,
        partial=partial,
        proof=proof,
    )


def ostree(repository: Repository, *arguments: str) -> str:
    done = subprocess.run(
        ["ostree", f"--repo={repository.path}", *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout


def checkout(repository: Repository, ref: str, target: Path) -> Path:
    ostree(repository, "checkout", ref, str(target))
    return target
