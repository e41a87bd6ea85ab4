"""Byte streams between the event loop and threads, with bounded buffers.

A layer flows through three places that run at the same time: the event loop receives it
(`BytePipe.feed`), one thread decompresses and hashes it (`ReadAhead`), another parses the archive and
writes files. Each border holds a fixed amount, so a slow disk slows the network down and memory
does not grow with the layer.

Parsing and writing is Python and calls of a few microseconds: threads that do it at the same time are no
faster than one, as they hand the interpreter to each other ten thousand times a second. So layers take turns
(`Turn`) in it, and only in it.
"""

from __future__ import annotations

import asyncio
import io
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol

from bootcd.model.errors import Cancelled


class ByteSource(Protocol):
    """Anything that fills a buffer; 0 means the end, fewer bytes than asked for is allowed."""

    def readinto(self, buffer: memoryview, /) -> int: ...


class BytePipe(io.RawIOBase):
    """A bounded pipe: the event loop feeds it, one thread reads it.

    `abort` ends both sides: the reader gets the error, `feed` becomes a no-op that returns False.

    Args:
        turn: held by the reader; others have it while the reader waits to be fed.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, limit_bytes: int, turn: Turn | None = None
    ) -> None:
        super().__init__()
        self._turn = turn
        self._loop = loop
        self._limit = limit_bytes
        self._chunks: deque[memoryview] = deque()
        self._size = 0
        self._condition = threading.Condition()
        self._ended = False
        self._error: BaseException | None = None
        self._room: asyncio.Event = asyncio.Event()
        self._room.set()

    async def feed(self, chunk: bytes) -> bool:
        """Add a chunk, waiting while the pipe is full. False: nobody reads any more."""
        while True:
            await self._room.wait()
            with self._condition:
                if self._error is not None:
                    return False
                # Set once for each read, so it may tell of room that has been used up since.
                if self._size >= self._limit:
                    self._room.clear()
                    continue
                self._chunks.append(memoryview(chunk))
                self._size += len(chunk)
                if self._size >= self._limit:
                    self._room.clear()
                self._condition.notify()
            return True

    def end(self) -> None:
        """Say that all bytes were fed and are as they should be."""
        with self._condition:
            self._ended = True
            self._condition.notify()

    def abort(self, error: BaseException) -> None:
        """End the pipe with an error; the first one counts. Safe from any thread."""
        with self._condition:
            if self._error is None:
                self._error = error
            self._chunks.clear()
            self._size = 0
            self._condition.notify()
        self._loop.call_soon_threadsafe(self._room.set)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # only ever given a memoryview
        if self._turn is not None and not self._is_fed():
            # Not with the condition held, for which the event loop would wait.
            with self._turn.left_to_others():
                self._wait()
        with self._condition:
            self._condition.wait_for(self._is_fed)
            if self._error is not None:
                raise self._error
            if not self._chunks:
                return 0
            view = memoryview(buffer).cast("B")
            filled = 0
            while self._chunks and filled < len(view):
                chunk = self._chunks[0]
                count = min(len(chunk), len(view) - filled)
                view[filled : filled + count] = chunk[:count]
                filled += count
                if count == len(chunk):
                    self._chunks.popleft()
                else:
                    self._chunks[0] = chunk[count:]
            self._size -= filled
            wake = self._size < self._limit and not self._room.is_set()
        if wake:
            self._loop.call_soon_threadsafe(self._room.set)
        return filled

    def _is_fed(self) -> bool:
        return bool(self._chunks) or self._ended or self._error is not None

    def _wait(self) -> None:
        with self._condition:
            self._condition.wait_for(self._is_fed)


class Turn:
    """What one thread at a time holds to work, and lets go of while it waits. Not to be taken twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    @contextmanager
    def left_to_others(self) -> Iterator[None]:
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()


class ReadAhead:
    """A thread that reads a source into a ring of reused blocks, ahead of its reader.

    Args:
        on_block: called in the thread with every block in order; where a digest is computed.
        turn: held by the reader; others have it while the reader waits for the source.
    """

    def __init__(
        self,
        source: ByteSource,
        *,
        on_block: Callable[[memoryview], object],
        blocks: int = 4,
        block_bytes: int = 1 << 20,
        turn: Turn | None = None,
    ) -> None:
        self._turn = turn
        self._source = source
        self._on_block = on_block
        self._empty: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[tuple[memoryview, int] | BaseException] = queue.SimpleQueue()
        for _ in range(blocks):
            self._empty.put(memoryview(bytearray(block_bytes)))
        self._block: memoryview | None = None
        self._position = 0
        self._end = 0
        self._finished = False
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while (block := self._empty.get()) is not None:
                count = self._source.readinto(block)
                if count:
                    self._on_block(block[:count])
                self._full.put((block, count))
                if not count:
                    return
        except BaseException as error:  # handed to the reader, whatever it is
            self._full.put(error)

    def readinto(self, buffer: memoryview, /) -> int:
        if self._position == self._end and not self._advance():
            return 0
        assert self._block is not None
        count = min(len(buffer), self._end - self._position)
        buffer[:count] = self._block[self._position : self._position + count]
        self._position += count
        return count

    def next_block(self) -> memoryview:
        """Return what is left of a block, or the next one; it stays until the next call."""
        if self._position == self._end and not self._advance():
            return memoryview(b"")
        assert self._block is not None
        view = self._block[self._position : self._end]
        self._position = self._end
        return view

    def _advance(self) -> bool:
        if self._finished:
            return False
        if self._block is not None:
            self._empty.put(self._block)
            self._block = None
        item = self._next()
        if isinstance(item, BaseException):
            self._finished = True
            raise item
        self._block, self._end = item
        self._position = 0
        if not self._end:
            self._finished = True
            return False
        return True

    def _next(self) -> tuple[memoryview, int] | BaseException:
        if self._turn is None:
            return self._full.get()
        try:
            return self._full.get_nowait()
        except queue.Empty:
            with self._turn.left_to_others():
                return self._full.get()

    def close(self) -> None:
        """Stop the thread; the source must have ended or been aborted, or this waits for it."""
        self._finished = True
        self._empty.put(None)
        self._thread.join()


def cancelled() -> Cancelled:
    return Cancelled("the job was cancelled")
