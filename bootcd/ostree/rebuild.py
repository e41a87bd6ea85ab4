"""A layer's archive put together again: headers from tar-split, content from repository and network.

The result is the archive of the layer byte for byte, so it is read by the code that reads any archive, and
the digest that the image config gives of it proves every byte of it, whether it was fetched or here.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Iterator, Sequence

from bootcd.model.errors import InvalidLayer
from bootcd.oci.tarsplit import Payload
from bootcd.ostree.parts import Content, Local, Parts, Reader
from bootcd.ostree.stream import Turn
from bootcd.ostreefmt.objects import Xattr

_QUEUED = 8
_BATCH_ITEMS = 64
_BATCH_BYTES = 256 << 10
"Items go from thread to thread in batches, as each passage costs more than most of them."


class Rebuilt:
    """The archive, as a `ByteSource` that ends its reads where content begins and ends. Blocks.

    Args:
        pieces: the archive in its order.
        contents: of its files by their names in the archive; used up.
        digester: gets every byte of the archive.
    Raises:
        InvalidLayer: pieces, contents and what is in the repository do not fit together.
        DigestMismatch: what was fetched is not what the table names.
    """

    def __init__(
        self,
        pieces: Iterator[bytes | Payload],
        contents: dict[str, Content],
        parts: Parts,
        digester: Digester,
    ) -> None:
        self._pieces = pieces
        self._contents = contents
        self._parts = parts
        self._digester = digester
        self._rest = memoryview(b"")
        "Of a segment."
        self._payload: Content | None = None
        "Comes next, nothing of it was read."
        self._reader: Reader | None = None
        "Of a payload of which something was read."

    def readinto(self, buffer: memoryview, /) -> int:
        while True:
            if self._rest:
                count = min(len(buffer), len(self._rest))
                buffer[:count] = self._rest[:count]
                self._rest = self._rest[count:]
                return count
            if self._payload is not None:
                # Content of the repository is verified with the whole archive.
                self._reader = self._parts.opened(self._payload, verify_local=False)
                self._payload = None
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
        found = payload.object_like(uid, gid, mode, xattrs, size) if payload else None
        if found is not None:
            self._digester.update_from(self._parts.path_of(found), size)
            self._payload = None
        return found

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

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()


class Digester:
    """A thread that takes the digest of the archive, reading by itself what is in the repository.

    So the one that parses the archive need not see content that only has to be verified. That one holds the
    turn, and leaves it to others while it waits for this thread.
    """

    def __init__(self, algorithm: str, turn: Turn) -> None:
        self._turn = turn
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
        with self._turn.left_to_others():
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
        try:
            self._queue.put_nowait(batch)
        except queue.Full:
            with self._turn.left_to_others():
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
        local = Local(path, size)
        try:
            while count := local.readinto(buffer):
                self._digest.update(buffer[:count])
        finally:
            local.close()
