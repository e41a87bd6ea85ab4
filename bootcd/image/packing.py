"""Layers compressed: gzip, zstd, or zstd in frames by file with a table of contents, zstd:chunked.

The same archive, form, level and release of the library give the same bytes, by whatever thread.

In zstd:chunked each file is a frame of its own, a large one several, cut at fixed places: a reader needs
no more memory than for one of them, and a database that is changed in place keeps the others. What is
between files is frames too, so the blob is an ordinary zstd file. Frames have no checksum, as digests of
three kinds are about them: that of the blob, of the archive and of each file.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import zstandard
from fastcrc.crc64 import go_iso as crc64

from bootcd.image.archive import Member
from bootcd.image.flatten import Spool
from bootcd.oci.chunked import (
    CHUNK,
    FRAME_HEADER_BYTES,
    MAX_ENTRIES,
    MAX_TABLE_BYTES,
    TYPES,
    Layout,
    Part,
    TableEntry,
    footer,
    layer_annotations,
    modtime,
    skippable_frame,
    write_table,
)
from bootcd.oci.resolve import digest_of
from bootcd.oci.tar import EntryType
from bootcd.oci.tarsplit import file_line, segment_line

CHUNK_BYTES = 1 << 20
"Where large files are cut. Smaller pieces compress worse: by a hundredth at a quarter of it."

_GZIP_CONTAINER = 16 + zlib.MAX_WBITS
_MAX_GZIP_LEVEL = 9


class Compression(StrEnum):
    """By the names skopeo has for them."""

    CHUNKED = "zstd:chunked"
    ZSTD = "zstd"
    GZIP = "gzip"


@dataclass(frozen=True, slots=True)
class Packing:
    compression: Compression = Compression.CHUNKED
    level: int = 9
    "Of zstd, 1 to 19; gzip has none above 9."

    @property
    def media_type(self) -> str:
        suffix = "gzip" if self.compression is Compression.GZIP else "zstd"
        return f"application/vnd.oci.image.layer.v1.tar+{suffix}"


@dataclass(frozen=True, slots=True)
class Packed:
    diff_id: str
    annotations: dict[str, str] = field(default_factory=dict)
    "That the manifest has to say of the layer."
    table_bytes: int = 0
    "Of the tables that are fetched before any file, with what frames them; 0 if it has none."
    files: tuple[tuple[bytes, int], ...] = ()
    "Digest and compressed bytes of each file that can be fetched alone."


Write = Callable[[bytes], object]


def pack(archive: Iterable[Member | bytes], spool: Spool, packing: Packing, write: Write) -> Packed:
    """Write an archive compressed. Blocks; memory does not grow with files or with the archive."""
    if packing.compression is Compression.CHUNKED:
        writer = _ChunkedWriter(packing.level, spool, write)
        for member in archive:
            writer.add(member)
        return writer.finish()
    plain = hashlib.sha256()
    stream: Any
    if packing.compression is Compression.GZIP:
        # It leaves the time in the header at 0.
        stream = zlib.compressobj(min(packing.level, _MAX_GZIP_LEVEL), wbits=_GZIP_CONTAINER)
    else:
        # One thread: the number of them changes the bytes.
        stream = zstandard.ZstdCompressor(level=packing.level, write_checksum=True).compressobj()
    for piece in _pieces(archive, spool):
        plain.update(piece)
        write(stream.compress(piece))
    write(stream.flush())
    return Packed(f"sha256:{plain.hexdigest()}")


def _pieces(archive: Iterable[Member | bytes], spool: Spool) -> Iterator[bytes]:
    for member in archive:
        if isinstance(member, bytes):
            yield member
            continue
        yield member.head
        if member.has_payload:
            yield from spool.chunks(member.node)


class _ChunkedWriter:
    def __init__(self, level: int, spool: Spool, write: Write) -> None:
        self._compressor = zstandard.ZstdCompressor(level=level, write_checksum=False)
        self._level = level
        self._spool = spool
        self._write = write
        self._end = 0
        "Of what was written."
        self._plain = hashlib.sha256()
        self._between = b""
        "What was not written yet of what lies between payloads."
        self._entries: list[TableEntry] = []
        self._files: list[tuple[bytes, int]] = []
        self._split = _Compressed(self._level)
        self._lines = 0

    def add(self, member: Member | bytes) -> None:
        if isinstance(member, bytes):
            self._add_segment(member)
            return
        self._add_segment(member.head)
        tar = member.entry
        entry = TableEntry(
            TYPES[tar.type],
            f"{tar.name}/" if tar.type is EntryType.DIRECTORY else tar.name,
            linkname=tar.linkname,
            mode=tar.mode,
            size=tar.size,
            uid=tar.uid,
            gid=tar.gid,
            # Readers take the beginning of time and none for the same.
            modtime=modtime(tar.mtime) if tar.mtime else "",
            xattrs=tar.xattrs,
            device=tar.device,
        )
        self._entries.append(entry)
        checksum = self._add_payload(entry, member) if member.has_payload else b""
        self._split.add(file_line(self._lines, entry.name, tar.size, checksum))
        self._lines += 1

    def _add_segment(self, data: bytes) -> None:
        self._between += data
        if len(self._between) >= CHUNK_BYTES:
            self._end_between()
        self._split.add(segment_line(self._lines, data))
        self._lines += 1

    def _add_payload(self, entry: TableEntry, member: Member) -> bytes:
        """Write the content of a file; return its checksum for tar-split."""
        self._end_between()
        entry.digest = f"sha256:{member.node.sha256.hex()}"
        entry.offset = self._end
        is_cut = entry.size > CHUNK_BYTES
        checksum = done = 0
        for data in self._spool.chunks(member.node, CHUNK_BYTES):
            checksum = crc64(data, checksum)
            if is_cut:
                chunk = entry
                if done:
                    chunk = TableEntry(CHUNK, entry.name, offset=self._end, chunk_offset=done)
                    self._entries.append(chunk)
                chunk.chunk_size = len(data)
                chunk.chunk_digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            self._frame(data)
            done += len(data)
        entry.end_offset = self._end
        self._files.append((member.node.sha256, entry.end_offset - entry.offset))
        return checksum.to_bytes(8, "big")

    def _end_between(self) -> None:
        if self._between:
            self._frame(self._between)
            self._between = b""

    def _frame(self, data: bytes) -> None:
        self._plain.update(data)
        self._put(self._compressor.compress(data))

    def _put(self, data: bytes) -> None:
        self._write(data)
        self._end += len(data)

    def finish(self) -> Packed:
        self._end_between()
        diff_id = f"sha256:{self._plain.hexdigest()}"
        split = self._split.finish()
        table = _Compressed(self._level)
        for piece in write_table(self._entries, digest_of(split)):
            table.add(piece)
        data = table.finish()
        sizes = (len(data), table.plain_size, len(split), self._split.plain_size)
        if max(sizes) > MAX_TABLE_BYTES or len(self._entries) > MAX_ENTRIES:
            # Nobody would read them. Without them it is a zstd layer like any other.
            return Packed(diff_id)
        place = Part(self._end + FRAME_HEADER_BYTES, len(data), table.plain_size)
        behind = Part(place.end + FRAME_HEADER_BYTES, len(split), self._split.plain_size)
        layout = Layout(digest_of(data), place, behind)
        for content in (data, split, footer(layout)):
            self._put(skippable_frame(content))
        return Packed(diff_id, layer_annotations(layout), behind.end - layout.data_end, tuple(self._files))


class _Compressed:
    """A document that is compressed while it comes."""

    def __init__(self, level: int) -> None:
        # Of its own: streams and single frames of one compressor get in each other's way.
        self._stream = zstandard.ZstdCompressor(level=level).compressobj()
        self._data: list[bytes] = []
        self.plain_size = 0

    def add(self, data: bytes) -> None:
        self.plain_size += len(data)
        self._data.append(self._stream.compress(data))

    def finish(self) -> bytes:
        self._data.append(self._stream.flush())
        return b"".join(self._data)
