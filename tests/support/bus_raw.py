"""A client that writes to the bus what it likes, as any user, and may vanish at any moment."""

from __future__ import annotations

import asyncio
import io
import os
import socket
from typing import Any, Self

from dbus_fast import Message, MessageType
from dbus_fast._private.unmarshaller import Unmarshaller

_HELLO = Message("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello", serial=1)


_HEARD = 1 << 20


class RawClient:
    """One connection; `heard` are the bytes that came last."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._serial = 1
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._listener: asyncio.Task[None] | None = None
        self.heard = bytearray()

    @classmethod
    async def connect(cls, address: str, uid: int) -> Self:
        """Connect as a user; the kernel vouches for who it is at this moment."""
        path = address.removeprefix("unix:path=").split(",")[0]
        connected = socket.socket(socket.AF_UNIX)
        os.seteuid(uid)
        try:
            connected.connect(path)
        finally:
            os.seteuid(0)
        client = cls(*await asyncio.open_unix_connection(sock=connected, limit=1 << 20))
        client._writer.write(b"\0AUTH EXTERNAL " + str(uid).encode().hex().encode() + b"\r\n")
        assert (await client._reader.readline()).startswith(b"OK")
        # Else the bus keeps answers with descriptors from it; recv(2) drops those that come.
        client._writer.write(b"NEGOTIATE_UNIX_FD\r\n")
        assert (await client._reader.readline()).startswith(b"AGREE_UNIX_FD")
        client._writer.write(b"BEGIN\r\n" + bytes(_HELLO._marshall(False)))
        client._listener = asyncio.create_task(client._listen())
        await client.expect(1)
        return client

    def next_serial(self) -> int:
        self._serial += 1
        return self._serial

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def expect(self, serial: int, secs: float = 30) -> Message:
        """Return the answer to a call; to be awaited before the answer can have come."""
        if self._listener is not None and self._listener.done():
            raise ConnectionResetError("the bus has ended the connection")
        answer = self._waiting.setdefault(serial, asyncio.get_running_loop().create_future())
        try:
            async with asyncio.timeout(secs):
                return await answer
        finally:
            self._waiting.pop(serial, None)

    async def call(self, data: bytes, serial: int) -> Message:
        self.write(data)
        return await self.expect(serial)

    async def vanish(self) -> None:
        """Close the socket whatever is on its way."""
        if self._listener is not None:
            self._listener.cancel()
        self._writer.transport.abort()
        await asyncio.gather(*([self._listener] if self._listener else []), return_exceptions=True)

    async def _listen(self) -> None:
        try:
            await self._receive()
        except Exception as error:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(ConnectionResetError(f"the connection ended: {error!r}"))

    async def _receive(self) -> None:
        while True:
            start = await self._reader.readexactly(16)
            little: Any = "little" if start[:1] == b"l" else "big"
            body, fields = (int.from_bytes(start[at : at + 4], little) for at in (4, 12))
            rest = await self._reader.readexactly(fields + -fields % 8 + body)
            self.heard += start + rest
            del self.heard[:-_HEARD]
            message = Unmarshaller(io.BytesIO(start + rest)).unmarshall()  # type: ignore[arg-type]
            if message and message.message_type in (MessageType.METHOD_RETURN, MessageType.ERROR):
                future = self._waiting.setdefault(
                    message.reply_serial, asyncio.get_running_loop().create_future()
                )
                if not future.done():
                    future.set_result(message)
