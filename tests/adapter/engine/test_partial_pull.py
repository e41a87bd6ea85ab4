"""Layers as containers/storage writes them, by way of a real registry that counts what it sends."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bootcd.oci.chunked import POSITION, TAR_SPLIT_POSITION, Table, layer_layout
from bootcd.oci.reference import ImageReference, parse_reference
from bootcd.ostree.fetch import ImportProgress
from bootcd.ostree.image import Image
from bootcd.ostree.importer import Importer
from bootcd.ostree.partial import decompressed
from bootcd.ostree.repository import Repository
from bootcd.ostreefmt.refs import blob_ref, image_ref
from bootcd.registry.certificates import Certificates
from bootcd.registry.client import RegistryClient
from bootcd.registry.credentials import load_credentials
from tests.adapter.ostree.conftest import NOW, new_repository, ostree
from tests.adapter.ostree.test_importer import KERNEL, XATTRS
from tests.support import oci_image
from tests.support.faultproxy import FaultProxy
from tests.support.oci_image import (
    Entry,
    directory,
    file,
    hardlink,
    make_image,
    make_layer,
    opaque,
    symlink,
    whiteout,
)
from tests.support.registry import Registry

SKOPEO = Path(__file__).parents[3] / ".cache/signing/bin/skopeo"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files get owners"),
    pytest.mark.skipif(not SKOPEO.exists(), reason="needs the skopeo of tests/signing-tools.sh"),
    pytest.mark.timeout(180),
]

FILES = 300


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def system(version: int) -> list[Entry]:
    """Return a system of which one file in twenty is of a version."""
    return [
        *KERNEL,
        *(
            file(f"usr/share/doc/{n}", noise(n * 1000 + (version if n % 20 == 7 else 0), 15_000 + 13 * n))
            for n in range(FILES)
        ),
        # Of holes and of chunks.
        file("usr/lib/large", noise(1, 1 << 20) + bytes(1 << 20) + noise(2, 1 << 20), mode=0o4755, uid=7),
        file("usr/bin/empty", b""),
        file("usr/bin/capable", noise(3, 3000), mode=0o755, xattrs=XATTRS),
        directory("usr/share/sticky", mode=0o1777, uid=3, gid=4),
        symlink("usr/bin/link", "../share/x"),
        hardlink("usr/bin/hard", "usr/bin/capable"),
        Entry("dev/null", "char", device=(1, 3)),
        Entry("usr/lib/pipe", "fifo"),
        file("usr/share/" + "long-" * 40 + "/\u00e4" + "name-" * 40, b"l" * 2000),
    ]


CHANGED = [f"usr/share/doc/{n}" for n in range(7, FILES, 20)]
ON_TOP = [
    whiteout("usr/bin/capable"),
    opaque("usr/share/sticky"),
    file("usr/share/sticky/x", noise(4, 400_000)),
]


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    (tmp_path / "registry").mkdir()
    async with Registry(tmp_path / "registry") as registry:
        yield registry


@pytest.fixture
async def proxy(registry: Registry) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(registry.url) as proxy:
        yield proxy


async def publish(registry: Registry, tag: str, image: oci_image.Image) -> None:
    """Push an image as zstd:chunked by skopeo."""
    plain = f"docker://{registry.host}/os/plain:{tag}"
    await registry.push("os/plain", tag, image)
    command = [
        str(SKOPEO),
        "copy",
        "--quiet",
        "--insecure-policy",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
    ]
    command += ["--dest-compress-format=zstd:chunked", plain, f"docker://{registry.host}/os/base:{tag}"]
    await asyncio.to_thread(subprocess.run, command, check=True, timeout=120)


async def resolved_image(client: RegistryClient, reference: ImageReference) -> Image:
    found = await client.resolve(reference, architecture="amd64")
    return Image(
        reference=f"docker://{reference}",
        digest=found.digest,
        manifest=found.manifest,
        manifest_json=found.manifest_bytes.decode(),
        config=found.config,
        config_json=found.config_bytes.decode(),
    )


async def pull(
    repository: Repository, proxy: FaultProxy, tag: str, *, parts: bool = True
) -> tuple[Image, int, ImportProgress]:
    """Pull an image; return it, and the bytes of blobs that the registry sent."""
    reference = parse_reference(f"{proxy.host}/os/base:{tag}")
    async with RegistryClient(
        credentials=load_credentials(()),
        user_agent="bootcd/test",
        insecure={proxy.host},
        certificates=Certificates(""),
    ) as client:
        image = await resolved_image(client, reference)
        progress = ImportProgress()
        await Importer(repository, parallel=3, memory_bytes=16 << 20, now=NOW).run(
            image,
            lambda layer: client.open_blob(reference, layer),
            progress,
            read_range=(lambda *part: client.read_range(reference, *part)) if parts else None,
        )
    layers = {f"/v2/os/base/blobs/{layer.digest}" for layer in image.manifest.layers}
    sent = sum(seen.body_bytes for seen in proxy.requests if seen.path in layers)
    proxy.requests.clear()
    return image, sent, progress


def changed_bytes(registry: Registry, image: Image) -> tuple[int, int]:
    """Return the compressed bytes of what changed and of the tables, by the tables of the layers."""
    changed = tables = 0
    for layer in image.manifest.layers:
        blob = registry.blob_path(layer.digest).read_bytes()
        layout = layer_layout(layer.annotations, layer.size)
        assert layout
        assert layout.tar_split
        tables += layout.tar_split.end - layout.table.offset
        data = blob[layout.table.offset : layout.table.end]
        for entry in Table(decompressed(data, layout.table.plain_size), data_end=layout.data_end):
            if entry.type == "reg" and entry.name in (*CHANGED, "usr/share/sticky/x"):
                changed += entry.end_offset - entry.offset
    return changed, tables


async def test_upgrade_of_layers_by_containers_storage_fetches_what_changed(
    registry: Registry, proxy: FaultProxy, tmp_path: Path
) -> None:
    await publish(registry, "1", make_image([make_layer(system(1))], labels={"version": "1"}))
    second = make_image([make_layer(system(2)), make_layer(ON_TOP)], labels={"version": "2"})
    await publish(registry, "2", second)
    repository = new_repository(tmp_path / "repo")
    await pull(repository, proxy, "1")

    image, received, progress = await pull(repository, proxy, "2")

    assert all({POSITION, TAR_SPLIT_POSITION} <= layer.annotations.keys() for layer in image.manifest.layers)
    changed, tables = changed_bytes(registry, image)
    assert received == progress.bytes_done == progress.bytes_total
    assert received <= 1.2 * changed + tables
    size = sum(layer.size for layer in image.manifest.layers)
    assert received < size / 4
    # The tables of a layer that is all new led to nothing.
    assert size - received <= progress.bytes_cached <= size - received + tables
    ostree(repository, "fsck")

    other = new_repository(tmp_path / "other")
    _, everything, _ = await pull(other, proxy, "2", parts=False)
    assert everything == size
    for ref in (image_ref(image.reference), *(blob_ref(layer.digest) for layer in image.manifest.layers)):
        assert repository.resolve(ref) == other.resolve(ref)
