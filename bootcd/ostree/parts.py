"""Content of a layer's files, from where it is: objects of the repository, or ranges that were fetched.

What was fetched is verified by the table of contents, file by file, before its object is complete.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol, cast

import zstandard

from bootcd.model.errors import DigestMismatch, InvalidLayer
from bootcd.oci.ranges import Span
from bootcd.ostree.contents import Held, facts_of
from bootcd.ostree.stream import BytePipe
from bootcd.ostreefmt.objects import Xattr

MAX_WINDOW_BYTES = 128 << 20


@dataclass(slots=True)
class Content:
    """Content of a file of the layer: that of objects of the repository, or a part of the blob."""

    size: int
    digest: bytes
    "SHA-256."
    span: Span
    "Frames of the blob that hold it."
    held: Sequence[Held] = ()
    "Objects of the repository that have it; then it is not fetched."

    def object_like(self, uid: int, gid: int, mode: int, xattrs: Sequence[Xattr], size: int) -> bytes | None:
        """Return the object that is the file with these attributes, if there is one."""
        if not self.held or self.size != size:
            return None
        facts = facts_of(uid, gid, mode, tuple(xattrs), size)
        for checksum, its_facts in self.held:
            if its_facts == facts:
                return checksum
        return None


class Parts:
    """Opens content: `path_of` says where an object lies, `fetched` is what comes of the blob."""

    def __init__(self, path_of: Callable[[bytes], str], fetched: Fetched) -> None:
        self.path_of = path_of
        self._fetched = fetched
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)

    def opened(self, content: Content, *, verify_local: bool) -> Reader:
        """Return a reader of content, the next in order of what is fetched.

        Args:
            verify_local: whether content of the repository is compared with its digest here.
        """
        if content.held:
            local = Local(self.path_of(content.held[0].checksum), content.size)
            return _Verified(local, content, "content of the repository") if verify_local else local
        stream = self._decompressor.stream_reader(
            cast("IO[bytes]", self._fetched.part(content.span)), read_size=1 << 16, read_across_frames=True
        )
        return _Verified(_Remote(stream), content, "content of the layer")

    def drain(self) -> None:
        """Take the rest of what was fetched, so that its end is seen."""
        self._fetched.drain()


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
                raise InvalidLayer("the layer's files come in another order than the table has them")
            self._here = following
        if span.start < self._here.start or span.end > self._here.end:
            raise InvalidLayer("the layer's files come in another order than the table has them")
        self._skip(span.start - self._here.start)
        return _Part(self, span.size)

    def read(self, size: int) -> bytes:
        data = self._pipe.read(min(size, self._here.size)) or b""
        self._here = Span(self._here.start + len(data), self._here.end)
        return data

    def drain(self) -> None:
        """Read to the end; what is left was of no use."""
        while self._pipe.read(1 << 18):
            pass

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


class Reader(Protocol):
    def readinto(self, buffer: memoryview, /) -> int:
        """Read on; 0 at the end. Raises when what was read is not what it should be."""
        ...

    def close(self) -> None: ...


class Local:
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
            self.close()
            return 0
        try:
            count = os.readv(self._fd, [buffer[: self._left]])
        except OSError as error:
            raise InvalidLayer("an object of the repository cannot be read") from error
        if not count:
            raise InvalidLayer("an object of the repository is shorter than it was")
        self._left -= count
        return count

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _Remote:
    """Content that was fetched, decompressed."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readinto(self, buffer: memoryview, /) -> int:
        try:
            return int(self._stream.readinto(buffer))
        except zstandard.ZstdError as error:
            raise InvalidLayer("what was fetched of the layer cannot be decompressed") from error

    def close(self) -> None:
        pass


class _Verified:
    """Content that ends in an error instead of its last bytes if it is not what the table names."""

    def __init__(self, reader: Reader, content: Content, what: str) -> None:
        self._reader = reader
        self._left = content.size
        self._expected = content.digest
        self._digest = hashlib.sha256()
        self._what = what

    def readinto(self, buffer: memoryview, /) -> int:
        if not self._left:
            self.close()
            return 0
        part = buffer[: self._left]
        count = self._reader.readinto(part)
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
                f"{self._what} is not what the layer's table of contents says",
                expected=f"sha256:{self._expected.hex()}",
                actual=f"sha256:{actual.hex()}",
            )

    def close(self) -> None:
        self._reader.close()
