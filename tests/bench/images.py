"""Images to measure with: as large as wanted, and of which as much changes as wanted.

The files are those of the test system, in as many layers as large images have. Beyond its own size come
copies of them, each with a line of its own before the content, so that no two are the same and they
compress as real ones do. What changes changes as it does in the field: neighbours together, each as a whole.

    base                the first version
    u1, u5, u30         each the one before with so many percent of its files changed
    half-base, half-u5  half of base, and the same with the very files changed that u5 changes
    few-base, few-u5    the same in half as many layers, which are then as large as those of base

Each exists twice: `base` in layers of gzip, `base-chunked` in zstd:chunked with the same content.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import IO, cast

import zstandard

from tests.support import chunked_layer, debian_tree, image_layout, oci_image
from tests.support.chunked_layer import compressed_bytes, tables_bytes
from tests.support.debian_tree import FileTree, Node, directory, read_archive
from tests.support.image_layout import Layer, Layout, OsImages, built_once, recipe_key

LAYERS = 32
PERCENTS = (1, 5, 30)
CHUNKED = "-chunked"

_NEIGHBOURS = 40
"Files that change together: about what a package has."
_COPIES = "usr/lib/bench"
_KEPT = re.compile(r"usr/lib/modules/[^/]+/(vmlinuz|initramfs\.img)|usr/lib/(os-release|test-os/.*)|etc/.*")
"What makes a system boot is in every image, and stays as it is."

_KINDS = (tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE)
"What every contender can store; `ostree commit` ends at a device."

Group = list[str]


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one image, and of what it changes of the one before."""

    files: int
    bytes: int
    changed_files: int
    changed_bytes: int
    "Compressed, in zstd:chunked."
    tables_bytes: int
    "Of the layers that are new."


@dataclass(frozen=True, slots=True)
class BenchImages:
    images: OsImages
    facts: dict[str, Facts]

    @property
    def tags(self) -> list[str]:
        return [tag + form for tag in self.facts for form in ("", CHUNKED)]


def bench_images(cache: Path, system: OsImages, size_bytes: int, say: Callable[[str], None]) -> BenchImages:
    """Return images with about so many bytes of files, building them unless they are in `cache`. Blocks."""
    recipe = [Path(str(module.__file__)) for module in (debian_tree, image_layout, chunked_layer)]
    key = recipe_key(Path(__file__), *recipe, text=f"{size_bytes} {system.digest('v1')}")
    final = built_once(
        cache / key,
        lambda work: _Builder(work, system, size_bytes).build(),
        lambda: say("Once: images of this size are made, which takes some minutes for each GB"),
    )
    facts = json.loads((final / "facts.json").read_text())
    return BenchImages(
        OsImages(final, system.kernel), {tag: Facts(**numbers) for tag, numbers in facts.items()}
    )


@dataclass(frozen=True, slots=True)
class _Made:
    """A layer in both forms."""

    plain: Layer
    chunked: Layer
    tables: int
    changed: int


class _Builder:
    def __init__(self, work: Path, system: OsImages, size_bytes: int) -> None:
        self._work = work
        self._archive = work / "archive"
        self._store = _Layout(work, self._archive)
        self._made: dict[str, Future[_Made]] = {}
        self._facts: dict[str, Facts] = {}
        self._threads = ThreadPoolExecutor(max_workers=2)
        with self._archive.open("w+b") as archive:
            everything = _read_system(system, archive, work / "part")
            self._groups = _Chooser(everything, archive).choose(size_bytes)
            directories = {path: node for path, node in everything.items() if node.kind == tarfile.DIRTYPE}
            self._tree = directories | {path: everything[path] for group in self._groups for path in group}
            self._changes = self._change(archive)

    def build(self) -> None:
        with self._threads:
            tree = self._tree
            self._add("base", tree, self._groups, {})
            for percent, changed in self._changes.items():
                tree = tree | changed
                self._add(f"u{percent}", tree, self._groups, changed)
            half = self._groups[: _first(self._groups, self._tree, sum(map(_size, self._tree.values())) // 2)]
            paths = {path for group in half for path in group}
            tree = {p: node for p, node in self._tree.items() if p in paths or node.kind == tarfile.DIRTYPE}
            changed = {path: node for path, node in self._changes[5].items() if path in paths}
            for name, layers in (("half", LAYERS), ("few", LAYERS // 2)):
                self._add(f"{name}-base", tree, half, {}, layers)
                self._add(f"{name}-u5", tree | changed, half, changed, layers)
        self._store.write_index()
        facts = {tag: {name: getattr(f, name) for name in f.__slots__} for tag, f in self._facts.items()}
        (self._work / "facts.json").write_text(json.dumps(facts))
        self._archive.unlink()

    def _change(self, archive: IO[bytes]) -> dict[int, FileTree]:
        """Return for each version the files that are new in it; none is changed twice."""
        files = sum(node.kind == tarfile.REGTYPE for node in self._tree.values())
        groups = iter(self._groups[1:])
        found: dict[int, FileTree] = {}
        for percent in PERCENTS:
            changed = found[percent] = {}
            for group in groups:
                stamp = f"# changed in u{percent}\n".encode()
                changed |= _stamped(archive, {path: self._tree[path] for path in group}, stamp)
                if len(changed) >= files * percent / 100:
                    break
        return found

    def _add(
        self, tag: str, tree: FileTree, groups: list[Group], changed: FileTree, layers: int = LAYERS
    ) -> None:
        directories = [path for path, node in tree.items() if node.kind == tarfile.DIRTYPE]
        futures, fresh = [], []
        for number, paths in enumerate(_in_layers(groups, self._tree, layers)):
            paths += directories if not number else []
            nodes = [(path, repr(tree[path])) for path in sorted(paths)]
            key = hashlib.sha256(repr(nodes).encode()).hexdigest()
            if key not in self._made:
                names = changed.keys() & set(paths)
                self._made[key] = self._threads.submit(self._make, tree, paths, names)
                fresh.append(self._made[key])
            futures.append(self._made[key])
        made = [future.result() for future in futures]
        self._store.add_image(tag, [layer.plain for layer in made], tag)
        self._store.add_image(tag + CHUNKED, [layer.chunked for layer in made], tag)
        files = [node for node in tree.values() if node.kind == tarfile.REGTYPE]
        self._facts[tag] = Facts(
            files=len(files),
            bytes=sum(map(_size, files)),
            changed_files=len(changed),
            changed_bytes=sum(future.result().changed for future in fresh),
            tables_bytes=sum(future.result().tables for future in fresh),
        )

    def _make(self, tree: FileTree, paths: list[str], changed: Iterable[str]) -> _Made:
        plain = self._store.add_layer(tree, paths, "gzip")
        blob = self._work / "blobs" / plain.descriptor["digest"].replace(":", "/")
        layer = chunked_layer.chunked_layer(gzip.decompress(blob.read_bytes()))
        chunked = self._store.add_blob(layer)
        return _Made(plain, chunked, tables_bytes(layer), compressed_bytes(layer, changed))


class _Chooser:
    """Chooses files of the system, and makes copies of them where they are too few."""

    def __init__(self, tree: FileTree, archive: IO[bytes]) -> None:
        self._tree = tree
        self._archive = archive

    def choose(self, size_bytes: int) -> list[Group]:
        """Return groups of neighbours, what is in every image first; the tree gets what they need."""
        kept: Group = []
        others: Group = []
        for path, node in sorted(self._tree.items()):
            if node.kind != tarfile.DIRTYPE and not _is_link(node):
                (kept if _KEPT.fullmatch(path) else others).append(path)
        groups = [others[start : start + _NEIGHBOURS] for start in range(0, len(others), _NEIGHBOURS)]
        # In an order that has nothing to do with names, so that each part is a sample of all.
        groups.sort(key=lambda group: hashlib.sha256(group[0].encode()).digest())
        self._add_links([kept, *groups])
        found = [kept, *groups]
        for number in count(1):
            end = _first(found, self._tree, size_bytes)
            if end < len(found):
                return found[: end + 1]
            found += [self._copy(group, number) for group in groups]
        raise AssertionError("count does not end")

    def _add_links(self, groups: list[Group]) -> None:
        # A hard link goes where its first name is: a layer must not refer to another one.
        place = {path: group for group in groups for path in group}
        for path, node in sorted(self._tree.items()):
            if _is_link(node):
                place[node.target].append(path)

    def _copy(self, group: Group, number: int) -> Group:
        root = f"{_COPIES}/{number}"
        originals = {f"{root}/{path}": self._tree[path] for path in group}
        copies = _stamped(self._archive, originals, f"# copy {number}\n".encode())
        for path in copies:
            parent = path
            while parent := parent.rpartition("/")[0]:
                self._tree.setdefault(parent, directory())
        self._tree |= copies
        return list(copies)


class _Layout(Layout):
    def add_blob(self, layer: oci_image.Layer) -> Layer:
        media_type = layer.media_type(docker=False)
        part = self._root / f"chunked-{layer.diff_id}"
        part.write_bytes(layer.blob)
        descriptor = self._adopt(part, media_type) | {"annotations": dict(layer.annotations)}
        return Layer(descriptor, layer.diff_id)


def _read_system(system: OsImages, archive: IO[bytes], part: Path) -> FileTree:
    """Append the layers of version 1 to an archive and return the tree of all."""
    blobs = system.layout / "blobs"
    manifest = json.loads((blobs / system.digest("v1").replace(":", "/")).read_text())
    tree: FileTree = {}
    for layer in manifest["layers"]:
        kind = layer["mediaType"].rpartition("+")[2]
        with (blobs / layer["digest"].replace(":", "/")).open("rb") as raw, part.open("wb") as plain:
            shutil.copyfileobj(_decompressed(raw, kind), plain, 1 << 20)
        start = archive.seek(0, 2)
        for path, node in read_archive(part).items():
            if isinstance(node.content, tuple):
                node.content = (start + node.content[0], node.content[1])
            if node.kind in _KINDS:
                tree[path] = node
        with part.open("rb") as plain:
            shutil.copyfileobj(plain, archive, 1 << 20)
    part.unlink()
    archive.flush()
    return tree


def _decompressed(raw: IO[bytes], kind: str) -> IO[bytes]:
    if kind == "gzip":
        return cast("IO[bytes]", gzip.open(raw))
    if kind == "zstd":
        return zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
    return raw


def _stamped(archive: IO[bytes], tree: FileTree, stamp: bytes) -> FileTree:
    """Return the regular files of a tree with a line before their content; the archive gets it."""
    found: FileTree = {}
    for path, node in tree.items():
        if node.kind != tarfile.REGTYPE:
            continue
        content = node.content
        if isinstance(content, tuple):
            archive.seek(content[0])
            content = archive.read(content[1])
        start = archive.seek(0, 2)
        archive.write(stamp + content)
        found[path] = replace(node, content=(start, len(stamp) + len(content)))
    archive.flush()
    return found


def _in_layers(groups: list[Group], tree: FileTree, layer_count: int) -> Iterator[list[str]]:
    """Yield the paths of each of so many layers: groups spread so that the layers are of one size."""
    size = {id(group): sum(_size(tree[path]) for path in group) for group in groups}
    layers: list[tuple[int, list[str]]] = [(0, []) for _ in range(layer_count)]
    for group in sorted(groups, key=lambda group: -size[id(group)]):
        smallest = min(range(layer_count), key=lambda number: layers[number][0])
        held, paths = layers[smallest]
        layers[smallest] = held + size[id(group)], paths + group
    yield from (paths for _, paths in layers)


def _first(groups: list[Group], tree: FileTree, size_bytes: int) -> int:
    """Return the number of the group with which so many bytes are reached, or how many there are."""
    total = 0
    for number, group in enumerate(groups):
        total += sum(_size(tree[path]) for path in group)
        if total >= size_bytes:
            return number
    return len(groups)


def _is_link(node: Node) -> bool:
    return node.kind == tarfile.LNKTYPE


def _size(node: Node) -> int:
    return node.size
