"""tar-split: the bytes of an archive without the content of its files, so that it can be put together again.

JSON, one object a line: segments are bytes of the archive as they are, headers and padding; files stand for
the payload that follows. What comes together counts for nothing before the digest of the whole archive was
compared, so nothing is checked here but what has to be bounded. No I/O.

Format: `tar/storage` of https://github.com/vbatts/tar-split.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bootcd.model.errors import InvalidLayer

MAX_LINE_BYTES = 16 << 20

_FILE, _SEGMENT = 1, 2
# One for all lines, of which there are two for each file.
_decode = json.JSONDecoder().decode


@dataclass(frozen=True, slots=True)
class Payload:
    """The place of a file's content, which is not empty."""

    name: str
    size: int


def read_tar_split(blocks: Iterable[bytes | memoryview]) -> Iterator[bytes | Payload]:
    """Yield segments and payloads in the order of the archive; raises InvalidLayer."""
    for line in _lines(blocks):
        try:
            document = _decode(line.decode())
            kind, payload = document.get("type"), document.get("payload")
        except (ValueError, AttributeError, RecursionError) as error:
            raise InvalidLayer("tar-split of the layer is not valid") from error
        if kind == _SEGMENT:
            try:
                segment = binascii.a2b_base64(payload or "", strict_mode=True)
            except (TypeError, ValueError) as error:
                raise InvalidLayer("tar-split of the layer has a malformed segment") from error
            if segment:
                yield segment
        elif kind == _FILE:
            # A name that is not UTF-8 comes in another member, and the archive is refused for it.
            name, size = document.get("name", ""), document.get("size", 0)
            if not isinstance(name, str) or type(size) is not int or size < 0:
                raise InvalidLayer("tar-split of the layer has a malformed file")
            if size:
                yield Payload(name, size)
        else:
            raise InvalidLayer("tar-split of the layer has a line of an unknown type")


def segment_line(position: int, segment: bytes) -> bytes:
    """Return the line of bytes of the archive; lines are numbered from 0."""
    return _line({"type": _SEGMENT, "payload": base64.b64encode(segment).decode(), "position": position})


def file_line(position: int, name: str, size: int, crc64: bytes) -> bytes:
    """Return the line of an entry; `crc64` is that of its content (ISO 3309, big endian), if it has some.

    Every entry has one, whatever its type, after the segment with its header.
    """
    document: dict[str, object] = {"type": _FILE, "name": name}
    if size:
        document["size"] = size
    document["payload"] = base64.b64encode(crc64).decode() if size else None
    return _line({**document, "position": position})


def _line(document: dict[str, object]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _lines(blocks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        *lines, rest = (rest + bytes(block)).split(b"\n")
        yield from filter(None, lines)
        if len(rest) > MAX_LINE_BYTES:
            raise InvalidLayer("tar-split of the layer has a line that is too long")
    if rest:
        yield rest
