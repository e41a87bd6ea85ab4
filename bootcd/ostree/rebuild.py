"""A layer's archive put together again: headers from tar-split, content from repository and network.

The result is the archive of the layer byte for byte, so it is read by the code that reads any archive, and
the digest that the image config gives of it proves every byte of it, whether it was fetched or here. What was
fetched is verified by the table of contents as well, file by file, before its object is complete.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol, cast

import zstandard

from bootcd.model.errors import DigestMismatch, InvalidLayer
from bootcd.oci.ranges import Span
from bootcd.oci.tarsplit import Payload
from bootcd.ostree.stream import BytePipe

MAX_WINDOW_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Content:
    """Content of a file of the layer: that of an object of the repository, or a part of the blob."""

    size: int
    digest: bytes
    "SHA-256; of the object's name if it is in the repository."
    span: Span | None
    "Frames of the blob that hold it; None if it is in the repository."


class Rebuilt:
    """The archive, as a `ByteSource`. Blocks; for one thread.

    Args:
        pieces: the archive in its order.
        contents: of its files by their names in the archive; used up.
        path_of: where an object of the repository lies.
        fetched: what was fetched of the blob.
    Raises:
        InvalidLayer: pieces, contents and what is in the repository do not fit together.
        DigestMismatch: what was fetched is not what the table names.
    """

    def __init__(
        self,
        pieces: Iterator[bytes | Payload],
        contents: dict[str, Content],
        path_of: Callable[[bytes], str],
        fetched: Fetched,
    ) -> None:
        self._pieces = pieces
        self._contents = contents
        self._path_of = path_of
        self._fetched = fetched
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        self._piece: _Piece | None = None

    def readinto(self, buffer: memoryview, /) -> int:
        filled = 0
        while filled < len(buffer):
            if self._piece is None:
                following = next(self._pieces, None)
                if following is None:
                    break
                self._piece = _Bytes(following) if isinstance(following, bytes) else self._open(following)
            count = self._piece.readinto(buffer[filled:])
            filled += count
            if not count:
                self._piece.finish()
                self._piece = None
        return filled

    def close(self) -> None:
        if self._piece is not None:
            self._piece.close()

    def _open(self, payload: Payload) -> _Piece:
        # Used up, as a name that came twice in the table was refused.
        content = self._contents.pop(payload.name, None)
        if content is None or content.size != payload.size:
            raise InvalidLayer(f"tar-split has a file {payload.name[-80:]!r} that the table has not")
        if content.span is None:
            return _Local(self._path_of(content.digest), content.size)
        reader = self._decompressor.stream_reader(
            cast("IO[bytes]", self._fetched.part(content.span)), read_size=1 << 16, read_across_frames=True
        )
        return _Remote(reader, content, payload.name)


class Fetched:
    """What was fetched of a blob, in the order of the blob, found by its place."""

    def __init__(self, pipe: BytePipe, spans: Iterable[Span]) -> None:
        self._pipe = pipe
        self._spans = iter(spans)
        self._here = Span(0, 0)
        "What is left of the span that is being read."

    def part(self, span: Span) -> _Part:
        """Go forward to a part; raises InvalidLayer if it is not ahead."""
        while self._here.end <= span.start:
            self._skip(self._here.size)
            following = next(self._spans, None)
            if following is None:
                raise InvalidLayer("tar-split of the layer has its files in another order than the table")
            self._here = following
        if span.start < self._here.start or span.end > self._here.end:
            raise InvalidLayer("tar-split of the layer has its files in another order than the table")
        self._skip(span.start - self._here.start)
        return _Part(self, span.size)

    def read(self, size: int) -> bytes:
        data = self._pipe.read(min(size, self._here.size)) or b""
        self._here = Span(self._here.start + len(data), self._here.end)
        return data

    def _skip(self, size: int) -> None:
        while size:
            count = len(self.read(min(size, 1 << 18)))
            if not count:
                raise InvalidLayer("the layer was fetched incompletely")
            size -= count


class _Part:
    """A part of what was fetched, as a file."""

    def __init__(self, fetched: Fetched, size: int) -> None:
        self._fetched = fetched
        self._left = size

    def read(self, size: int = -1) -> bytes:
        data = self._fetched.read(self._left if size < 0 else min(size, self._left)) if self._left else b""
        self._left -= len(data)
        return data


class _Piece(Protocol):
    """A part of the archive, read to its end."""

    def readinto(self, buffer: memoryview, /) -> int: ...

    def finish(self) -> None:
        """Raise if what was read is not what it should be."""
        ...

    def close(self) -> None: ...


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self._rest = memoryview(data)

    def readinto(self, buffer: memoryview, /) -> int:
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Local:
    """Content of an object of the repository."""

    def __init__(self, path: str, size: int) -> None:
        self._left = size
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise InvalidLayer("an object of the repository cannot be read any more") from error

    def readinto(self, buffer: memoryview, /) -> int:
        if not self._left:
            return 0
        count = os.readv(self._fd, [buffer[: self._left]])
        self._left -= count
        return count

    def finish(self) -> None:
        self.close()
        if self._left:
            raise InvalidLayer("an object of the repository is shorter than it was")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _Remote:
    """Content that was fetched, decompressed and verified."""

    def __init__(self, reader: Any, content: Content, name: str) -> None:
        self._reader = reader
        self._left = content.size
        self._expected = content.digest
        self._digest = hashlib.sha256()
        self._name = name

    def readinto(self, buffer: memoryview, /) -> int:
        if not self._left:
            return 0
        part = buffer[: self._left]
        count = int(self._reader.readinto(part))
        self._digest.update(part[:count])
        self._left -= count
        # Before the last bytes are handed on: an object must not be complete and wrong.
        if not self._left or not count:
            self._verify()
        return count

    def _verify(self) -> None:
        actual = self._digest.digest()
        if self._left or actual != self._expected:
            raise DigestMismatch(
                f"{self._name[-80:]!r} of the layer is not what its table of contents says",
                expected=f"sha256:{self._expected.hex()}",
                actual=f"sha256:{actual.hex()}",
            )

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


def needed_spans(contents: Mapping[str, Content]) -> Sequence[Span]:
    """Return what has to be fetched, ascending as the table does."""
    return [content.span for content in contents.values() if content.span is not None]
