from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.model.errors import InvalidLayer
from bootcd.ostree.tree import (
    DEFAULT_META,
    MAX_DEPTH,
    Directory,
    TreeBuilder,
    merge,
    read_tree,
    write_tree,
)
from bootcd.ostreefmt.objects import DirMeta, dirmeta, parse_dirmeta


class Memory:
    """An object store in memory; content is named by what a test says it is."""

    def __init__(self) -> None:
        self.metadata: dict[bytes, bytes] = {}

    def write_metadata(self, kind: str, data: bytes) -> bytes:
        checksum = hashlib.sha256(data).digest()
        self.metadata[checksum] = data
        return checksum

    def write_file(self, *_: object) -> bytes:
        raise NotImplementedError

    write_symlink = write_file

    def find(self, checksum: bytes, kind: str) -> Path | None:
        return None

    def flush(self) -> None: ...
    def move(self) -> None: ...
    def discard(self) -> None: ...


def content(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def meta(mode: int) -> DirMeta:
    return DirMeta(0, 0, 0o040000 | mode, ())


# A layer as a list of steps: ("dir", path, mode) or ("file", path, content).
Step = tuple[str, str, int]

NAMES = st.sampled_from(["a", "b", "c", ".wh.a", ".wh.b", ".wh..wh..opq"])
PLAIN = st.sampled_from(["a", "b", "c"])
PATHS = st.builds(lambda above, name: "/".join([*above, name]), st.lists(PLAIN, max_size=3), NAMES)
DIRECTORIES = st.builds("/".join, st.lists(PLAIN, max_size=4))
STEPS = st.one_of(
    st.tuples(st.just("file"), PATHS, st.integers(0, 3)),
    st.tuples(st.just("dir"), DIRECTORIES, st.sampled_from([0o700, 0o755, 0o2770])),
)
LAYERS = st.lists(st.lists(STEPS, max_size=12), min_size=1, max_size=5)


def build(steps: Iterable[Step], store: Memory) -> Directory:
    builder = TreeBuilder(store)
    for kind, path, value in steps:
        if kind == "dir":
            builder.add_directory(path, meta(value))
        else:
            builder.add_file(path, content(str(value)))
    return builder.root


@dataclass
class Node:
    """A file (`data`) or a directory; the slow and simple picture of one."""

    data: int | None = None
    mode: int | None = None
    children: dict[str, Node] = field(default_factory=dict)


def extract(steps: Iterable[Step]) -> Node:
    """Unpack one layer into an empty place."""
    root = Node()
    for kind, path, value in steps:
        node = root
        for part in path.split("/") if path else ():
            child = node.children.get(part)
            if child is None or child.data is not None:
                child = node.children[part] = Node()
            node = child
        if kind == "dir":
            node.mode, node.data = value, None
        else:
            node.data, node.mode, node.children = value, None, {}
    return root


def apply(below: Node, layer: Node) -> None:
    """Put an unpacked layer over an unpacked image, by the words of OCI's layer.md."""
    for name in list(layer.children):
        if layer.children[name].data is None or not name.startswith(".wh."):
            continue
        if name == ".wh..wh..opq":
            below.children.clear()
        else:
            below.children.pop(name.removeprefix(".wh."), None)
    for name, child in layer.children.items():
        if child.data is not None:
            if not name.startswith(".wh."):
                below.children[name] = Node(data=child.data)
            continue
        target = below.children.get(name)
        if target is None or target.data is not None:
            target = below.children[name] = Node()
        apply(target, child)
    if layer.mode is not None:
        below.mode = layer.mode


def pictured(node: Node, path: str = "") -> Iterator[tuple[str, object]]:
    if node.data is not None:
        yield path, content(str(node.data))
        return
    yield path + "/", node.mode or 0o755
    for name, child in node.children.items():
        yield from pictured(child, f"{path}/{name}")


def seen(tree: Directory, store: Memory) -> Iterator[tuple[str, object]]:
    for path, node in tree.walk():
        shown = f"/{path}" if path else ""
        yield shown + "/", parse_dirmeta(store.metadata[node.meta]).mode & 0o7777
        for name, checksum in node.files.items():
            yield f"{shown}/{name}", checksum


@given(LAYERS)
def test_merge_of_layers_equals_unpacking_one_over_the_other(layers: list[list[Step]]) -> None:
    store, image = Memory(), Node()
    merged = Directory(store.write_metadata("dirmeta", dirmeta(*DEFAULT_META)), implied=True)
    for steps in layers:
        merge(merged, build(steps, store))
        apply(image, extract(steps))
    assert dict(seen(merged, store)) == dict(pictured(image))


@given(st.lists(STEPS, max_size=20))
def test_tree_read_back_is_the_tree_written(steps: list[Step]) -> None:
    store = Memory()
    tree = build(steps, store)
    implied = {path for path, node in tree.walk() if node.implied}
    root = write_tree(tree, store)
    again = read_tree(root, tree.meta, lambda path, _: path in implied, store.metadata.__getitem__)
    assert again == tree


@given(st.lists(STEPS, max_size=12), st.lists(STEPS, max_size=12))
def test_merge_leaves_the_upper_layer_as_it_was(lower: list[Step], upper: list[Step]) -> None:
    store = Memory()
    under, over = build(lower, store), build(upper, store)
    before = write_tree(over, store)
    merge(under, over)
    under.walk()
    for _, node in under.walk():
        node.files.clear()
    assert write_tree(over, store) == before


def test_directory_deeper_than_the_limit_is_refused() -> None:
    store = Memory()
    builder = TreeBuilder(store)
    deepest = "/".join(["d"] * (MAX_DEPTH + 1))
    builder.add_directory(deepest, meta(0o755))
    with pytest.raises(InvalidLayer, match="deep"):
        builder.add_file(f"{deepest}/x", content("x"))
    root = write_tree(builder.root, store)
    again = read_tree(root, builder.root.meta, lambda *_: False, store.metadata.__getitem__)
    assert again.find(deepest) is not None


def test_stored_tree_deeper_than_the_limit_is_refused() -> None:
    store = Memory()
    root = Directory(store.write_metadata("dirmeta", dirmeta(*DEFAULT_META)))
    for _ in range(MAX_DEPTH + 2):
        root = Directory(root.meta, dirs={"d": root})
    with pytest.raises(InvalidLayer, match="deep"):
        read_tree(write_tree(root, store), root.meta, lambda *_: False, store.metadata.__getitem__)


@pytest.mark.parametrize("marker", [".wh.", ".wh..", ".wh..."])
def test_whiteout_of_nothing_or_of_a_parent_is_refused(marker: str) -> None:
    store = Memory()
    with pytest.raises(InvalidLayer, match="whiteout"):
        merge(build([], store), build([("file", f"a/{marker}", 1)], store))


def test_entry_after_a_directory_that_became_a_file_lands_in_the_new_directory() -> None:
    store = Memory()
    tree = build(
        [("file", "a/b/x", 1), ("file", "a/b", 2), ("file", "a/b/y", 3)],
        store,
    )
    assert dict(seen(tree, store)).keys() == {"/", "/a/", "/a/b/", "/a/b/y"}
