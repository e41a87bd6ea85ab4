"""The entries of a layer as its table of contents lists them, in the form in which an archive gives them.

With the proof of the table (`docs/partial-pulls.md`) the archive is not put together: owner, mode, links and
extended attributes are those of the table, content is known by its digest. What is in the repository is taken
by the index of contents and not read; what is fetched, or copied to have other attributes, is verified by the
table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bootcd.model.errors import InvalidLayer
from bootcd.oci.chunked import CHUNK, TYPES, TableEntry
from bootcd.oci.tar import MAX_ID, EntryType, TarEntry
from bootcd.ostree.parts import Content, Parts, Reader
from bootcd.ostreefmt.objects import Xattr

_TYPE_OF = {name: kind for kind, name in TYPES.items()}
_LINKS = frozenset({EntryType.HARDLINK, EntryType.SYMLINK})
_BLOCK_BYTES = 1 << 20


@dataclass(slots=True)
class Item:
    """One entry, with content if it is a file that has some."""

    entry: TarEntry
    content: Content | None = None


class Listed:
    """Gives entries and their content as `TarReader` does; to be read once. Blocks.

    Raises:
        InvalidLayer: the list and what was fetched do not fit together.
        DigestMismatch: content is not what the table names.
    """

    buffered = 0
    "Content never comes with what is before it."

    def __init__(self, items: list[Item], parts: Parts) -> None:
        self._items = items
        self._parts = parts
        self._content: Content | None = None
        self._reader: Reader | None = None
        self._buffer = memoryview(bytearray(_BLOCK_BYTES))

    def __iter__(self) -> Iterator[TarEntry]:
        items, self._items = self._items[::-1], []
        while items:
            item = items.pop()
            self._content = item.content
            yield item.entry

    def read_chunks(self) -> Iterator[memoryview]:
        """Yield the content of the current entry; a view is valid until the next step."""
        if self._content is None:
            return
        content, self._content = self._content, None
        self._reader = reader = self._parts.opened(content, verify_local=True)
        left = content.size
        while left:
            count = reader.readinto(self._buffer)
            left -= count
            yield self._buffer[:count]
        reader.close()

    def reuse(self, uid: int, gid: int, mode: int, xattrs: Sequence[Xattr], size: int) -> bytes | None:
        """Return the object of the current entry; see `layer.Reuse`."""
        return self._content.object_like(uid, gid, mode, xattrs, size) if self._content else None

    def leave_payload(self) -> None:
        """Have the content of the current entry count as read."""
        self._content = None

    def drain(self) -> None:
        """End the iteration, and take what was fetched and not asked for."""
        self._items = []
        self._parts.drain()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()


def entry_of(listed: TableEntry) -> TarEntry | None:
    """Return an entry of the table as an archive gives it, None for a part of one. Raises InvalidLayer.

    What an archive would be refused for is refused here as well.
    """
    if listed.type == CHUNK:
        return None
    kind = _TYPE_OF[listed.type]
    name, size, linkname = listed.name, listed.size, ""
    if kind is EntryType.DIRECTORY:
        name = name.rstrip("/") or "/"
    elif kind in _LINKS:
        linkname = listed.linkname
        if not linkname:
            raise InvalidLayer(f"its table of contents has a link {name[-80:]!r} that leads nowhere")
    if kind is not EntryType.FILE:
        size = 0
    if not name:
        raise InvalidLayer("its table of contents has an entry without a name")
    if listed.uid > MAX_ID or listed.gid > MAX_ID:
        raise InvalidLayer(f"its table of contents has {name[-80:]!r} of an owner out of range")
    return TarEntry(
        name,
        kind,
        listed.mode & 0o7777,
        listed.uid,
        listed.gid,
        size,
        linkname,
        0,
        listed.xattrs,
        listed.device,
    )
