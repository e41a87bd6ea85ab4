"""What bootcd asks of a registry: resolve a reference to an image, notice a change, read a blob.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from yarl import URL

from bootcd.host.clock import Clock, SystemClock
from bootcd.model.errors import (
    BootcdError,
    NotFound,
    RegistryProtocolError,
    RegistryTlsFailed,
    RegistryUnavailable,
)
from bootcd.oci.manifest import (
    INDEX_MEDIA_TYPES,
    MANIFEST_MEDIA_TYPES,
    MAX_MANIFEST_BYTES,
    Descriptor,
    ImageManifest,
    parse_manifest,
)
from bootcd.oci.reference import DOCKER_HUB, ImageReference, is_digest
from bootcd.oci.registries import PullSource
from bootcd.oci.resolve import Document, ResolvedImage, digest_of, resolve_image
from bootcd.registry.bandwidth import Bandwidth
from bootcd.registry.blob import Exchange, read_range, stream_blob
from bootcd.registry.certificates import Certificates
from bootcd.registry.credentials import Credentials
from bootcd.registry.failures import Target
from bootcd.registry.pauses import Pauses
from bootcd.registry.retry import Attempts
from bootcd.registry.route import Route, Tries
from bootcd.registry.tokens import Authorizer
from bootcd.registry.transport import Answer, Transport, basic_authorization

_DOCKER_HUB_HOST = "registry-1.docker.io"
"Where the registry named docker.io answers."
_MANIFEST_HEADERS = {"Accept": ", ".join(INDEX_MEDIA_TYPES + MANIFEST_MEDIA_TYPES)}
_DIGEST_HEADER = "Docker-Content-Digest"
_NO_HEAD = (405, 501)
_ABSENT = (404, 405, 501)
"What a registry answers for what it does not have, or a request it does not know."


class RegistryClient:
    """A client for the length of one job; an async context manager.

    `sources` tells where to ask for an image. TLS is verified as `certificates` say; a registry named in
    `insecure` is spoken to in plain HTTP, with no attempt at TLS. `parallel` bounds the blobs in flight,
    `per_registry` the requests to one registry at a time, `retries` the tries after the first one,
    `stall_timeout` the seconds without a byte. `chance` draws from [0, 1) for the back-off.
    """

    def __init__(
        self,
        *,
        credentials: Credentials,
        user_agent: str,
        sources: Callable[[ImageReference], Sequence[PullSource]] = lambda reference: [PullSource(reference)],
        insecure: Collection[str] = (),
        certificates: Certificates | None = None,
        parallel: int = 3,
        per_registry: int = 16,
        max_bandwidth: int = 0,
        pauses_file: Path | None = None,
        stall_timeout: float = 60.0,
        retries: int = 5,
        chance: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Clock | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sources = sources
        self._routes: dict[ImageReference, Route] = {}
        self._insecure = frozenset(insecure)
        self._schemes: dict[str, str] = {}
        self._retries = retries
        self._chance = chance
        self._sleep = sleep
        self._blobs = asyncio.Semaphore(parallel)
        self._places = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(per_registry))
        clock = SystemClock() if clock is None else clock
        self._transport = Transport(
            certificates=certificates or Certificates(),
            stall_timeout=stall_timeout,
            user_agent=user_agent,
            clock=clock,
            bandwidth=Bandwidth(max_bandwidth, sleep=sleep, monotonic=monotonic),
            pauses=Pauses(pauses_file, clock),
        )
        self._authorizer = Authorizer(self._transport, credentials, self._insecure, monotonic)

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)

    async def resolve(
        self, reference: ImageReference, *, architecture: str, variant: str | None = None
    ) -> ResolvedImage:
        """Fetch the manifest a reference stands for, that of the platform if it is an index, and its config.

        Every digest is verified: the reference's, the index's of the manifest, the manifest's of the config.
        Raises NotFound, NoMatchingPlatform, InvalidManifest, DigestMismatch and what RegistryError roots.
        """
        with Target(reference).naming():
            return await resolve_image(
                _Repository(self, reference), architecture=architecture, variant=variant
            )

    async def head_digest(self, reference: ImageReference) -> str:
        """Return the digest the reference stands for now, in one request if the registry needs no login.

        The registry's word, unverified: good to tell that nothing changed, and for nothing else. That of
        an index where the reference names one. A registry that does not say it in the answer to HEAD is
        asked for the manifest itself.
        """
        path = f"manifests/{reference.for_fetch}"
        tries = self._tries(reference)
        while True:
            try:
                async with self._exchange("HEAD", path, tries, _MANIFEST_HEADERS, also=_NO_HEAD) as answer:
                    digest = answer.headers.get(_DIGEST_HEADER, "")
                    if answer.status == 200 and is_digest(digest):
                        return digest
                break
            except BootcdError as error:
                await tries.failed(error)
        return (await self.manifest(reference, reference.digest)).digest

    async def open_blob(
        self, reference: ImageReference, descriptor: Descriptor
    ) -> AsyncGenerator[bytes, None]:
        """Stream a blob of the repository; chunks are verified only once the iteration has ended by itself.

        Takes one of the `parallel` places with its first chunk and gives it back at its end, so a reader
        that may stop early wraps it into `contextlib.aclosing`. Raises DigestMismatch, Truncated, Stalled,
        NotFound and what RegistryError roots.
        """
        tries = self._tries(reference, descriptor.digest)
        chunks = stream_blob(self._blob_exchange(descriptor, tries), descriptor, tries)
        async with self._blobs, aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    async def has_blob(self, reference: ImageReference, descriptor: Descriptor) -> bool:
        """Ask whether a blob of the repository is there; one of which nobody says is, until it is fetched."""
        tries = self._tries(reference, descriptor.digest)
        path = f"blobs/{descriptor.digest}"
        while True:
            try:
                async with self._exchange("HEAD", path, tries, {}, also=_NO_HEAD):
                    return True
            except NotFound as error:
                try:
                    await tries.failed(error)
                except NotFound:
                    return False
            except BootcdError:
                return True

    async def read_range(
        self, reference: ImageReference, descriptor: Descriptor, start: int, size: int
    ) -> bytes | None:
        """Return `size` bytes of a blob, unverified; None if the server gives no parts of blobs.

        Takes one of the `parallel` places. Raises Truncated, Stalled, NotFound and what RegistryError roots.
        """
        tries = self._tries(reference, descriptor.digest)
        async with self._blobs:
            return await read_range(self._blob_exchange(descriptor, tries), descriptor, start, size, tries)

    def _blob_exchange(self, descriptor: Descriptor, tries: Tries) -> Exchange:
        def exchange(headers: Mapping[str, str]) -> AbstractAsyncContextManager[Answer]:
            return self._exchange("GET", f"blobs/{descriptor.digest}", tries, headers, also=(206, 416))

        return exchange

    async def manifest(self, reference: ImageReference, digest: str | None) -> Document:
        """Fetch a manifest or index and verify it against `digest` and against what the server says."""
        path = f"manifests/{digest or reference.for_fetch}"
        tries = self._tries(reference)
        while True:
            try:
                async with self._exchange("GET", path, tries, _MANIFEST_HEADERS) as answer:
                    return await _read_manifest(answer, digest)
            except BootcdError as error:
                await tries.failed(error)

    async def document(
        self, reference: ImageReference, path: str, headers: Mapping[str, str]
    ) -> bytes | None:
        """Fetch a document of the repository as it is, unverified; None if there is none.

        `path` is what follows the repository's name. None also from a registry that does not know the path.
        """
        tries = self._tries(reference)
        while True:
            try:
                async with self._exchange("GET", path, tries, headers, also=_ABSENT) as answer:
                    if answer.status != 200:
                        return None
                    if answer.content_type == "text/html":
                        raise answer.web_page()
                    return await answer.read(MAX_MANIFEST_BYTES)
            except BootcdError as error:
                await tries.failed(error)

    async def elsewhere(self, reference: ImageReference, url: URL, limit: int) -> bytes | None:
        """Fetch what belongs to an image from a server of another name, with no credential but that of `url`.

        None if the server has nothing there. Of at most `limit` bytes.
        """
        authorization = basic_authorization(url.user, url.password or "") if url.user else ""
        url = url.with_user(None)
        target = Target(reference, host=url.authority)
        attempts = Attempts(self._retries, self._chance, self._sleep)
        while True:
            try:
                async with self._transport.request("GET", url, target, authorization=authorization) as answer:
                    if answer.status in (404, 410):
                        return None
                    if answer.status != 200:
                        raise await answer.failure()
                    return await answer.read(limit)
            except BootcdError as error:
                await attempts.failed(error)

    def _tries(self, reference: ImageReference, blob: str = "") -> Tries:
        route = self._routes.get(reference)
        if route is None:
            route = self._routes[reference] = Route(reference, self._sources(reference))
        return Tries(route, blob=blob, retries=self._retries, chance=self._chance, sleep=self._sleep)

    @asynccontextmanager
    async def _exchange(
        self, method: str, path: str, tries: Tries, headers: Mapping[str, str], also: Collection[int] = ()
    ) -> AsyncIterator[Answer]:
        """Ask where to ask now, with a login if one is wanted; yield an answer of 200 or one of `also`."""
        target, reference = tries.target, tries.source.reference
        if tries.source.blocked:
            raise target.blocked()
        async with (
            self._places[reference.registry],
            self._answer(method, path, target, headers, also) as answer,
        ):
            yield answer

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, target: Target, headers: Mapping[str, str], also: Collection[int]
    ) -> AsyncIterator[Answer]:
        reference = target.reference
        url = URL(f"{await self._origin(target)}/v2/{reference.repository}/{path}")
        authorization = self._authorizer.known(reference)
        renewed = False
        while True:
            async with self._transport.request(
                method, url, target, headers=headers, authorization=authorization
            ) as answer:
                if answer.status == 200 or answer.status in also:
                    yield answer
                    return
                if answer.status != 401 or not answer.from_registry or renewed:
                    raise await answer.failure(logged_in=self._authorizer.logged_in(reference))
                challenges = answer.challenges
            authorization = await self._authorizer.renew(target, challenges, refused=authorization)
            renewed = True

    async def _origin(self, target: Target) -> str:
        """Return scheme and host of the registry; who may be insecure is asked for TLS first."""
        registry = target.reference.registry
        host = _DOCKER_HUB_HOST if registry == DOCKER_HUB else registry
        if registry in self._insecure:
            return f"http://{host}"
        if target.insecure and registry not in self._schemes:
            scheme = "https"
            try:
                async with self._transport.request("GET", URL(f"https://{host}/v2/"), target):
                    pass
            except (RegistryTlsFailed, RegistryUnavailable, RegistryProtocolError) as error:
                if "retry_after_secs" in error.fields:
                    raise
                scheme = "http"
            self._schemes[registry] = scheme
        return f"{self._schemes[registry] if target.insecure else 'https'}://{host}"


@dataclass(frozen=True, slots=True)
class _Repository:
    """The documents of the image a reference stands for."""

    client: RegistryClient
    reference: ImageReference

    async def manifest(self, entry: Descriptor | None) -> Document:
        return await self.client.manifest(self.reference, entry.digest if entry else self.reference.digest)

    async def config(self, manifest: ImageManifest) -> bytes:
        # parse_manifest has refused a config above its limit, and open_blob holds the registry to it.
        async with aclosing(self.client.open_blob(self.reference, manifest.config)) as chunks:
            return b"".join([chunk async for chunk in chunks])


async def _read_manifest(answer: Answer, digest: str | None) -> Document:
    """Read a manifest or index and hold it to the digest it was asked by and the one the server states."""
    if answer.content_type == "text/html":
        raise answer.web_page()
    data = await answer.read(MAX_MANIFEST_BYTES)
    for expected in filter(is_digest, (digest or "", answer.headers.get(_DIGEST_HEADER, ""))):
        if (actual := digest_of(data, expected)) != expected:
            raise answer.target.digest_mismatch(expected, actual, what="the manifest")
    with answer.target.naming():
        parsed = parse_manifest(data, answer.headers.get("Content-Type"))
    return Document(data, digest_of(data, digest or ""), parsed)
