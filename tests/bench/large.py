"""Peak memory of the worker where images and files are large: 4 GiB in 32 layers, a file of 2 GiB.

Layers are in zstd:chunked, so the first version of each comes whole and later ones in parts; the large file
is there in gzip as well. Half of the content does not compress, which is about what a system has.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from bootcd.image.archive import Item
from bootcd.image.flatten import Node, Spool
from bootcd.image.layout import LayoutWriter, WrittenLayer, to_json
from bootcd.image.packing import Compression, Packing
from bootcd.oci.tar import EntryType, TarEntry
from tests.bench.contenders import DEPLOY, Bootcd
from tests.bench.filesystem import Ground
from tests.bench.report import MIB, Comparison, Figure
from tests.support.host import REPOSITORY_NAME
from tests.support.image_layout import OsImages, built_once, recipe_key
from tests.support.registry import Registry

LIMIT_MIB = 200
SERIES = {
    "4 GiB in 32 layers": ("many", "many-5", "many-30"),
    "a file of 2 GiB": ("single", "single-beside", "single-within"),
    "a file of 2 GiB, gzip": ("single-gzip",),
}
"Tags, each the version after the one before."
_WHAT = {
    "many": "all of it is new",
    "many-5": "5 % of the files changed in every layer",
    "many-30": "30 % of the files changed in every layer",
    "single": "all of it is new",
    "single-beside": "another file of its layer changed",
    "single-within": "the file changed",
    "single-gzip": "all of it is new",
}

_LAYERS = 32
_FILES = 1280
"In a layer."
_FILE_BYTES = 100 << 10
LARGE_BYTES = 2 << 30
_PIECE_BYTES = 1 << 20

Change = Callable[[int], bool]
"Whether the file of this number is another one than in the first version."


def large_images(cache: Path, system: OsImages, say: Callable[[str], None]) -> OsImages:
    """Return the images, building them unless they are in `cache`. Blocks."""
    key = recipe_key(Path(__file__), text=system.digest("v1"))
    final = built_once(
        cache / f"large-{key}",
        lambda work: _Builder(work, system).build(),
        lambda: say("Once: large images are made, 10 GB, which takes some minutes"),
    )
    return OsImages(final, system.kernel)


async def measure_large(
    registry: Registry, images: OsImages, ground: Ground, work: Path, rounds: int
) -> tuple[list[Comparison], list[Figure]]:
    """Pull every series, each onto a file system of its own."""
    comparisons: list[Comparison] = []
    figures: list[Figure] = []
    for name, tags in SERIES.items():
        for tag in tags:
            await images.push(tag, registry.host, REPOSITORY_NAME)
        comparison = Comparison(f"{name}: the whole job", tags[0])
        for _ in range(rounds):
            async with ground.new("disk") as disk, Bootcd(registry, disk, work) as contender:
                for tag in tags:
                    comparison.add(_WHAT[tag], (await contender.pull(tag))[DEPLOY])
        comparison.baseline = _WHAT[tags[0]]
        comparisons.append(comparison)
        peak = max(sample.peak_bytes for samples in comparison.samples.values() for sample in samples)
        figures.append(Figure(f"worker, peak memory, {name}", peak / MIB, "MiB", LIMIT_MIB))
    return comparisons, figures


class _Builder:
    def __init__(self, work: Path, system: OsImages) -> None:
        self._work = work
        self._system = system

    def build(self) -> None:
        blobs = self._system.layout / "blobs"
        manifest = json.loads((blobs / self._system.digest("v1").replace(":", "/")).read_text())
        config = json.loads((blobs / manifest["config"]["digest"].replace(":", "/")).read_text())
        with LayoutWriter(self._work) as writer, ThreadPoolExecutor(max_workers=2) as threads:
            for layer in manifest["layers"]:
                place = f"blobs/{layer['digest'].replace(':', '/')}"
                shutil.copyfile(self._system.layout / place, self._work / place)

            def add(tag: str, layers: Iterable[WrittenLayer], packing: Packing = _CHUNKED) -> None:
                _add_image(writer, tag, manifest, config, list(layers), packing)

            numbers = range(_LAYERS)
            add("many", threads.map(lambda n: self._many(writer, n, lambda _: False), numbers))
            add("many-5", threads.map(lambda n: self._many(writer, n, lambda f: f % 20 == 7), numbers))
            add("many-30", threads.map(lambda n: self._many(writer, n, lambda f: f % 10 < 3), numbers))
            add("single", [self._single(writer, b"1", b"1")])
            add("single-beside", [self._single(writer, b"1", b"2")])
            add("single-within", [self._single(writer, b"2", b"2")])
            add("single-gzip", [self._single(writer, b"1", b"1", _GZIP)], _GZIP)

    def _many(self, writer: LayoutWriter, layer: int, is_changed: Change) -> WrittenLayer:
        with Spool(self._work) as spool:
            directory = f"usr/lib/large/{layer}"
            items = [_directory(directory)]
            for number in range(_FILES):
                seed = f"{layer} {number} {is_changed(number)}"
                items.append(_file(spool, f"{directory}/{number}", _content(seed, _FILE_BYTES)))
            return writer.add_layer(iter(items), spool, _CHUNKED)

    def _single(
        self, writer: LayoutWriter, within: bytes, beside: bytes, packing: Packing | None = None
    ) -> WrittenLayer:
        with Spool(self._work) as spool:
            large = _content(f"large {within.decode()}", LARGE_BYTES)
            items = [
                _directory("usr/lib/large"),
                _file(spool, "usr/lib/large/beside", iter([beside])),
                _file(spool, "usr/lib/large/file", large),
            ]
            return writer.add_layer(iter(items), spool, packing or _CHUNKED)


_CHUNKED = Packing(Compression.CHUNKED, level=1)
_GZIP = Packing(Compression.GZIP, level=1)


def _content(seed: str, size: int) -> Iterator[bytes]:
    chance = random.Random(seed)
    while size:
        count = min(size, _PIECE_BYTES)
        yield chance.randbytes(count // 2).ljust(count, b"\0")
        size -= count


def _file(spool: Spool, path: str, content: Iterator[bytes]) -> Item:
    size, digest = 0, sha256()

    def count(data: memoryview) -> None:
        nonlocal size
        size += len(data)
        digest.update(data)

    start = spool.append(map(memoryview, content), count)
    entry = replace(_ENTRY, size=size)
    return Item(path, Node(entry, sha256=digest.digest(), offset=start))


def _directory(path: str) -> Item:
    return Item(path, Node(replace(_ENTRY, type=EntryType.DIRECTORY, mode=0o755)))


_ENTRY = TarEntry("", EntryType.FILE, 0o644, 0, 0, 0, "", 0, {})


def _add_image(
    writer: LayoutWriter,
    tag: str,
    manifest: dict[str, Any],
    config: dict[str, Any],
    layers: list[WrittenLayer],
    packing: Packing,
) -> None:
    diff_ids = [*config["rootfs"]["diff_ids"], *(layer.packed.diff_id for layer in layers)]
    # A version has to be another one than the one before.
    document = config | {"rootfs": {"type": "layers", "diff_ids": diff_ids}, "author": tag}
    document.pop("history", None)
    descriptors = [
        {
            "mediaType": packing.media_type,
            "digest": layer.digest,
            "size": layer.size,
            "annotations": layer.packed.annotations,
        }
        for layer in layers
    ]
    image = manifest | {
        "config": writer.add_document(to_json(document), manifest["config"]["mediaType"]),
        "layers": [*manifest["layers"], *descriptors],
    }
    writer.name_image(writer.add_document(to_json(image), manifest["mediaType"]), tag)
