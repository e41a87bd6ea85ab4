"""What can happen to a blob on its way, at bytes where it hurts: it arrives, or the error has a type.

And nothing is fetched twice but what the fault itself took: the bytes that had been sent and not yet been
read when the connection broke.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from bootcd.model.errors import BootcdError, DigestMismatch, RegistryAuthRequired, Stalled, Truncated
from bootcd.oci.reference import ImageReference
from bootcd.registry.client import RegistryClient
from bootcd.registry.transport import READ_BYTES
from tests.adapter.registry.conftest import REPOSITORY, read_blob
from tests.support.certificate import Certificate
from tests.support.faultproxy import Fault, FaultProxy, Seen
from tests.support.oci_image import Image
from tests.support.registry import Registry
from tests.support.token_server import SERVICE, TokenServer

OFFSETS = (0, 1, READ_BYTES + 1, 3 << 20, -1)
"Of the first fault in the blob of a little more than 4 MiB; -1 is its last byte."
STALL_SECS = 0.7


@dataclass
class Line:
    """A registry that wants tokens, behind a proxy, and a second server it may redirect to."""

    proxy: FaultProxy
    storage: FaultProxy
    tokens: TokenServer

    @property
    def challenge(self) -> Fault:
        realm = f'Bearer realm="{self.tokens.realm}",service="{SERVICE}",scope="repository:{REPOSITORY}:pull"'
        return Fault(401, headers={"WWW-Authenticate": realm})

    def redirect(self, digest: str) -> Fault:
        return Fault(307, headers={"Location": f"{self.storage.url}/v2/{REPOSITORY}/blobs/{digest}"})

    def reset(self) -> None:
        for proxy in (self.proxy, self.storage):
            proxy.forget()


@pytest.fixture
async def line(
    authority: Certificate, new_directory: Callable[[str], Path], registry: Registry
) -> AsyncIterator[Line]:
    async with (
        TokenServer(authority) as tokens,
        Registry(new_directory("guarded"), tokens=tokens) as guarded,
        FaultProxy(guarded.url) as proxy,
        FaultProxy(registry.url) as storage,
    ):
        yield Line(proxy, storage, tokens)


def cut(line: Line, digest: str, at: int) -> None:
    line.proxy.inject(Fault(cut_after=at), path=digest)


def cut_thrice(line: Line, digest: str, at: int) -> None:
    # The second and the third are counted from where the one before it ended.
    line.proxy.inject(Fault(cut_after=at), Fault(cut_after=0), Fault(cut_after=1), path=digest)


def stall(line: Line, digest: str, at: int) -> None:
    line.proxy.inject(Fault(stall_after=at), path=digest)


def truncate(line: Line, digest: str, at: int) -> None:
    line.proxy.inject(Fault(end_after=at), path=digest)


def delay(line: Line, digest: str, at: int) -> None:
    line.proxy.inject(Fault(piece=max(at, 1 << 19), pause=STALL_SECS / 10), path=digest)


def expire(line: Line, digest: str, at: int) -> None:
    line.proxy.inject(Fault(cut_after=at), line.challenge, path=digest)


def redirect(line: Line, digest: str, at: int) -> None:
    line.proxy.inject(line.redirect(digest), line.redirect(digest), path=digest)
    line.storage.inject(Fault(cut_after=at), path=digest)


def redirect_away_and_back(line: Line, digest: str, at: int) -> None:
    line.proxy.inject(line.redirect(digest), path=digest)
    line.storage.inject(Fault(cut_after=at), path=digest)


def break_down(line: Line, digest: str, at: int) -> None:
    line.proxy.inject(Fault(cut_after=at), Fault(503), Fault(cut_after=0), path=digest)


RECOVERED = (
    cut,
    cut_thrice,
    stall,
    truncate,
    delay,
    expire,
    redirect,
    redirect_away_and_back,
    break_down,
)


@pytest.mark.parametrize("spoil", RECOVERED)
async def test_blob_arrives_and_nothing_is_fetched_twice_but_what_was_lost(
    line: Line,
    client_for: Callable[..., RegistryClient],
    image: Image,
    spoil: Callable[[Line, str, int], None],
) -> None:
    layer = image.layers[0]
    size = len(layer.blob)
    reference = ImageReference(line.proxy.host, REPOSITORY, "44")
    insecure = {line.proxy.host, line.storage.host}
    patience = STALL_SECS if spoil is stall else 30
    async with client_for(insecure=insecure, stall_timeout=patience) as client:
        await client.head_digest(reference)  # the first token
        for offset in OFFSETS:
            line.reset()
            spoil(line, layer.digest, offset % size)
            assert await read_blob(client, reference, layer) == layer.blob, offset
            sent = blob_bytes(line)
            assert size <= sent <= size + lost(line, layer.digest), offset


def blob_bytes(line: Line) -> int:
    """Bytes of blobs that were sent to the client; not those of error documents."""
    seen = [*line.proxy.seen("/blobs/"), *line.storage.seen("/blobs/")]
    return sum(one.body_bytes for one in seen if one.status in (200, 206))


def lost(line: Line, digest: str) -> int:
    """Bytes that were sent before a break and not read: what the client asked for again."""
    parts = [
        one
        for one in (*line.proxy.requests, *line.storage.requests)
        if digest in one.path and one.status in (200, 206)
    ]
    spans = sorted((_begin(one), _begin(one) + one.body_bytes) for one in parts)
    again = sum(max(0, end - begin) for (_, end), (begin, _) in pairwise(spans))
    # What aiohttp may hold of one connection.
    assert again <= 2 * READ_BYTES * max(1, len(parts) - 1)
    return again


def _begin(seen: Seen) -> int:
    return int(seen.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])


@pytest.mark.parametrize(
    ("faults", "kind"),
    [
        pytest.param(lambda line, at: [Fault(cut_after=0)], Truncated, id="cut-for-ever"),
        pytest.param(lambda line, at: [Fault(stall_after=0)], Stalled, id="stall-for-ever"),
        pytest.param(lambda line, at: [Fault(end_after=0)], Truncated, id="empty-for-ever"),
        pytest.param(lambda line, at: [Fault(overwrite=(at, b"~!?"))], DigestMismatch, id="corrupt"),
        pytest.param(lambda line, at: [Fault(append=b"~")], DigestMismatch, id="too-long"),
        pytest.param(
            lambda line, at: [Fault(cut_after=at), line.challenge], RegistryAuthRequired, id="401-for-ever"
        ),
    ],
)
async def test_blob_that_cannot_arrive_is_a_typed_error(
    line: Line,
    client_for: Callable[..., RegistryClient],
    image: Image,
    faults: Callable[[Line, int], Sequence[Fault]],
    kind: type[BootcdError],
) -> None:
    layer = image.layers[0]
    size = len(layer.blob)
    reference = ImageReference(line.proxy.host, REPOSITORY, "44")
    patience = STALL_SECS if kind is Stalled else 30
    async with client_for(line.proxy.host, stall_timeout=patience, retries=1) as client:
        await client.head_digest(reference)
        for offset in OFFSETS:
            line.reset()
            line.proxy.inject(*faults(line, offset % (size - 2)), path=layer.digest, always=True)
            with pytest.raises(kind) as caught:
                await read_blob(client, reference, layer)
            assert type(caught.value) is kind
            assert caught.value.fields["blob"] == layer.digest
            assert blob_bytes(line) <= size + 1, offset
