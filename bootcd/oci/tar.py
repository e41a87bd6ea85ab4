"""Streaming reader of layer archives that trusts nothing in them.

A layer is read once, while it is downloaded or decompressed, on the hot path of a pull, and comes
from whoever could push to the registry. So this reader is lean, never seeks, holds one buffer or none, and
ends every archive that is not in order with InvalidLayer instead of guessing. No I/O: the bytes come
from a `ByteSource` or a `BlockSource`.

Formats: POSIX ustar and pax (pax(1), "ustar Interchange Format"), GNU long names and base-256
numbers (GNU tar manual, "Basic Tar Format"), star's prefix and V7. Where they leave a choice, the
reader does what Go's archive/tar does, which wrote nearly every layer there is:

- Links, directories, devices and fifos have no payload, whatever their size field says. If one
  follows all the same, it is no valid header, and the archive is refused.
- Type 7 (contiguous) is a regular file. Sparse files and all other types are refused.
- The archive ends at two zero blocks; what follows is not looked at. A zero block with anything but
  a zero block or the end behind it is refused.
- An archive that ends without zero blocks, but between two entries, is complete.
- A pax record wins over the header, a GNU long name over the pax record. An empty pax record restores
  the header's value; an empty xattr is an xattr.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Protocol, runtime_checkable
from zlib import adler32

from bootcd.model.errors import InvalidLayer

BLOCK = 512
MAX_RECORD_BYTES = 1 << 20
"Of one pax header or GNU long name; more than the 1000 records below need in earnest."
MAX_NAME_BYTES = 4096
"PATH_MAX of Linux, for names and link targets."
MAX_XATTRS = 1000
MAX_XATTR_BYTES = 1 << 16
"XATTR_SIZE_MAX of Linux."
MAX_XATTR_NAME_BYTES = 255
MAX_ENTRIES = 5_000_000
"Headers of any kind, so that an archive of nothing but headers ends too."
_MAX_FILE_BYTES = (1 << 63) - 1
MAX_ID = (1 << 32) - 2
"The id above it is -1, which chown(2) takes as no change."

_XATTR_PREFIX = b"SCHILY.xattr."
_SPARSE_PREFIX = b"GNU.sparse."
_PAX_FIELDS = frozenset({b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"})
_ZERO_BLOCK = bytes(BLOCK)


class ByteSource(Protocol):
    """Where an archive comes from."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the start of the buffer and return the count; less than asked is fine, 0 is the end."""


@runtime_checkable
class BlockSource(Protocol):
    """A source with buffers of its own, from which nothing has to be copied."""

    def next_block(self) -> memoryview:
        """Return the next bytes, which stay until the next call; none at the end."""


class EntryType(Enum):
    """In the order of the type flags 0 to 6."""

    FILE = "file"
    HARDLINK = "hardlink"
    SYMLINK = "symlink"
    CHARACTER = "character device"
    BLOCK = "block device"
    DIRECTORY = "directory"
    FIFO = "fifo"


@dataclass(slots=True)
class TarEntry:
    """One member. Names are as in the archive, but for slashes at the end of a directory's."""

    name: str
    type: EntryType
    mode: int
    "Permission, set-id and sticky bits only."
    uid: int
    gid: int
    size: int
    "Bytes of payload; 0 for all but FILE."
    linkname: str
    "Target of HARDLINK and SYMLINK, else empty."
    mtime: int
    xattrs: dict[str, bytes]
    device: tuple[int, int] = (0, 0)
    "Major and minor number of a CHARACTER or BLOCK device."


# Looked up once per entry; attributes of an Enum class are slow to get at.
_FILE = EntryType.FILE
_DIRECTORY = EntryType.DIRECTORY
_HARDLINK = EntryType.HARDLINK
_SYMLINK = EntryType.SYMLINK
_DEVICES = frozenset({EntryType.CHARACTER, EntryType.BLOCK})
_V7_FILE = 0
_CONTIGUOUS, _GNU_LONG_NAME, _GNU_LONG_LINK, _PAX, _PAX_GLOBAL = b"7LKxg"
_TYPES = {**dict(zip(b"0123456", EntryType, strict=True)), _V7_FILE: _FILE, _CONTIGUOUS: _FILE}

_Pax = dict[bytes, bytes]


class TarReader:
    """Iterate over the entries of one archive, once.

    Payload not read by `read_chunks` is skipped at the next step. Blocks where the source does.
    Raises InvalidLayer; what the source raises passes through.
    """

    def __init__(self, source: ByteSource | BlockSource, *, buffer_bytes: int = 1 << 20) -> None:
        blocks = source if isinstance(source, BlockSource) else _Buffered(source, buffer_bytes)
        self._next_bytes = blocks.next_block
        self._view = memoryview(b"")
        self._start = 0
        self._end = 0
        self._payload = 0
        self._padding = 0
        self._headers = 0
        self._name = b""

    def __iter__(self) -> Iterator[TarEntry]:
        pax_global: _Pax = {}
        pax: _Pax | None = None
        long_name: bytes | None = None
        long_link: bytes | None = None
        while (header := self._next_header()) is not None:
            kind = header[156]
            if kind in _TYPES:
                records = {**pax_global, **pax} if pax and pax_global else pax or pax_global
                entry = self._entry(header, records, long_name, long_link)
                pax = long_name = long_link = None
                self._payload = entry.size
                self._padding = -entry.size % BLOCK
                yield entry
            elif kind == _PAX:
                if pax is not None:
                    raise self._damage("has two extended headers for one entry")
                pax = self._pax_records(header)
            elif kind == _PAX_GLOBAL:
                pax_global |= self._pax_records(header)
                # A few bytes here would be thousands of attributes on every entry.
                if not pax_global.keys() <= _PAX_FIELDS:
                    raise self._damage("has extended attributes for all entries")
            elif kind == _GNU_LONG_NAME:
                long_name = self._extension(header).rstrip(b"\0")
            elif kind == _GNU_LONG_LINK:
                long_link = self._extension(header).rstrip(b"\0")
            else:
                self._name = _header_name(header)
                raise self._error(f"has the unsupported type {chr(kind)!r}")
        if pax is not None or long_name is not None or long_link is not None:
            raise self._damage("has an extended header without an entry")

    def read_chunks(self) -> Iterator[memoryview]:
        """Yield what is left of the current entry's payload; a view is valid until the next step."""
        while self._payload:
            if self._start == self._end:
                self._refill()
            start = self._start
            stop = min(start + self._payload, self._end)
            self._payload -= stop - start
            self._start = stop
            yield self._view[start:stop]

    @property
    def buffered(self) -> int:
        """Bytes taken from the source and not looked at yet: the payload begins so far before its place."""
        return self._end - self._start

    def pass_payload(self) -> int:
        """Leave out what is left of the current entry; return how many bytes the source has to leave out.

        For a source that can go to another place without reading.
        """
        skip = self._payload + self._padding
        here = min(skip, self._end - self._start)
        self._start += here
        self._payload = self._padding = 0
        return skip - here

    def leave_payload(self) -> None:
        """Have the payload of the current entry count as read, as the source leaves it out.

        Only if nothing of it was taken from the source, that is if nothing is `buffered`.
        """
        self._payload = 0

    def drain(self) -> None:
        """Read the source to its end, so that a digest taken over it is complete; ends the iteration."""
        self._start = self._end = self._payload = self._padding = 0
        while self._next_bytes():
            pass

    def _next_header(self) -> bytes | None:
        """Go to the next header; None at the end of the archive."""
        if skip := self._payload + self._padding:
            self._skip(skip)
        block = self._block()
        if block is None:
            return None
        field = block[148:156]
        try:
            stored = _number(field)
        except ValueError as error:
            raise self._damage("has a damaged header") from error
        # The checksum counts its own field as spaces. Adler-32 is the way to sum bytes in C: its low
        # half is one and the sum, modulo 65521.
        if (adler32(block) % 65536 - 1 - sum(field) + 8 * 0x20 - stored) % 65521:
            if block == _ZERO_BLOCK:
                second = self._block()
                if second is None or second == _ZERO_BLOCK:
                    return None
                raise self._damage("has a lone zero block")
            raise self._damage("has a damaged header")
        self._headers += 1
        if self._headers > MAX_ENTRIES:
            raise self._damage(f"has more than {MAX_ENTRIES} headers")
        return block

    def _block(self) -> bytes | None:
        start = self._start
        stop = start + BLOCK
        if stop > self._end:
            return self._block_in_parts()
        self._start = stop
        return self._view[start:stop].tobytes()

    def _block_in_parts(self) -> bytes | None:
        """Return the next block, of which not all is here; None if nothing of it comes any more."""
        data = self._view[self._start : self._end].tobytes()
        while (missing := BLOCK - len(data)) and self._advance():
            data += self._view[:missing]
            self._start = min(missing, self._end)
        if not data:
            return None
        if missing:
            raise self._damage("is cut short")
        return data

    def _advance(self) -> bool:
        """Go to the next bytes of the source; False at its end."""
        self._view = self._next_bytes()
        self._start = 0
        self._end = len(self._view)
        return self._end > 0

    def _refill(self) -> None:
        if not self._advance():
            raise self._damage("is cut short")

    def _skip(self, count: int) -> None:
        self._payload = self._padding = 0
        while count > self._end - self._start:
            count -= self._end - self._start
            self._refill()
        self._start += count

    def _extension(self, header: bytes) -> bytes:
        """Read the payload of a header that belongs to the next entry."""
        try:
            size = _number(header[124:136])
        except ValueError as error:
            raise self._damage("has a malformed extended header") from error
        if not 0 <= size <= MAX_RECORD_BYTES:
            raise self._damage("has an extended header that is too large")
        self._payload = size
        self._padding = -size % BLOCK
        if self._start + size <= self._end:
            self._payload = 0
            self._start += size
            return self._view[self._start - size : self._start].tobytes()
        data = bytearray()
        for chunk in self.read_chunks():
            data += chunk
        return bytes(data)

    def _pax_records(self, header: bytes) -> _Pax:
        """Read the records this product knows; the format of each is `length key=value newline`."""
        data = self._extension(header)
        found: _Pax = {}
        position = 0
        while position < len(data):
            space = data.find(b" ", position, position + 8)
            digits = data[position:space] if space > 0 else b""
            stop = position + int(digits) if digits.isdigit() else 0
            equals = data.find(b"=", space + 1, stop)
            if equals <= space + 1 or stop > len(data) or data[stop - 1] != 0x0A:
                raise self._damage("has a malformed extended header")
            key = data[space + 1 : equals]
            if key in _PAX_FIELDS or key.startswith(_XATTR_PREFIX):
                found[key] = data[equals + 1 : stop - 1]
            elif key.startswith(_SPARSE_PREFIX):
                raise self._damage("has a sparse file, which is not supported,")
            position = stop
        return found

    def _entry(self, header: bytes, pax: _Pax, long_name: bytes | None, long_link: bytes | None) -> TarEntry:
        self._name = long_name or pax.get(b"path") or _header_name(header)
        name = self._text(self._name, "name")
        kind = _TYPES[header[156]]
        if header[156] == _V7_FILE and name[-1] == "/":
            kind = _DIRECTORY
        linkname = ""
        if kind is _DIRECTORY:
            name = name.rstrip("/") or "/"
        elif kind is _HARDLINK or kind is _SYMLINK:
            raw_link = long_link or pax.get(b"linkpath") or header[157:257].partition(b"\0")[0]
            linkname = self._text(raw_link, "link target")
        try:
            mode = _cached_number(header[100:108])
            uid = _cached_number(header[108:116])
            gid = _cached_number(header[116:124])
            size = _number(header[124:136])
            mtime = _cached_number(header[136:148])
            device = (0, 0)
            # Headers before POSIX have nothing here.
            if kind in _DEVICES and header[257:262] == b"ustar":
                device = _number(header[329:337]), _number(header[337:345])
            xattrs: dict[str, bytes] = {}
            if pax:
                uid = _decimal(pax.get(b"uid"), uid)
                gid = _decimal(pax.get(b"gid"), gid)
                size = _decimal(pax.get(b"size"), size)
                mtime = _seconds(pax.get(b"mtime"), mtime)
                xattrs = self._xattrs(pax)
        except ValueError as error:
            raise self._error("has a malformed number in its header") from error
        if not (0 <= uid <= MAX_ID and 0 <= gid <= MAX_ID):
            raise self._error("has an owner out of range")
        if min(device) < 0:
            raise self._error("has a device number out of range")
        if not 0 <= size <= _MAX_FILE_BYTES or mode < 0:
            raise self._error("has a size or mode out of range")
        if kind is not _FILE:
            size = 0
        return TarEntry(name, kind, mode & 0o7777, uid, gid, size, linkname, mtime, xattrs, device)

    def _text(self, raw: bytes, what: str) -> str:
        if not raw:
            raise self._error(f"has an empty {what}")
        if len(raw) > MAX_NAME_BYTES:
            raise self._error(f"has a {what} longer than {MAX_NAME_BYTES} bytes")
        if b"\0" in raw:
            raise self._error(f"has a {what} with a NUL byte")
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self._error(f"has a {what} that is not UTF-8") from error

    def _xattrs(self, pax: _Pax) -> dict[str, bytes]:
        xattrs: dict[str, bytes] = {}
        for key, value in pax.items():
            if not key.startswith(_XATTR_PREFIX):
                continue
            raw = key[len(_XATTR_PREFIX) :]
            if len(raw) > MAX_XATTR_NAME_BYTES:
                raise self._error("has an extended attribute with too long a name")
            if len(value) > MAX_XATTR_BYTES:
                raise self._error(f"has an extended attribute of more than {MAX_XATTR_BYTES} bytes")
            xattrs[self._text(raw, "name of an extended attribute")] = value
        if len(xattrs) > MAX_XATTRS:
            raise self._error(f"has more than {MAX_XATTRS} extended attributes")
        return xattrs

    def _error(self, problem: str) -> InvalidLayer:
        name = self._quoted_name()
        return InvalidLayer(f"entry {name} of the layer archive {problem}", entry=name)

    def _damage(self, problem: str) -> InvalidLayer:
        """Report what is wrong between entries, by the last one that was in order."""
        if not self._name:
            return InvalidLayer(f"layer archive {problem} at its start")
        name = self._quoted_name()
        return InvalidLayer(f"layer archive {problem} after entry {name}", entry=name)

    def _quoted_name(self) -> str:
        name = self._name[:MAX_NAME_BYTES].decode(errors="replace")
        return repr(name if len(name) <= 120 else name[:117] + "...")


class _Buffered:
    """Bytes of a source that has no buffers of its own."""

    def __init__(self, source: ByteSource, size: int) -> None:
        self._source = source
        self._buffer = memoryview(bytearray(max(size, BLOCK)))

    def next_block(self) -> memoryview:
        return self._buffer[: self._source.readinto(self._buffer)]


def _header_name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    # Only POSIX archives have a prefix here; GNU keeps times in its place. That of star is shorter.
    if header[345] and header[257:263] == b"ustar\0":
        prefix = header[345:476] if header[508:] == b"tar\0" else header[345:500]
        return prefix.partition(b"\0")[0] + b"/" + name
    return name


def _number(field: bytes) -> int:
    """Read an octal number, or a base-256 one, which starts with a set bit and may be negative."""
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        value = int.from_bytes(field, "big") & ((1 << bits) - 1)
        return value - (1 << bits) if value >> (bits - 1) else value
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if not digits.isdigit():
        raise ValueError("not a number")
    return int(digits, 8)


# Modes, owners and times repeat from entry to entry.
_cached_number = lru_cache(maxsize=4096)(_number)


def _decimal(value: bytes | None, header_value: int) -> int:
    if not value:
        return header_value
    if not value.isdigit() or len(value) > 20:
        raise ValueError("not a number")
    return int(value)


_SECONDS = re.compile(rb"(-?)([0-9]{1,18})(?:\.([0-9]*))?")


def _seconds(value: bytes | None, header_value: int) -> int:
    """Read a pax time, rounded down to whole seconds."""
    if not value:
        return header_value
    match = _SECONDS.fullmatch(value)
    if match is None:
        raise ValueError("not a time")
    seconds = int(match[2])
    if not match[1]:
        return seconds
    return -seconds - 1 if match[3] and match[3].strip(b"0") else -seconds
