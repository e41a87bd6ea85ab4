"""Headers of layer archives: the same entry gives the same bytes, wherever and whenever it is written.

What a ustar header cannot hold goes into a pax header before it, as raw bytes, which is how Go's
archive/tar writes extended attributes. Names of users and groups are left empty: they are the machine's.
No I/O.

pax(1), "ustar Interchange Format" and "pax Header Block".
"""

from __future__ import annotations

import struct

from bootcd.oci.tar import BLOCK, EntryType, TarEntry

END = bytes(2 * BLOCK)
"What an archive ends with."

_FLAGS = {kind: str(number).encode() for number, kind in enumerate(EntryType)}
_HEADER = struct.Struct("100s8s8s8s12s12s8s1s100s6s2s32s32s8s8s155s12x")
_PAX_NAME = b"./PaxHeaders/entry"


def header(entry: TarEntry) -> bytes:
    """Return all that goes before the payload of an entry."""
    records: dict[bytes, bytes] = {}
    name = entry.name.encode() + (b"/" if entry.type is EntryType.DIRECTORY else b"")
    fields = _Fields(
        name=_text(records, b"path", name),
        mode=b"%07o\0" % entry.mode,
        uid=_number(records, b"uid", entry.uid, 8),
        gid=_number(records, b"gid", entry.gid, 8),
        size=_number(records, b"size", entry.size, 12),
        mtime=_number(records, b"mtime", entry.mtime, 12),
        linkname=_text(records, b"linkpath", entry.linkname.encode()),
    )
    for key, value in sorted(entry.xattrs.items()):
        records[b"SCHILY.xattr." + key.encode()] = value
    own = _block(_FLAGS[entry.type], fields, entry.device)
    if not records:
        return own
    data = b"".join(_record(key, value) for key, value in records.items())
    extension = _Fields(
        name=_PAX_NAME,
        mode=b"0000644\0",
        uid=b"0000000\0",
        gid=b"0000000\0",
        size=b"%011o\0" % len(data),
        mtime=b"00000000000\0",
        linkname=b"",
    )
    return _block(b"x", extension, (0, 0)) + data + padding(len(data)) + own


def padding(size: int) -> bytes:
    """Return what follows a payload of this size."""
    return bytes(-size % BLOCK)


class _Fields(dict[str, bytes]):
    """Encoded fields of one header."""

    def __init__(self, **fields: bytes) -> None:
        super().__init__(fields)


def _block(flag: bytes, fields: _Fields, device: tuple[int, int]) -> bytes:
    major, minor = (b"%07o\0" % number for number in device)
    block = bytearray(
        _HEADER.pack(
            *(fields[name] for name in ("name", "mode", "uid", "gid", "size", "mtime")),
            b" " * 8,
            flag,
            fields["linkname"],
            b"ustar\0",
            b"00",
            b"",
            b"",
            major,
            minor,
            b"",
        )
    )
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _text(records: dict[bytes, bytes], key: bytes, text: bytes) -> bytes:
    if len(text) <= 100 and text.isascii():
        return text
    records[key] = text
    # For a reader without pax: short and printable, and not a directory by mistake.
    return bytes(byte if byte < 0x80 else 0x5F for byte in text[:99]).rstrip(b"/")


def _number(records: dict[bytes, bytes], key: bytes, value: int, width: int) -> bytes:
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    records[key] = b"%d" % value
    return b"0" * (width - 1) + b"\0"


def _record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while length != len(body) + len(str(length)):
        length = len(body) + len(str(length))
    return b"%d" % length + body
