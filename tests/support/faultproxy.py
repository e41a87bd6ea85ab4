"""A reverse proxy that misbehaves as told, so that a real registry can be seen to fail.

    async with FaultProxy(registry.url) as proxy:
        proxy.inject(Fault(cut_after=1000), Fault(status=503), path="/blobs/")

The first blob request is cut, the second gets a 503, all others pass. Everything that came in is in
`proxy.requests`, so the proxy also counts requests and serves as the other origin of a redirect.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "host", "content-length"})
_PIECE = 256 << 10


@dataclass(frozen=True)
class Fault:
    """What is wrong with one answer; the members combine, none of them means a faithful answer."""

    status: int = 0
    "Answer with this status, `body` and `headers`, and leave the registry alone."
    body: bytes | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    "Headers to set; None takes one away."
    cut_after: int = -1
    "Close the connection after so many bytes of the body."
    end_after: int = -1
    "End the body in good order after so many bytes, as if that were all; implies chunked transfer."
    stall_after: int = -1
    "Say nothing more after so many bytes of the body."
    silent: bool = False
    "Never answer."
    overwrite: tuple[int, bytes] = (0, b"")
    "Bytes to put in place of those at an offset of this answer's body."
    append: bytes = b""
    "Bytes to add to the body; implies chunked transfer, which announces no length."
    chunked: bool = False
    ignore_range: bool = False
    piece: int = _PIECE
    pause: float = 0
    "Seconds between pieces of `piece` bytes: a slow line."
    drop: bool = False
    "Close the connection without an answer."


@dataclass
class Seen:
    """One request that arrived, and the bytes of body it was answered with so far."""

    method: str
    path: str
    headers: CIMultiDictProxy[str]
    fault: Fault | None = None
    status: int = 0
    body_bytes: int = 0


@dataclass
class _Rule:
    faults: list[Fault]
    method: str
    path: str
    always: bool


@dataclass
class FaultProxy:
    """Forwards to `upstream` (a URL); serves HTTPS if `server_context` is given, on `port` or any."""

    upstream: str
    upstream_context: ssl.SSLContext | None = None
    server_context: ssl.SSLContext | None = None
    requests: list[Seen] = field(default_factory=list)
    host: str = ""
    port: int = 0

    async def __aenter__(self) -> Self:
        self._rules: list[_Rule] = []
        self._released = asyncio.Event()
        self._arrived = asyncio.Condition()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self.upstream_context or True, limit=0),
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding", "User-Agent", "Accept"),
            read_bufsize=1 << 20,
        )
        application = web.Application()
        application.router.add_route("*", "/{tail:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self.server_context).start()
        self.host = f"127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        await self._runner.cleanup()
        await self._session.close()

    @property
    def url(self) -> str:
        return f"{'https' if self.server_context else 'http'}://{self.host}"

    @property
    def body_bytes(self) -> int:
        return sum(seen.body_bytes for seen in self.requests)

    def inject(self, *faults: Fault, path: str = "", method: str = "", always: bool = False) -> None:
        """Spoil the next requests whose path contains `path`: one fault each, or the last one for ever."""
        self._rules.append(_Rule(list(faults), method, path, always))

    def seen(self, path: str = "", method: str = "") -> list[Seen]:
        return [seen for seen in self.requests if path in seen.path and method in ("", seen.method)]

    def forget(self) -> None:
        """Forget the requests that came and the faults that were to come."""
        self.requests.clear()
        self._rules.clear()

    def release(self) -> None:
        """Close the connections that are stalled or silent now."""
        self._released.set()
        self._released = asyncio.Event()

    async def wait_for_requests(self, count: int) -> None:
        """Wait until `count` requests have arrived in all."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)

    async def wait_for(self, path: str) -> None:
        """Wait until a request whose path contains `path` has arrived."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: self.seen(path))

    def _fault_for(self, method: str, path: str) -> Fault | None:
        for rule in self._rules:
            if rule.path in path and rule.method in ("", method) and rule.faults:
                return rule.faults[0] if rule.always and len(rule.faults) == 1 else rule.faults.pop(0)
        return None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        seen = Seen(request.method, request.path_qs, request.headers)
        seen.fault = fault = self._fault_for(request.method, request.path_qs)
        self.requests.append(seen)
        async with self._arrived:
            self._arrived.notify_all()
        fault = fault or Fault()
        if fault.silent:
            await self._released.wait()
        if fault.silent or fault.drop:
            return self._close(request, web.Response())
        if fault.status:
            return await self._answer(request, seen, fault, fault.status, CIMultiDict(), None)
        headers = CIMultiDict(
            (key, value)
            for key, value in request.headers.items()
            if key.lower() not in _HOP_BY_HOP and not (fault.ignore_range and key.lower() == "range")
        )
        url = URL(self.upstream + request.raw_path, encoded=True)
        async with self._session.request(
            request.method, url, headers=headers, data=request.content, allow_redirects=False
        ) as upstream:
            received = CIMultiDict(
                (key, value) for key, value in upstream.headers.items() if key.lower() not in _HOP_BY_HOP
            )
            return await self._answer(request, seen, fault, upstream.status, received, upstream)

    async def _answer(
        self,
        request: web.Request,
        seen: Seen,
        fault: Fault,
        status: int,
        headers: CIMultiDict[str],
        upstream: aiohttp.ClientResponse | None,
    ) -> web.StreamResponse:
        seen.status = status
        for key, value in fault.headers.items():
            headers.popall(key, None)
            if value is not None:
                headers[key] = value
        answer = web.StreamResponse(status=status, headers=headers)
        given = fault.body if fault.body is not None else b"" if upstream is None else None
        if fault.append or fault.chunked or fault.end_after >= 0:
            answer.enable_chunked_encoding()
        elif given is not None:
            answer.content_length = len(given)
        elif upstream is not None and upstream.content_length is not None:
            answer.content_length = upstream.content_length
        await answer.prepare(request)
        if request.method == "HEAD":
            return answer
        stop = next((n for n in (fault.cut_after, fault.stall_after, fault.end_after) if n >= 0), None)
        async for piece in _pieces(fault, given, upstream):
            kept = piece if stop is None else piece[: stop - seen.body_bytes]
            await answer.write(kept)
            seen.body_bytes += len(kept)
            if fault.pause:
                await asyncio.sleep(fault.pause)
            if seen.body_bytes == stop:
                break
        if fault.stall_after >= 0:
            await self._released.wait()
        if stop is not None and fault.end_after < 0:
            return self._close(request, answer)
        await answer.write_eof()
        return answer

    @staticmethod
    def _close(request: web.Request, answer: web.StreamResponse) -> web.StreamResponse:
        """End the connection as a middlebox does: what was sent arrives, then nothing more."""
        if request.transport:
            request.transport.close()
        return answer


async def _pieces(
    fault: Fault, given: bytes | None, upstream: aiohttp.ClientResponse | None
) -> AsyncIterator[bytes]:
    """Yield the body the client is to get, in pieces of at most `fault.piece` bytes."""
    offset, wrong = fault.overwrite
    position = 0
    async for block in _blocks(fault, given, upstream):
        for start in range(0, len(block), fault.piece):
            piece = block[start : start + fault.piece]
            low, high = max(offset - position, 0), min(offset + len(wrong) - position, len(piece))
            if low < high:
                piece = piece[:low] + wrong[position + low - offset : position + high - offset] + piece[high:]
            position += len(piece)
            yield piece


async def _blocks(
    fault: Fault, given: bytes | None, upstream: aiohttp.ClientResponse | None
) -> AsyncIterator[bytes]:
    if given is not None:
        yield given
    elif upstream is not None:
        async for block in upstream.content.iter_any():
            yield block
    if fault.append:
        yield fault.append
