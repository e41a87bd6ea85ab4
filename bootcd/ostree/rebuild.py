"""A layer's archive put together again: headers from tar-split, content from repository and network.

The result is the archive of the layer byte for byte, so it is read by the code that reads any archive, and
the digest that the image config gives of it proves every byte of it, whether it was fetched or here. What was
fetched is verified by the table of contents as well, file by file, before its object is complete.
"""

from __future__ import annotations

import hashlib
import os
import queue
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol, cast

import zstandard

from bootcd.model.errors import DigestMismatch, InvalidLayer
from bootcd.oci.ranges import Span
from bootcd.oci.tarsplit import Payload
from bootcd.ostree.stream import BytePipe
from bootcd.ostreefmt.objects import Xattr

MAX_WINDOW_BYTES = 128 << 20
_QUEUED = 8
_BATCH_ITEMS = 64
_BATCH_BYTES = 256 << 10
"Items go from thread to thread in batches, as each passage costs more than most of them."


@dataclass(frozen=True, slots=True)
class Content:
    """Content of a file of the layer: that of an object of the repository, or a part of the blob."""

    size: int
    digest: bytes
    "SHA-256; of the object's name if it is in the repository."
    span: Span | None
    "Frames of the blob that hold it; None if it is in the repository."


class Rebuilt:
    """The archive, as a `ByteSource` that ends its reads where content begins and ends. Blocks.

    Args:
        pieces: the archive in its order.
        contents: of its files by their names in the archive; used up.
        path_of: where an object of the repository lies.
        fetched: what was fetched of the blob.
        digester: gets every byte of the archive.
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
        digester: Digester,
    ) -> None:
        self._pieces = pieces
        self._contents = contents
        self._path_of = path_of
        self._fetched = fetched
        self._digester = digester
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        self._rest = memoryview(b"")
        "Of a segment."
        self._payload: Content | None = None
        "Comes next, nothing of it was read."
        self._reader: _Reader | None = None
        "Of a payload of which something was read."

    def readinto(self, buffer: memoryview, /) -> int:
        while True:
            if self._rest:
                count = min(len(buffer), len(self._rest))
                buffer[:count] = self._rest[:count]
                self._rest = self._rest[count:]
                return count
            if self._payload is not None:
                self._reader, self._payload = self._opened(self._payload), None
            if self._reader is not None:
                if count := self._reader.readinto(buffer):
                    self._digester.update(bytes(buffer[:count]))
                    return count
                self._reader = None
            if not self._advance():
                return 0

    def reuse(self, uid: int, gid: int, mode: int, xattrs: Sequence[Xattr], size: int) -> bytes | None:
        """Return the object of the file whose payload comes next; see `layer.Reuse`."""
        if self._rest or self._reader is not None or (self._payload is None and not self._advance()):
            return None
        payload = self._payload
        if payload is None or payload.span is not None or payload.size != size:
            return None
        path = self._path_of(payload.digest)
        if not _has_attributes(path, uid, gid, mode, xattrs, size):
            return None
        self._digester.update_from(path, size)
        self._payload = None
        return payload.digest

    def _advance(self) -> bool:
        """Go to the next piece; False at the end."""
        piece = next(self._pieces, None)
        if piece is None:
            return False
        if isinstance(piece, bytes):
            self._digester.update(piece)
            self._rest = memoryview(piece)
            return True
        # Used up, as a name that came twice in the table was refused.
        self._payload = self._contents.pop(piece.name, None)
        if self._payload is None or self._payload.size != piece.size:
            raise InvalidLayer(f"tar-split has a file {piece.name[-80:]!r} that the table has not")
        return True

    def _opened(self, content: Content) -> _Reader:
        if content.span is None:
            return _Local(self._path_of(content.digest), content.size)
        reader = self._decompressor.stream_reader(
            cast("IO[bytes]", self._fetched.part(content.span)), read_size=1 << 16, read_across_frames=True
        )
        return _Remote(reader, content)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()


class Digester:
    """A thread that takes the digest of the archive, reading by itself what is in the repository.

    So the one that parses the archive need not see content that only has to be verified.
    """

    def __init__(self, algorithm: str) -> None:
        self._digest = hashlib.new(algorithm)
        self._queue: queue.Queue[list[bytes | tuple[str, int]] | None] = queue.Queue(_QUEUED)
        self._batch: list[bytes | tuple[str, int]] = []
        self._batch_bytes = 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="digest", daemon=True)
        self._thread.start()

    def update(self, data: bytes) -> None:
        self._batch_bytes += len(data)
        self._add(data)

    def update_from(self, path: str, size: int) -> None:
        """Take in the content of a file."""
        self._add((path, size))

    def hexdigest(self) -> str:
        """Return the digest of everything, with its algorithm. Raises what reading a file raised."""
        self._flush()
        self.close()
        if self._error is not None:
            raise self._error
        return f"{self._digest.name}:{self._digest.hexdigest()}"

    def close(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _add(self, item: bytes | tuple[str, int]) -> None:
        self._batch.append(item)
        if self._batch_bytes >= _BATCH_BYTES or len(self._batch) >= _BATCH_ITEMS:
            self._flush()

    def _flush(self) -> None:
        if self._error is not None:
            raise self._error
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        self._queue.put(batch)

    def _run(self) -> None:
        buffer = memoryview(bytearray(1 << 20))
        while (batch := self._queue.get()) is not None:
            if self._error is not None:
                continue  # whoever feeds must not wait for ever
            try:
                for item in batch:
                    if isinstance(item, bytes):
                        self._digest.update(item)
                    else:
                        self._read(*item, buffer)
            except BaseException as error:
                self._error = error

    def _read(self, path: str, size: int, buffer: memoryview) -> None:
        local = _Local(path, size)
        try:
            while count := local.readinto(buffer):
                self._digest.update(buffer[:count])
        finally:
            local.close()


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


class _Reader(Protocol):
    def readinto(self, buffer: memoryview, /) -> int:
        """Read on; raises at the end if what was read is not what it should be."""
        ...

    def close(self) -> None: ...


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
    """Content that was fetched, decompressed and verified."""

    def __init__(self, reader: Any, content: Content) -> None:
        self._reader = reader
        self._left = content.size
        self._expected = content.digest
        self._digest = hashlib.sha256()

    def readinto(self, buffer: memoryview, /) -> int:
        if not self._left:
            return 0
        part = buffer[: self._left]
        try:
            count = int(self._reader.readinto(part))
        except zstandard.ZstdError as error:
            raise InvalidLayer("what was fetched of the layer cannot be decompressed") from error
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
                "content of the layer is not what its table of contents says",
                expected=f"sha256:{self._expected.hex()}",
                actual=f"sha256:{actual.hex()}",
            )

    def close(self) -> None:
        pass


def _has_attributes(path: str, uid: int, gid: int, mode: int, xattrs: Sequence[Xattr], size: int) -> bool:
    """Whether an object of a bare repository is the file with these attributes."""
    try:
        status = os.lstat(path)
        if (status.st_uid, status.st_gid, status.st_mode, status.st_size) != (
            uid,
            gid,
            stat.S_IFREG | mode,
            size,
        ):
            return False
        names = os.listxattr(path, follow_symlinks=False)
        if len(names) != len(xattrs):
            return False
        return all(os.getxattr(path, name, follow_symlinks=False) == value for name, value in xattrs)
    except OSError:
        return False


def needed_spans(contents: Mapping[str, Content]) -> Sequence[Span]:
    """Return what has to be fetched, ascending as the table does."""
    return [content.span for content in contents.values() if content.span is not None]
