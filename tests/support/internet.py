"""A forward proxy that is the whole internet: any host name leads to a server on loopback, or to none.

    async with Internet({"mirror.example.com": registry.host}) as internet:
        environment = {"HTTPS_PROXY": internet.url, "HTTP_PROXY": internet.url}

What programs ask for is noted in `contacts`, so that two of them can be compared.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

_TARGET = re.compile(r"(CONNECT )?(?:(\w+) http://)?([\w.-]+)(?::(\d+))?(/\S*)? HTTP/1.1\r\n")


@dataclass
class Internet:
    """`hosts` maps names to `host:port` on loopback; plain HTTP to a name goes to `plain` alone."""

    hosts: Mapping[str, str]
    plain: Mapping[str, str] = field(default_factory=dict)
    contacts: list[str] = field(default_factory=list)
    "Names in the order in which they were asked for, no name twice in a row."

    async def __aenter__(self) -> Self:
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        writers = [writer]
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._pass_on(reader, writer, writers)
        finally:
            for one in writers:
                one.transport.abort()
            for one in writers:
                with suppress(OSError):
                    await one.wait_closed()
            self._tasks.discard(task)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, writers: list[asyncio.StreamWriter]
    ) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        found = _TARGET.match(head)
        assert found, head
        tunnel, method, host, _, path = found.groups()
        if self.contacts[-1:] != [host]:
            self.contacts.append(host)
        place = (self.hosts if tunnel else self.plain).get(host)
        if place is None:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            return
        address, _, port = place.rpartition(":")
        there_reader, there = await asyncio.open_connection(address, int(port))
        writers.append(there)
        if tunnel:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            rest = head[found.end() :]
            there.write(f"{method} {path} HTTP/1.1\r\nConnection: close\r\n{rest}".encode())
        # Whoever ends first ends the connection: nobody here speaks on after hearing the end.
        copies = [asyncio.ensure_future(_copy(*way)) for way in ((reader, there), (there_reader, writer))]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for copy in copies:
                copy.cancel()
            await asyncio.gather(*copies, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
