"""Layers that `bootcd-image rechunk` writes, fetched in parts by a host that has the version before."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from bootcd.ostreefmt.refs import blob_ref, image_ref
from tests.adapter.image.test_rechunk import BASE, CAPABILITY, as_image, database, rechunk
from tests.adapter.ostree.conftest import Ranges, blobs_of, new_repository, ostree, run_import
from tests.support.oci_image import Image, directory, file, hardlink, make_image, make_layer, symlink
from tests.support.oci_layout import write_layout

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files get owners")

NEW = "docker://registry.example/os:2"


def noise(seed: str, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def system(version: str) -> Image:
    """Return a system with one package, of which three files in sixty are of a version."""
    names = [f"usr/bin/{n}" for n in range(60)]
    files = [file(name, noise(name + version * (n % 20 == 3), 9000)) for n, name in enumerate(names)]
    entries = [
        *BASE,
        *database({"tools": names}),
        *files,
        file("usr/lib/large", noise("large", 3 << 20)),
        file("usr/bin/empty"),
        file("usr/bin/capable", b"x", mode=0o755, uid=3, xattrs={"security.capability": CAPABILITY}),
        hardlink("usr/lib/hard", "usr/bin/7"),
        symlink("usr/lib/link", "hard"),
        directory("usr/lib/\u00fc", mode=0o1777, gid=5),
    ]
    return make_image([make_layer(entries)])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A layout of two versions, rechunked."""
    out = tmp_path / "out"
    for version in ("1", "2"):
        write_layout(tmp_path / version, {version: system(version)})
        rechunk(tmp_path, f"oci:{tmp_path / version}:{version}", f"oci:{out}:{version}", "--max-layers=1")
    return out


async def test_rechunked_layers_are_fetched_in_parts(tmp_path: Path, out: Path) -> None:
    repository, other = new_repository(tmp_path / "repo"), new_repository(tmp_path / "other")
    await run_import(repository, as_image(out, "1"))
    image = as_image(out, "2")
    ranges, opened = Ranges(image), list[str]()

    await run_import(
        repository, image, reference=NEW, ranges=ranges, open_blob=blobs_of(image, opened=opened)
    )

    assert opened == []
    assert 0 < ranges.size < 50_000
    await run_import(other, image, reference=NEW)
    for ref in (image_ref(NEW), *(blob_ref(layer.digest) for layer in image.layers)):
        assert repository.resolve(ref) == other.resolve(ref)
    ostree(repository, "fsck")
