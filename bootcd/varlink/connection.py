"""One connection: messages cut out of bytes, served in their order, none longer than allowed.

Bytes are taken while a call is served, as their end is how a caller's leaving shows; what is not taken
is held in a bounded queue, and beyond it in the caller's own socket.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from bootcd.varlink.wire import MESSAGE_LIMIT

_QUEUE = 8
"Calls sent ahead."
SECS = 10.0
"For a message to be complete once it has begun, and for a reply to be taken."

Serve = Callable[["Connection", bytes], Awaitable[bool]]
"Serve a message; false ends the connection."


class Connection(asyncio.Protocol):
    def __init__(
        self, serve: Serve, opened: Callable[[Connection], bool], closed: Callable[[Connection], None]
    ):
        """Make a connection that asks `opened` whether it may be and tells `closed` of its end."""
        self._serve = serve
        self._opened = opened
        self._closed = closed
        self._buffer = bytearray()
        self._messages: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._deadline: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self.transport: asyncio.Transport

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self._opened(self):
            self._task = asyncio.get_running_loop().create_task(self._work())
        else:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(0)) >= 0:
            self._messages.append(bytes(self._buffer[:end]))
            del self._buffer[: end + 1]
        if len(self._buffer) > MESSAGE_LIMIT or any(len(item) > MESSAGE_LIMIT for item in self._messages):
            self.transport.abort()
            return
        self._watch_message()
        if self._messages:
            self._arrived.set()
        if len(self._messages) >= _QUEUE:
            self.transport.pause_reading()

    def eof_received(self) -> None:
        """Close, also where the caller still reads: who has no more to say waits for no answer."""

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if self._task is not None:
            self._task.cancel()
        self._closed(self)

    # What a front end calls

    async def send(self, message: bytes) -> None:
        """Send a reply, and wait until most of it is taken; who takes nothing loses the connection."""
        self.transport.write(message)
        try:
            async with asyncio.timeout(SECS):
                await self._writable.wait()
        except TimeoutError:
            self.transport.abort()
            raise ConnectionAbortedError("the caller takes no reply") from None

    async def stop(self) -> None:
        self.transport.abort()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _work(self) -> None:
        try:
            while await self._serve(self, await self._next()):
                pass
        finally:
            self.transport.close()

    async def _next(self) -> bytes:
        while not self._messages:
            self._arrived.clear()
            await self._arrived.wait()
        message = self._messages.popleft()
        if len(self._messages) < _QUEUE and not self.transport.is_closing():
            self.transport.resume_reading()
        return message

    def _watch_message(self) -> None:
        if not self._buffer and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        elif self._buffer and self._deadline is None:
            self._deadline = asyncio.get_running_loop().call_later(SECS, self.transport.abort)
