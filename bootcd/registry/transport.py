"""HTTP as a registry needs it: one connection pool, redirects followed by hand, every wait bounded.

Redirects are not left to the library because a registry sends blob requests to storage of somebody
else, who must never see the credential, and because none may lead from https to http. There is no
total time limit: a large image on a thin line is no error. What ends a request is silence.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self
from urllib.request import getproxies_environment, proxy_bypass

import aiohttp
from yarl import URL

from bootcd.host.clock import Clock
from bootcd.model.errors import BootcdError, InvalidConfig, RegistryProtocolError
from bootcd.registry.bandwidth import Bandwidth
from bootcd.registry.certificates import Certificates
from bootcd.registry.failures import MAX_ERROR_BYTES, Target
from bootcd.registry.pauses import Pauses
from bootcd.registry.retry import parse_retry_after

CONNECT_TIMEOUT_SECS = 15.0
MAX_REDIRECTS = 5
READ_BYTES = 1 << 20
"Received bytes aiohttp holds per connection before it stops reading; twice this is its bound."
_LEAST_READ_BYTES = 16 << 10

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DOCUMENT_PATIENCE = 5
"A document (not a blob) may take so many stall time-outs as a whole, however it trickles."


class Answer:
    """One answer with its body unread. Errors are already those of `bootcd.model.errors`."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        target: Target,
        stall_timeout: float,
        clock: Clock,
        bandwidth: Bandwidth,
        secret: str,
    ) -> None:
        self._response = response
        self._bandwidth = bandwidth
        self._stall_timeout = stall_timeout
        self._clock = clock
        self._secret = secret
        self.target = target
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    @property
    def from_registry(self) -> bool:
        """Whether the server asked first answered, not one it redirected to."""
        return not self.target.host

    @property
    def content_type(self) -> str:
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def challenges(self) -> list[str]:
        return self._response.headers.getall("WWW-Authenticate", [])

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it arrives. Raises Stalled, or Truncated where the connection was cut."""
        received = 0
        try:
            async for chunk in self._response.content.iter_any():
                received += len(chunk)
                await self._bandwidth.spend(len(chunk))
                yield chunk
        except TimeoutError:
            raise self.target.stalled(self._stall_timeout) from None
        except (aiohttp.ClientError, OSError):
            raise self.target.truncated(received, self._response.content_length or -1) from None

    async def read(self, limit: int) -> bytes:
        """Read the whole body; RegistryProtocolError if it is longer than `limit`, whatever was announced."""
        body = bytearray()
        try:
            async with asyncio.timeout(_DOCUMENT_PATIENCE * self._stall_timeout):
                async with aclosing(self.chunks()) as chunks:
                    async for chunk in chunks:
                        body += chunk
                        if len(body) > limit:
                            raise self.target.protocol_error(f"sent more than {limit} bytes")
        except TimeoutError:
            raise self.target.stalled(self._stall_timeout) from None
        return bytes(body)

    def web_page(self) -> RegistryProtocolError:
        """Return the error of an answer that is a page for people."""
        hint = "a login page of the network may be in the way"
        return self.target.protocol_error("sent a web page", hint=hint)

    async def failure(self, *, logged_in: bool = False) -> BootcdError:
        """Return the error this answer stands for; its body is read as far as it is of use."""
        try:
            body = await self.read(MAX_ERROR_BYTES)
        except BootcdError:
            body = b""
        return self.target.answered(
            self.status,
            self.headers,
            body,
            now=self._clock.now(),
            secret=self._secret,
            logged_in=logged_in,
        )


class Transport:
    """The connection pool, one for all a client asks."""

    def __init__(
        self,
        *,
        certificates: Certificates,
        stall_timeout: float,
        user_agent: str,
        clock: Clock,
        bandwidth: Bandwidth,
        pauses: Pauses,
    ) -> None:
        self._certificates = certificates
        self._bandwidth = bandwidth
        self._pauses = pauses
        self._stall_timeout = stall_timeout
        self._user_agent = user_agent
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # A file of authorities that cannot be used is told of before anything is asked.
        await asyncio.to_thread(self._certificates.context)
        await asyncio.to_thread(self._pauses.load)
        per_sec = self._bandwidth.bytes_per_sec
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_TIMEOUT_SECS, sock_read=self._stall_timeout
            ),
            headers={"User-Agent": self._user_agent, "Accept-Encoding": "identity"},
            auto_decompress=False,
            # A slow line must not begin with a burst of all the buffers.
            read_bufsize=max(min(per_sec // 8, READ_BYTES), _LEAST_READ_BYTES) if per_sec else READ_BYTES,
            # Not trust_env: with the proxies it would also take credentials from ~/.netrc.
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session:
            await self._session.close()

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: URL,
        target: Target,
        *,
        headers: Mapping[str, str] | None = None,
        authorization: str = "",
        data: bytes | None = None,
        secret: str = "",
    ) -> AsyncIterator[Answer]:
        """Send a request, follow redirects, and yield the first answer that is none.

        A server that asked to be left alone is not asked before the time it named, by no job.
        `secret` is what `data` holds of that kind, which no error may repeat.
        `authorization` and `data` go to the origin of `url` only; where a request left it they are not
        sent again, not even if it is led back. Raises RegistryUnavailable, RegistryTlsFailed and
        RegistryProtocolError; every status that is no redirect is the caller's to judge.
        """
        sent = dict(headers or {})
        if authorization:
            sent["Authorization"] = authorization
        origin = url.origin()
        for _ in range(MAX_REDIRECTS + 1):
            paused = self._pauses.remaining(url.authority)
            if paused[0]:
                raise target.paused(*paused)
            response = await self._send(method, url, target, sent, data)
            try:
                if response.status not in _REDIRECTS or "Location" not in response.headers:
                    self._check_encoding(response, target)
                    await self._note_pause(response, url)
                    yield Answer(
                        response,
                        target,
                        self._stall_timeout,
                        self._clock,
                        self._bandwidth,
                        authorization or secret,
                    )
                    return
                url = _redirected(url, response.headers["Location"], target)
            finally:
                response.release()  # closes the connection if the body was not read to its end
            if url.origin() != origin:
                sent.pop("Authorization", None)
                data = None
                target = replace(target, host=url.authority)
        raise target.protocol_error(f"redirected more than {MAX_REDIRECTS} times")

    async def _note_pause(self, response: aiohttp.ClientResponse, url: URL) -> None:
        if response.status not in (429, 503):
            return
        seconds = parse_retry_after(response.headers.get("Retry-After", ""), self._clock.now())
        if seconds:
            await asyncio.to_thread(self._pauses.note, url.authority, response.status, seconds)

    async def _send(
        self, method: str, url: URL, target: Target, headers: Mapping[str, str], data: bytes | None
    ) -> aiohttp.ClientResponse:
        assert self._session
        context = await asyncio.to_thread(
            self._certificates.context,
            target.reference.registry,
            verified=not target.insecure,
            known=url.host == target.registry_host,
        )
        tls = context or True  # True: the context aiohttp has
        proxy, proxy_authorization = _proxy_for(url)
        through = {"Proxy-Authorization": proxy_authorization} if proxy_authorization else {}
        if url.scheme == "http":
            headers = {**headers, **through}
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECS + 2 * self._stall_timeout):
                return await self._session.request(
                    method,
                    url,
                    headers=headers,
                    data=data,
                    allow_redirects=False,
                    ssl=tls,
                    proxy=proxy,
                    proxy_headers=through or None,
                )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise target.unreachable(error) from None

    @staticmethod
    def _check_encoding(response: aiohttp.ClientResponse, target: Target) -> None:
        encoding = response.headers.get("Content-Encoding", "identity")
        if response.status < 300 and encoding.lower() not in ("identity", ""):
            # A digest is of the bytes as they are; what unpacks to any size is not unpacked here.
            raise target.protocol_error("sent compressed content")


def _redirected(url: URL, location: str, target: Target) -> URL:
    try:
        # As written: requoting would break the signature in the query of a storage URL.
        new = url.join(URL(location, encoded=True)).with_fragment(None)
        valid = new.scheme in ("http", "https") and bool(new.host) and new.port is not None
    except ValueError:
        valid, new = False, url
    if not valid:
        raise target.protocol_error("redirected to something that is no web address")
    if url.scheme == "https" and new.scheme == "http":
        raise target.protocol_error("redirected from https to plain http, which is refused,")
    return new.with_user(None) if new.user is not None else new


def _proxy_for(url: URL) -> tuple[URL | None, str]:
    """Return the proxy of the environment for `url`, and the Proxy-Authorization in its user part."""
    proxies = getproxies_environment()
    text = proxies.get(url.scheme) or proxies.get("all")
    if not text or proxy_bypass(f"{url.host}:{url.port}", proxies):
        return None, ""
    try:
        proxy = URL(text if "://" in text else f"http://{text}")
        valid = proxy.scheme in ("http", "https") and bool(proxy.host)
    except ValueError:
        valid, proxy = False, URL()
    if not valid:
        raise InvalidConfig(
            f"the proxy of the environment for {url.scheme} requests is no http or https address",
            hint=f"correct {url.scheme}_proxy of the service",
        )
    if proxy.user is None:
        return proxy, ""
    return proxy.with_user(None), basic_authorization(proxy.user, proxy.password or "")


def basic_authorization(user: str, password: str) -> str:
    """Return the value of an Authorization header, https://www.rfc-editor.org/rfc/rfc7617."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
