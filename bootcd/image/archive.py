"""The archive that a layer is before it is compressed, in the parts that a writer may treat apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bootcd.image.flatten import Node
from bootcd.oci.tar import EntryType, TarEntry
from bootcd.oci.tarwrite import END, header, padding


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of a layer to be; a hard link if `link` names an item before it."""

    path: str
    node: Node
    link: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """An entry in an archive; a file's payload is the content of its node, if that is not empty."""

    head: bytes
    "All that lies between the payloads: padding of the one before, and the header."
    entry: TarEntry
    node: Node

    @property
    def has_payload(self) -> bool:
        return bool(self.entry.size)


def members(items: Iterable[Item]) -> Iterator[Member | bytes]:
    """Yield the members of an archive, and at last the bytes that end it."""
    before = b""
    for item in items:
        entry = _entry(item)
        yield Member(before + header(entry), entry, item.node)
        before = padding(entry.size)
    yield before + END


def _entry(item: Item) -> TarEntry:
    entry = item.node.entry
    if item.link:
        return TarEntry(
            *(item.path, EntryType.HARDLINK, entry.mode, entry.uid, entry.gid),
            *(0, item.link, entry.mtime, {}),
        )
    size = entry.size if entry.type is EntryType.FILE else 0
    return TarEntry(
        *(item.path or ".", entry.type, entry.mode, entry.uid, entry.gid),
        *(size, entry.linkname, entry.mtime, entry.xattrs, entry.device),
    )
