"""Layers in the form of zstd:chunked, as containers/storage writes them but for where it cuts chunks.

    layer = make_chunked_layer([file("usr/bin/tool", b"...")])

Format: `bootcd.oci.chunked`, `bootcd.oci.tarsplit`.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator

import zstandard

from bootcd.oci.chunked import (
    CHUNK,
    FILE,
    FRAME_HEADER_BYTES,
    TYPES,
    Layout,
    Part,
    Table,
    TableEntry,
    footer,
    layer_annotations,
    layer_layout,
    skippable_frame,
    write_table,
)
from bootcd.oci.tar import EntryType
from bootcd.oci.tarsplit import file_line, segment_line
from tests.support.oci_image import Entry, Layer, digest_of, make_tar

_XATTR = "SCHILY.xattr."
_KINDS = {
    tarfile.REGTYPE: EntryType.FILE,
    tarfile.LNKTYPE: EntryType.HARDLINK,
    tarfile.SYMTYPE: EntryType.SYMLINK,
    tarfile.CHRTYPE: EntryType.CHARACTER,
    tarfile.BLKTYPE: EntryType.BLOCK,
    tarfile.DIRTYPE: EntryType.DIRECTORY,
    tarfile.FIFOTYPE: EntryType.FIFO,
}


def make_chunked_layer(
    entries: Iterable[Entry] = (), *, gnu: bool = False, chunk_bytes: int = 1 << 20
) -> Layer:
    return chunked_layer(make_tar(entries, gnu=gnu), chunk_bytes=chunk_bytes)


def chunked_layer(tar: bytes, *, chunk_bytes: int = 1 << 20) -> Layer:
    """Return a layer of an archive; files are cut into chunks of `chunk_bytes`."""
    blob = bytearray()
    split: list[bytes] = []
    entries: list[TableEntry] = []
    end = 0
    for member in _members(tar):
        # A table is JSON, whatever a name is.
        member.name = member.name.encode(errors="surrogateescape").decode(errors="replace")
        header = tar[end : member.offset_data]
        blob += _frame(header)
        split.append(segment_line(len(split), header))
        size = member.size if member.isreg() else 0
        payload = tar[member.offset_data : member.offset_data + size]
        name = member.name + ("/" if member.isdir() else "")
        # The checksum is for a reader that looks at nothing better.
        split.append(file_line(len(split), name, size, bytes(8)))
        entries += _entries(member, name, payload, blob, chunk_bytes)
        end = member.offset_data + size
    blob += _frame(tar[end:])
    split.append(segment_line(len(split), tar[end:]))
    return _finish(tar, bytes(blob), entries, b"".join(split))


def _members(tar: bytes) -> Iterator[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(tar), encoding="utf-8", errors="surrogateescape") as archive:
        yield from archive


def _entries(
    member: tarfile.TarInfo, name: str, payload: bytes, blob: bytearray, chunk_bytes: int
) -> list[TableEntry]:
    whole = TableEntry(
        TYPES[_KINDS[member.type]],
        name,
        linkname=member.linkname,
        mode=member.mode,
        size=len(payload),
        uid=member.uid,
        gid=member.gid,
        device=(member.devmajor, member.devminor),
        xattrs={
            key.removeprefix(_XATTR): value.encode(errors="surrogateescape")
            for key, value in member.pax_headers.items()
            if key.startswith(_XATTR)
        },
    )
    if not payload:
        return [whole]
    whole.digest, whole.offset = digest_of(payload), len(blob)
    found = [whole]
    for start in range(0, len(payload), chunk_bytes):
        part = payload[start : start + chunk_bytes]
        if len(payload) > chunk_bytes:
            entry = whole if not start else TableEntry(CHUNK, name)
            entry.offset, entry.chunk_offset, entry.chunk_size = len(blob), start, len(part)
            entry.chunk_digest = digest_of(part)
            if start:
                found.append(entry)
        blob += _frame(part)
    whole.end_offset = len(blob)
    return found


def _finish(tar: bytes, frames: bytes, entries: list[TableEntry], split: bytes) -> Layer:
    packed_split = _frame(split)
    table = b"".join(write_table(entries, digest_of(packed_split)))
    packed = _frame(table)
    offset = len(frames) + FRAME_HEADER_BYTES
    layout = Layout(
        digest_of(packed),
        Part(offset, len(packed), len(table)),
        Part(offset + len(packed) + FRAME_HEADER_BYTES, len(packed_split), len(split)),
    )
    tail = (packed, packed_split, footer(layout))
    blob = frames + b"".join(map(skippable_frame, tail))
    return Layer(blob, digest_of(tar), "zstd", layer_annotations(layout))


def _frame(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(data)


def compressed_bytes(layer: Layer, names: Iterable[str]) -> int:
    """Return how many bytes of a layer hold the content of some of its files."""
    layout = layer_layout(layer.annotations, len(layer.blob))
    assert layout
    table = zstandard.ZstdDecompressor().decompress(layer.blob[layout.table.offset : layout.table.end])
    wanted = set(names)
    files = [entry for entry in Table([table], data_end=layout.data_end) if entry.type == FILE]
    return sum(entry.end_offset - entry.offset for entry in files if entry.name in wanted)


def tables_bytes(layer: Layer) -> int:
    """Return how many bytes of a layer are its tables."""
    layout = layer_layout(layer.annotations, len(layer.blob))
    assert layout
    assert layout.tar_split
    return layout.tar_split.end - layout.table.offset
