"""The zstd:chunked form of a layer: what its annotations, its footer and its table of contents say.

Such a layer is an ordinary zstd archive, cut into frames so that every file's payload can be fetched and
decompressed alone, with frames behind it that decompressors skip:

    frames of headers and payloads | table of contents | tar-split | footer

The table names each file with the digest and the place of its content, tar-split (`oci.tarsplit`) has all
other bytes of the archive. The annotation in the manifest vouches for the table, the table for tar-split.
Everything here is a stranger's word: offsets stay within the blob, ascend and do not overlap, sizes and
counts are bounded. What is refused raises InvalidLayer; the layer is then read as any other.

Format: `pkg/chunked/internal/minimal/compression.go` of https://github.com/containers/storage;
skippable frames: https://www.rfc-editor.org/rfc/rfc8878#section-3.1.2. No I/O.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from bootcd.model.errors import InvalidLayer
from bootcd.oci.manifest import MAX_LAYER_BYTES
from bootcd.oci.strictjson import unique_members
from bootcd.oci.tar import MAX_NAME_BYTES, MAX_XATTR_BYTES, MAX_XATTR_NAME_BYTES, MAX_XATTRS, EntryType

MAX_TABLE_BYTES = 150 << 20
"Of the table or of tar-split, compressed or not: what containers/storage reads at most."
MAX_ENTRIES = 1_000_000
LATEST_TIME = 253402300799
"The end of the year 9999, with which RFC 3339 ends."
MAX_ENTRY_CHARS = 2 << 20
"Of one entry's JSON."

_PREFIX = "io.github.containers.zstd-chunked."
CHECKSUM: Final = f"{_PREFIX}manifest-checksum"
POSITION: Final = f"{_PREFIX}manifest-position"
TAR_SPLIT_POSITION: Final = f"{_PREFIX}tarsplit-position"
_STARGZ = "containerd.io/snapshot/stargz/toc.digest"

FRAME_HEADER_BYTES = 8
FOOTER_BYTES = 64
_FRAME_MAGIC = b"\x50\x2a\x4d\x18"
_FOOTER_MAGIC = b"GNUlInUx"
_FOOTER = struct.Struct("<7Q8s")
_TABLE_TYPE = 1

_NUMBER = r"(0|[1-9][0-9]{0,18})"
_POSITION = re.compile(f"{_NUMBER}:{_NUMBER}:{_NUMBER}:{_NUMBER}")
_SPLIT_POSITION = re.compile(f"{_NUMBER}:{_NUMBER}:{_NUMBER}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

FILE: Final = "reg"
CHUNK: Final = "chunk"
TYPES: Final[Mapping[EntryType, str]] = {
    EntryType.FILE: FILE,
    EntryType.HARDLINK: "hardlink",
    EntryType.SYMLINK: "symlink",
    EntryType.CHARACTER: "char",
    EntryType.BLOCK: "block",
    EntryType.DIRECTORY: "dir",
    EntryType.FIFO: "fifo",
}
"How the table calls what an archive holds."
_TYPES = frozenset({*TYPES.values(), CHUNK})
ZEROS: Final = "zeros"


@dataclass(frozen=True, slots=True)
class Part:
    """Where the content of a skippable frame lies in the blob, and how long it is when decompressed."""

    offset: int
    size: int
    plain_size: int

    @property
    def end(self) -> int:
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class Layout:
    """What the annotations of a layer say."""

    table_digest: str
    "Of the compressed table."
    table: Part
    tar_split: Part | None

    @property
    def data_end(self) -> int:
        """Where the frames of the archive end at the latest."""
        parts = (self.table, self.tar_split) if self.tar_split else (self.table,)
        return min(part.offset for part in parts) - FRAME_HEADER_BYTES


@dataclass(slots=True)
class TableEntry:
    """One entry of the table; most members have the meaning they have in a tar header.

    An entry of type `chunk` has a name and chunk members only. It follows the file it is a part of, whose
    own chunk members are then those of its first chunk.
    """

    type: str
    name: str
    linkname: str = ""
    mode: int = 0
    size: int = 0
    uid: int = 0
    gid: int = 0
    modtime: str = ""
    "RFC 3339."
    xattrs: dict[str, bytes] = field(default_factory=dict)
    device: tuple[int, int] = (0, 0)
    digest: str = ""
    "Of a file's content, which is not empty."
    offset: int = 0
    "Where its frames begin in the blob; of a chunk, where those of the chunk do."
    end_offset: int = 0
    chunk_size: int = 0
    chunk_offset: int = 0
    "In the file's content."
    chunk_digest: str = ""
    chunk_type: str = ""
    "Empty or `zeros`."


# Annotations and frames


def layer_layout(annotations: Mapping[str, str], layer_bytes: int) -> Layout | None:
    """Return where a layer has its tables, None if it does not say that it has any.

    Raises InvalidLayer for annotations that cannot be true of a blob of this size.
    """
    if CHECKSUM not in annotations and POSITION not in annotations:
        return None
    digest = annotations.get(CHECKSUM, "")
    match = _POSITION.fullmatch(annotations.get(POSITION, ""))
    if not _DIGEST.fullmatch(digest) or match is None or int(match[4]) != _TABLE_TYPE:
        raise InvalidLayer("the layer's annotations of zstd:chunked are malformed")
    if _STARGZ in annotations:
        raise InvalidLayer("the layer has annotations of both zstd:chunked and eStargz")
    table = Part(int(match[1]), int(match[2]), int(match[3]))
    tar_split = None
    if TAR_SPLIT_POSITION in annotations:
        split = _SPLIT_POSITION.fullmatch(annotations[TAR_SPLIT_POSITION])
        if split is None:
            raise InvalidLayer("the layer's annotation of the place of tar-split is malformed")
        tar_split = Part(int(split[1]), int(split[2]), int(split[3]))
    layout = Layout(digest, table, tar_split)
    _check_parts(layout, layer_bytes)
    return layout


def _check_parts(layout: Layout, layer_bytes: int) -> None:
    parts = sorted(filter(None, (layout.table, layout.tar_split)), key=lambda part: part.offset)
    end = 0
    for part in parts:
        if not 0 < part.size <= MAX_TABLE_BYTES or not 0 < part.plain_size <= MAX_TABLE_BYTES:
            raise InvalidLayer("the layer's tables are empty or too large")
        if part.offset - FRAME_HEADER_BYTES < end or part.end > layer_bytes:
            raise InvalidLayer("the layer's annotations place its tables outside of it or upon each other")
        end = part.end


def layer_annotations(layout: Layout) -> dict[str, str]:
    """Return what the manifest has to say of a layer."""
    table, split = layout.table, layout.tar_split
    found = {
        CHECKSUM: layout.table_digest,
        POSITION: f"{table.offset}:{table.size}:{table.plain_size}:{_TABLE_TYPE}",
    }
    if split:
        found[TAR_SPLIT_POSITION] = f"{split.offset}:{split.size}:{split.plain_size}"
    return found


def skippable_frame(content: bytes) -> bytes:
    """Return a frame that decompressors pass over."""
    return _FRAME_MAGIC + struct.pack("<I", len(content)) + content


def footer(layout: Layout) -> bytes:
    """Return the content of the last frame; it says what the annotations say, for who lacks them."""
    table, split = layout.table, layout.tar_split or Part(0, 0, 0)
    return _FOOTER.pack(
        table.offset,
        table.size,
        table.plain_size,
        _TABLE_TYPE,
        split.offset,
        split.size,
        split.plain_size,
        _FOOTER_MAGIC,
    )


def parse_footer(content: bytes, layer_bytes: int) -> tuple[Part, Part | None]:
    """Return where a footer places table and tar-split; raises InvalidLayer."""
    if len(content) != FOOTER_BYTES or not content.endswith(_FOOTER_MAGIC):
        raise InvalidLayer("the layer does not end with the footer of zstd:chunked")
    *numbers, kind, offset, size, plain_size, _ = _FOOTER.unpack(content)
    table, split = Part(*numbers), Part(offset, size, plain_size) if size else None
    if kind != _TABLE_TYPE:
        raise InvalidLayer("the layer has a table of contents of an unknown type")
    _check_parts(Layout("", table, split), layer_bytes)
    return table, split


# The table


class Table:
    """Iterate over the entries of a table of contents, once; `tar_split_digest` is known afterwards.

    Reads as it goes, so memory does not grow with the table. Raises InvalidLayer; what `blocks` raises
    passes through.

    Args:
        blocks: the decompressed table.
        data_end: where the payloads end in the blob at the latest.
    """

    def __init__(self, blocks: Iterable[bytes | memoryview], *, data_end: int) -> None:
        self._window = _Window(blocks)
        self._data_end = data_end
        self._end = 0
        "Of the last payload."
        self._chunked: TableEntry | None = None
        "The file whose chunks come now."
        self._chunk_end = 0
        self._chunk_place = 0
        self._count = 0
        self.tar_split_digest = ""

    def __iter__(self) -> Iterator[TableEntry]:
        window = self._window
        seen: set[str] = set()
        version = None
        window.expect("{")
        while True:
            key = window.value()
            if not isinstance(key, str) or key in seen or len(seen) > 20:
                raise _error("has a malformed member")
            seen.add(key)
            window.expect(":")
            if key == "entries":
                yield from self._entries()
            elif key == "version":
                version = window.value()
            elif key == "tarSplitDigest":
                self.tar_split_digest = _digest(window.value())
            else:
                window.value()
            if window.expect(",}") == "}":
                break
        window.expect_end()
        if type(version) is not int or version != 1 or "entries" not in seen:
            raise _error("is not of version 1")

    def _entries(self) -> Iterator[TableEntry]:
        window = self._window
        if window.peek() != "[":
            if window.value() is not None:
                raise _error("has entries that are no list")
            return
        window.expect("[")
        if window.peek() == "]":
            window.expect("]")
            return
        while True:
            self._count += 1
            if self._count > MAX_ENTRIES:
                raise _error(f"has more than {MAX_ENTRIES} entries")
            entry = _entry(window.value())
            self._check(entry)
            yield entry
            if window.expect(",]") == "]":
                break
        self._end_chunks()

    def _check(self, entry: TableEntry) -> None:
        """Hold an entry to the blob's length and to the entries before it."""
        if entry.type == CHUNK:
            self._check_chunk(entry)
            return
        self._end_chunks()
        if entry.type != FILE or not entry.size:
            if entry.digest and entry.type != FILE:
                raise _error("has content for what is no file", entry.name)
            return
        if not entry.digest:
            raise _error("has no digest", entry.name)
        if not self._end <= entry.offset < entry.end_offset <= self._data_end:
            raise _error("places content outside of the layer or upon other content", entry.name)
        self._end = entry.end_offset
        if entry.chunk_digest and entry.chunk_size != entry.size:
            self._chunked = entry
            self._chunk_end = self._chunk_place = 0
            self._check_chunk(entry)

    def _check_chunk(self, chunk: TableEntry) -> None:
        whole = self._chunked
        if (
            whole is None
            or chunk.name != whole.name
            or not chunk.chunk_digest
            or chunk.chunk_offset != self._chunk_end
            or not 0 < chunk.chunk_size <= whole.size - self._chunk_end
            or not max(self._chunk_place, whole.offset) <= chunk.offset <= whole.end_offset
        ):
            raise _error("has chunks that do not make up a file", chunk.name)
        self._chunk_end += chunk.chunk_size
        self._chunk_place = chunk.offset

    def _end_chunks(self) -> None:
        if self._chunked is not None and self._chunk_end != self._chunked.size:
            raise _error("has chunks that do not make up a file", self._chunked.name)
        self._chunked = None


_MAX_NUMBER = (1 << 63) - 1


_NUMBERS = ("mode", "size", "uid", "gid", "offset", "endOffset", "chunkSize", "chunkOffset")
_OTHERS = frozenset({"xattrs", "devMajor", "devMinor", "chunkDigest", "chunkType"})
"Members that few entries have."


def _entry(document: Any) -> TableEntry:
    """Return an entry; there are tens of thousands, each in the way of an update."""
    if not isinstance(document, dict):
        raise _error("has an entry that is no object")
    get = document.get
    kind, name = get("type"), get("name")
    if not isinstance(kind, str) or kind not in _TYPES or not isinstance(name, str):
        raise _error("has an entry without name or known type")
    _check_text(name)
    if ".." in name and ".." in name.split("/"):
        raise _error("has a name that leads out of the layer", name)
    numbers = [get(member, 0) for member in _NUMBERS]
    for number in numbers:
        if type(number) is not int or not 0 <= number <= _MAX_NUMBER:
            raise _error("has a number out of range", name)
    mode, size, uid, gid, offset, end_offset, chunk_size, chunk_offset = numbers
    if offset > MAX_LAYER_BYTES or end_offset > MAX_LAYER_BYTES:
        raise _error("places content outside of the layer", name)
    link, modtime, digest = get("linkName", ""), get("modtime", ""), get("digest")
    entry = TableEntry(
        kind,
        name,
        _text(link) if link != "" else "",
        mode,
        size,
        uid,
        gid,
        _text(modtime) if modtime != "" else "",
        digest=_digest(digest) if digest else "",
        offset=offset,
        end_offset=end_offset,
        chunk_size=chunk_size,
        chunk_offset=chunk_offset,
    )
    if not _OTHERS.isdisjoint(document):
        _add_others(entry, document)
    return entry


def _add_others(entry: TableEntry, document: dict[str, Any]) -> None:
    get, name = document.get, entry.name
    entry.device = _number(get("devMajor", 0), name), _number(get("devMinor", 0), name)
    xattrs, digest, chunk_type = get("xattrs"), get("chunkDigest"), get("chunkType", "")
    if xattrs:
        entry.xattrs = _xattrs(xattrs, name)
    if digest:
        entry.chunk_digest = _digest(digest)
    if chunk_type not in ("", ZEROS):
        raise _error("has a chunk of an unknown type", name)
    entry.chunk_type = chunk_type


def _text(value: Any) -> str:
    _check_text(value)
    return str(value)


def _number(value: Any, name: str) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_NUMBER:
        raise _error("has a number out of range", name)
    return value


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise _error("has a digest that is none of SHA-256")
    return value


def _check_text(value: Any) -> None:
    if type(value) is str and len(value) <= MAX_NAME_BYTES and value.isascii() and "\0" not in value:
        return
    try:
        valid = isinstance(value, str) and "\0" not in value and len(value.encode()) <= MAX_NAME_BYTES
    except UnicodeEncodeError:  # half a surrogate pair, which is no character
        valid = False
    if not valid:
        raise _error("has a text that is no name")


def _xattrs(value: Any, name: str) -> dict[str, bytes]:
    if not isinstance(value, dict) or len(value) > MAX_XATTRS:
        raise _error("has malformed extended attributes", name)
    found: dict[str, bytes] = {}
    for key, text in value.items():
        _check_text(key)
        try:
            found[key] = base64.b64decode(text, validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise _error("has malformed extended attributes", name) from error
        if not key or len(key.encode()) > MAX_XATTR_NAME_BYTES or len(found[key]) > MAX_XATTR_BYTES:
            raise _error("has extended attributes that are too long", name)
    return found


def _error(problem: str, name: str = "") -> InvalidLayer:
    at = f" at {name if len(name) <= 120 else name[:117] + '...'!a}" if name else ""
    return InvalidLayer(f"the layer's table of contents {problem}{at}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


class _Window:
    """A moving view of a JSON document that is too long to be held."""

    _DECODER = json.JSONDecoder(object_pairs_hook=unique_members, parse_constant=_refuse_constant)
    _BLANKS = re.compile(r"[ \t\n\r]*")

    def __init__(self, blocks: Iterable[bytes | memoryview]) -> None:
        self._blocks = iter(blocks)
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._text = ""
        self._at = 0
        self._ended = False

    def _more(self) -> bool:
        """Take another block in; False at the end."""
        if self._ended:
            return False
        block = next(self._blocks, None)
        self._ended = block is None
        try:
            text = self._decode(bytes(block or b""), self._ended)
        except UnicodeDecodeError as error:
            raise _error("is not UTF-8") from error
        self._text = self._text[self._at :] + text
        self._at = 0
        return not self._ended or bool(text)

    def peek(self) -> str:
        while True:
            match = self._BLANKS.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                raise _error("is cut short")

    def expect(self, characters: str) -> str:
        # Most documents have no blanks.
        found = self._text[self._at : self._at + 1]
        if not found or found not in characters:
            found = self.peek()
        if found not in characters:
            raise _error("is not valid JSON")
        self._at += 1
        return found

    def expect_end(self) -> None:
        while self._more():
            if len(self._text) - self._at > MAX_ENTRY_CHARS:
                break
        if self._text[self._at :].strip(" \t\n\r"):
            raise _error("goes on after its end")

    def value(self) -> Any:
        """Return the value that begins here."""
        if not self._text.startswith("{", self._at):
            self.peek()
        while True:
            problem: Exception | None = None
            try:
                value, end = self._DECODER.raw_decode(self._text, self._at)
            except RecursionError as error:
                raise _error("is nested too deeply") from error
            except ValueError as error:
                problem = error
            else:
                # A number that ends where the view does may go on behind it.
                if end < len(self._text) or self._ended:
                    if end - self._at > MAX_ENTRY_CHARS:
                        raise _error("has an entry that is too long")
                    self._at = end
                    return value
            if len(self._text) - self._at > MAX_ENTRY_CHARS:
                raise _error("is not valid JSON, or has an entry that is too long") from problem
            if not self._more() and problem is not None:
                raise _error("is not valid JSON") from problem


def write_table(entries: Iterable[TableEntry], tar_split_digest: str) -> Iterator[bytes]:
    """Yield the table of contents in pieces, as containers/storage writes it: what is empty is left out."""
    yield b'{"version":1,"entries":['
    separator = b""
    for entry in entries:
        yield separator + _compact(_document(entry))
        separator = b","
    yield b'],"tarSplitDigest":' + _compact(tar_split_digest) + b"}"


def _document(entry: TableEntry) -> dict[str, Any]:
    members = {
        "type": entry.type,
        "name": entry.name,
        "linkName": entry.linkname,
        "mode": entry.mode,
        "size": entry.size,
        "uid": entry.uid,
        "gid": entry.gid,
        "modtime": entry.modtime,
        "devMajor": entry.device[0],
        "devMinor": entry.device[1],
        "xattrs": {key: base64.b64encode(value).decode() for key, value in sorted(entry.xattrs.items())},
        "digest": entry.digest,
        "offset": entry.offset,
        "endOffset": entry.end_offset,
        "chunkSize": entry.chunk_size,
        "chunkOffset": entry.chunk_offset,
        "chunkDigest": entry.chunk_digest,
        "chunkType": entry.chunk_type,
    }
    return {key: value for key, value in members.items() if value or key in ("type", "name")}


def _compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def modtime(seconds: int) -> str:
    """Return a time of a tar header as the table has it; empty if it is none that RFC 3339 can express."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return ""
