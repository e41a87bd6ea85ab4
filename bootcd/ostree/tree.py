"""Directory trees of layers and images in memory, and their form in the repository.

A tree holds names and object checksums only, about 200 bytes an entry, so merging the layers of an image is
work on dictionaries: no checkout, no second commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from bootcd.model.errors import InvalidLayer
from bootcd.oci.tar import MAX_ENTRIES
from bootcd.ostree.store import ObjectStore
from bootcd.ostreefmt.objects import DirMeta, dirmeta, dirtree, parse_dirtree
from bootcd.ostreefmt.paths import Delete, Marker, whiteout_target

MAX_DEPTH = 255
"Deeper trees cannot be walked by tools that use one descriptor a level."

MAX_IMPLIED = 100_000
"Directories of one layer that only paths tell of: a short entry could make hundreds of them."

DEFAULT_META = DirMeta(0, 0, 0o040755, ())
"Of directories an archive implies and does not list."


@dataclass(slots=True)
class Directory:
    """One directory: checksums of its files by name, its subdirectories by name.

    `meta` is the checksum of its dirmeta object; `implied` says that no archive entry gave it, so that
    a lower layer's attributes hold.
    """

    meta: bytes
    implied: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    dirs: dict[str, Directory] = field(default_factory=dict)

    def find(self, path: str) -> Directory | None:
        """Return the directory at a relative path, or None."""
        node: Directory | None = self
        for part in path.split("/") if path else ():
            if node is None:
                return None
            node = node.dirs.get(part)
        return node

    def file(self, path: str) -> bytes | None:
        """Return the checksum of the file at a relative path, or None."""
        parent, _, name = path.rpartition("/")
        node = self.find(parent)
        return node.files.get(name) if node else None

    def copy(self) -> Directory:
        """Return a tree that can be changed without changing this one."""
        dirs = {name: child.copy() for name, child in self.dirs.items()}
        return Directory(self.meta, self.implied, dict(self.files), dirs)

    def remove(self, path: str) -> None:
        parent, _, name = path.rpartition("/")
        node = self.find(parent)
        if node is not None:
            node.files.pop(name, None)
            node.dirs.pop(name, None)

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Directory]]:
        """Yield every directory with its path, this one first."""
        yield prefix, self
        for name, child in self.dirs.items():
            yield from child.walk(f"{prefix}/{name}" if prefix else name)


class TreeBuilder:
    """Builds the tree of one layer from archive entries in their order; a later entry replaces."""

    def __init__(
        self, store: ObjectStore, implied_meta: Callable[[str], DirMeta] = lambda _: DEFAULT_META
    ) -> None:
        """`implied_meta` returns the attributes of a directory that only paths tell of."""
        self._store = store
        self._implied_meta = implied_meta
        self._metas: dict[DirMeta, bytes] = {}
        self.root = Directory(self._meta(implied_meta("")), implied=True)
        self._last_parent = ("", self.root)
        self._implied = 0

    def _meta(self, value: DirMeta) -> bytes:
        checksum = self._metas.get(value)
        if checksum is None:
            data = dirmeta(value.uid, value.gid, value.mode, value.xattrs)
            checksum = self._metas[value] = self._store.write_metadata("dirmeta", data)
        return checksum

    def _parent(self, path: str) -> tuple[Directory, str]:
        parent, _, name = path.rpartition("/")
        if parent == self._last_parent[0]:
            return self._last_parent[1], name
        node = self.root
        parts = parent.split("/") if parent else ()
        if len(parts) > MAX_DEPTH:
            raise InvalidLayer(f"{path[:80]!r} is nested more than {MAX_DEPTH} directories deep")
        for depth, part in enumerate(parts, 1):
            child = node.dirs.get(part)
            if child is None:
                node.files.pop(part, None)
                self._implied += 1
                if self._implied > MAX_IMPLIED:
                    raise InvalidLayer(f"the layer has more than {MAX_IMPLIED} directories it does not list")
                meta = self._implied_meta("/".join(parts[:depth]))
                child = node.dirs[part] = Directory(self._meta(meta), implied=True)
            node = child
        self._last_parent = (parent, node)
        return node, name

    def add_directory(self, path: str, meta: DirMeta) -> None:
        """Add a directory, or give the one there its attributes; "" is the root."""
        checksum = self._meta(meta)
        if not path:
            node = self.root
        else:
            parent, name = self._parent(path)
            parent.files.pop(name, None)
            found = parent.dirs.get(name)
            if found is None:
                parent.dirs[name] = Directory(checksum)
                return
            node = found
        node.meta = checksum
        node.implied = False

    def add_file(self, path: str, checksum: bytes) -> None:
        parent, name = self._parent(path)
        if parent.dirs.pop(name, None) is not None:
            self._last_parent = ("", self.root)
        parent.files[name] = checksum


def merge(lower: Directory, upper: Directory) -> None:
    """Lay `upper` over `lower`, applying whiteouts; `lower` becomes the result, `upper` stays as it is.

    Whiteouts hide what lower layers have, never what their own layer has. Spec: OCI image-spec,
    layer.md, "Whiteouts".
    """
    hidden = [(name, whiteout_target(name)) for name in upper.files if name.startswith(".wh.")]
    for _, target in hidden:
        if target is Marker.OPAQUE:
            lower.files.clear()
            lower.dirs.clear()
        elif isinstance(target, Delete):
            lower.files.pop(target.name, None)
            lower.dirs.pop(target.name, None)
    markers = {name for name, target in hidden if target is not None}
    for name, checksum in upper.files.items():
        if name not in markers:
            lower.dirs.pop(name, None)
            lower.files[name] = checksum
    for name, child in upper.dirs.items():
        lower.files.pop(name, None)
        below = lower.dirs.get(name)
        if below is None:
            below = lower.dirs[name] = Directory(child.meta, child.implied)
        merge(below, child)
    if not upper.implied:
        lower.meta = upper.meta
        lower.implied = False


def write_tree(tree: Directory, store: ObjectStore) -> bytes:
    """Write the dirtree objects of a whole tree; returns the root's checksum."""
    children = [(name, write_tree(child, store), child.meta) for name, child in tree.dirs.items()]
    return store.write_metadata("dirtree", dirtree(tree.files.items(), children))


def read_tree(
    contents: bytes,
    meta: bytes,
    implied: Callable[[str, bytes], bool],
    read_dirtree: Callable[[bytes], bytes],
) -> Directory:
    """Read a tree back from the repository.

    Args:
        implied: whether the directory at a path, of a dirmeta checksum, was implied by its layer.
        read_dirtree: returns the serialised dirtree object of a checksum.
    Raises InvalidLayer for a tree too deep or too large; a few objects that name each other could make
    one that never ends.
    """
    entries = 0

    def read(contents: bytes, meta: bytes, path: str) -> Directory:
        nonlocal entries
        if path.count("/") > MAX_DEPTH:
            raise InvalidLayer(f"{path[:80]!r} is nested more than {MAX_DEPTH} directories deep")
        files, dirs = parse_dirtree(read_dirtree(contents))
        entries += 1 + len(files)
        if entries > MAX_ENTRIES:
            raise InvalidLayer(f"the tree has more than {MAX_ENTRIES} entries")
        node = Directory(meta, implied(path, meta), dict(files))
        for name, child_contents, child_meta in dirs:
            child_path = f"{path}/{name}" if path else name
            node.dirs[name] = read(child_contents, child_meta, child_path)
        return node

    return read(contents, meta, "")
