"""The tree that the layers of an image make, with the content of its files kept in one temporary file.

What grows with the image is on the disk; memory holds what the headers say of each file that is left.

https://github.com/opencontainers/image-spec/blob/main/layer.md#applying-changesets
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from bootcd.model.errors import InvalidLayer
from bootcd.oci.tar import ByteSource, EntryType, TarEntry, TarReader
from bootcd.ostreefmt.paths import Delete, Marker, whiteout_target

_READ_BYTES = 1 << 20
_NOT_KEPT = -1


@dataclass(eq=False, slots=True)
class Node:
    """A file of any type; names that are hard links of each other have one node."""

    entry: TarEntry
    "Its name is of no account."
    sha256: bytes = b""
    offset: int = _NOT_KEPT
    "Where its content is in the spool."

    @property
    def is_directory(self) -> bool:
        return self.entry.type is EntryType.DIRECTORY

    def same_but_for_time(self, other: Node) -> bool:
        return self.sha256 == other.sha256 and replace(self.entry, name="", mtime=0) == replace(
            other.entry, name="", mtime=0
        )


Tree = dict[str, Node]
'By path without slashes at its ends; the root is at "" if a layer has it.'


class Spool:
    """Content of files, in a file without a name: it is gone when the process is, however it ends."""

    def __init__(self, directory: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115
        self._end = 0
        self._stopped = False

    def append(self, chunks: Iterator[memoryview], digest: Callable[[memoryview], object]) -> int:
        """Keep what `chunks` yields; return where it begins."""
        start = self._end
        for chunk in chunks:
            digest(chunk)
            done = 0
            while done < len(chunk):
                done += self._file.write(chunk[done:]) or 0
            self._end += len(chunk)
        return start

    def chunks(self, node: Node, size: int = _READ_BYTES) -> Iterator[bytes]:
        """Yield the content of a file in pieces of `size`; by any number of threads at a time."""
        assert node.offset != _NOT_KEPT
        end = node.offset + node.entry.size
        for position in range(node.offset, end, size):
            if self._stopped:
                raise InterruptedError("nobody waits for it any more")
            chunk = os.pread(self._file.fileno(), min(size, end - position), position)
            if len(chunk) != min(size, end - position):
                raise OSError("the temporary file has become shorter")
            yield chunk

    def stop(self) -> None:
        """End what other threads read, at the next piece; they get InterruptedError."""
        self._stopped = True

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def apply_layer(tree: Tree, source: ByteSource, spool: Spool, keeps: Callable[[str], bool]) -> None:
    """Read an uncompressed layer to its end and change the tree by it. Blocks.

    Args:
        keeps: tells by the path whether the content of a file goes to the spool.
    Raises InvalidLayer for what is no archive in order, or none that can lie on top of this tree.
    """
    added: Tree = {}
    hidden: set[str] = set()
    emptied: set[str] = set()
    reader = TarReader(source)
    for entry in reader:
        path = _path(entry.name)
        parent, _, name = path.rpartition("/")
        if entry.type is not EntryType.DIRECTORY and (mark := whiteout_target(name)) is not None:
            if mark is Marker.OPAQUE:
                emptied.add(parent)
            elif isinstance(mark, Delete):
                hidden.add(f"{parent}/{mark.name}".lstrip("/"))
            continue
        if entry.type is EntryType.HARDLINK:
            target = _path(entry.linkname)
            node = added.get(target) or tree.get(target)
            if node is None or node.is_directory:
                raise InvalidLayer(
                    f"a layer has a hard link at {path[:80]!r} to {target[:80]!r}, which is no file before it"
                )
            added[path] = node
        else:
            added[path] = _node(path, entry, reader, spool, keeps)
    reader.drain()
    _merge(tree, added, hidden, emptied)


def _node(path: str, entry: TarEntry, reader: TarReader, spool: Spool, keeps: Callable[[str], bool]) -> Node:
    if entry.type is not EntryType.FILE:
        if not path and entry.type is not EntryType.DIRECTORY:
            raise InvalidLayer("a layer has something else where the root must be a directory")
        return Node(entry)
    digest = hashlib.sha256()
    if keeps(path):
        offset = spool.append(reader.read_chunks(), digest.update)
    else:
        offset = _NOT_KEPT
        for chunk in reader.read_chunks():
            digest.update(chunk)
    return Node(entry, digest.digest(), offset)


def _merge(tree: Tree, added: Tree, hidden: set[str], emptied: set[str]) -> None:
    for path, node in added.items():
        below = tree.get(path)
        if below is not None and below.is_directory and not node.is_directory:
            hidden.add(path)
    if hidden or emptied:
        for path in [path for path in tree if _is_gone(path, hidden, emptied)]:
            del tree[path]
    tree |= added
    for path in added:
        for parent in parents(path):
            above = tree.get(parent)
            if above is None:
                tree[parent] = Node(TarEntry(parent, EntryType.DIRECTORY, 0o755, 0, 0, 0, "", 0, {}))
            elif not above.is_directory:
                raise InvalidLayer(
                    f"a layer has {path[:80]!r} below {parent[:80]!r}, which is no directory", entry=path[:80]
                )


def _is_gone(path: str, hidden: set[str], emptied: set[str]) -> bool:
    return (
        path in hidden
        or bool(path and "" in emptied)
        or any(parent in hidden or parent in emptied for parent in parents(path))
    )


def parents(path: str) -> Iterator[str]:
    """Yield the directories above a path, the nearest first; not the root."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _path(name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidLayer(f"a layer has an entry {name[:80]!r} outside its root", entry=name[:80])
    return "/".join(parts)
