from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import pytest

from bootcd.model.errors import (
    BootcdError,
    DigestMismatch,
    NotFound,
    RegistryProtocolError,
    RegistryUnavailable,
    Stalled,
    Truncated,
)
from bootcd.oci.reference import ImageReference
from bootcd.registry.client import RegistryClient
from tests.adapter.registry.conftest import RETRIES, Waits, layer_descriptor, read_blob
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.oci_image import Image, file, make_layer
from tests.support.registry import Registry


async def test_blob_undisturbed_arrives_whole_in_one_request(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference, image: Image
) -> None:
    for layer in image.layers:
        assert await read_blob(client, reference, layer) == layer.blob
    assert [seen.status for seen in proxy.requests] == [200, 200]
    assert all(seen.headers["Accept-Encoding"] == "identity" for seen in proxy.requests)
    assert all(seen.headers["User-Agent"] == "bootcd/test" for seen in proxy.requests)


@pytest.mark.parametrize("cut_after", [0, 1, 100_000, 3_000_001])
async def test_blob_cut_is_resumed_where_it_stopped(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference, image: Image, cut_after: int
) -> None:
    proxy.inject(Fault(cut_after=cut_after), path="/blobs/")
    layer = image.layers[0]
    assert await read_blob(client, reference, layer) == layer.blob
    first, second = proxy.requests
    assert "Range" not in first.headers
    if cut_after:
        done = int(second.headers["Range"].removeprefix("bytes=").partition("-")[0])
        assert 0 <= done <= cut_after
        assert second.status == 206
        assert second.body_bytes == len(layer.blob) - done


async def test_blob_cut_more_often_than_retries_arrives_while_it_gets_further(
    proxy: FaultProxy, client_for: Callable[..., RegistryClient], reference: ImageReference, image: Image
) -> None:
    proxy.inject(*[Fault(cut_after=1_300_000)] * 3, path="/blobs/")
    layer = image.layers[0]
    async with client_for(proxy.host, retries=1) as client:
        assert await read_blob(client, reference, layer) == layer.blob
    assert len(proxy.requests) == 4


async def test_blob_cut_again_and_again_without_progress_is_truncated(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference, image: Image
) -> None:
    proxy.inject(Fault(cut_after=1000), path="/blobs/", always=True)
    with pytest.raises(Truncated) as caught:
        await read_blob(client, reference, image.layers[0])
    assert caught.value.fields["reference"] == str(reference)
    assert caught.value.fields["blob"] == image.layers[0].digest
    assert len(proxy.requests) == RETRIES + 1


async def test_blob_server_without_ranges_gives_the_same_bytes(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference, image: Image
) -> None:
    proxy.inject(Fault(cut_after=3_000_000), Fault(ignore_range=True), path="/blobs/")
    layer = image.layers[0]
    assert await read_blob(client, reference, layer) == layer.blob
    assert [seen.status for seen in proxy.requests] == [200, 200]


@pytest.mark.parametrize(
    "content_range",
    [
        pytest.param("bytes 0-{last}/{size}", id="from-the-start"),
        pytest.param("bytes {done}-{last}/{more}", id="of-another-size"),
        pytest.param("bytes {done}-{size}/*", id="beyond-the-end"),
        pytest.param("bytes */{size}", id="no-part"),
        pytest.param("{done}-{last}", id="no-range"),
        pytest.param(None, id="missing"),
    ],
)
async def test_blob_resumed_with_another_range_is_a_protocol_error(
    client: RegistryClient,
    proxy: FaultProxy,
    reference: ImageReference,
    image: Image,
    content_range: str | None,
) -> None:
    layer = image.layers[0]
    size = len(layer.blob)
    read = 0
    chunks = client.open_blob(reference, layer_descriptor(layer))
    proxy.inject(Fault(stall_after=1_000_000), path="/blobs/")
    async with aclosing(chunks):
        async for chunk in chunks:
            read += len(chunk)
            if read == 1_000_000:
                break
        text = content_range and content_range.format(done=read, last=size - 1, size=size, more=size + 1)
        proxy.inject(Fault(headers={"Content-Range": text}), path="/blobs/")
        proxy.release()
        with pytest.raises(RegistryProtocolError):
            await anext(chunks)


@pytest.mark.parametrize("offset", [0, 2_000_000, -1], ids=["first", "middle", "last"])
async def test_blob_with_other_bytes_never_ends_well(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference, image: Image, offset: int
) -> None:
    layer = image.layers[0]
    at = offset % len(layer.blob)
    proxy.inject(Fault(overwrite=(at, bytes([layer.blob[at] ^ 1]))), path="/blobs/")
    with pytest.raises(DigestMismatch) as caught:
        await read_blob(client, reference, layer)
    assert caught.value.fields["expected"] == layer.digest
    assert caught.value.fields["actual"] != layer.digest
    assert len(proxy.requests) == 1


async def test_blob_spoilt_after_a_resume_never_ends_well(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference, image: Image
) -> None:
    proxy.inject(Fault(cut_after=1_000_000), Fault(overwrite=(1_000_000, b"spoilt")), path="/blobs/")
    with pytest.raises(DigestMismatch):
        await read_blob(client, reference, image.layers[0])


async def test_blob_longer_than_described_is_refused_at_its_size(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference, image: Image
) -> None:
    layer = image.layers[0]
    proxy.inject(Fault(append=b"more"), path="/blobs/")
    read = 0

    async def count() -> None:
        nonlocal read
        async with aclosing(client.open_blob(reference, layer_descriptor(layer))) as chunks:
            async for chunk in chunks:
                read += len(chunk)

    with pytest.raises(DigestMismatch, match="longer"):
        await count()
    assert 0 < read <= len(layer.blob)


async def test_blob_shorter_in_the_registry_is_truncated(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference, image: Image, registry: Registry
) -> None:
    layer = image.layers[0]
    registry.blob_path(layer.digest).write_bytes(layer.blob[:-100])
    with pytest.raises(Truncated):
        await read_blob(client, reference, layer)
    assert proxy.requests[-1].status == 416


async def test_blob_empty_ends_well(
    registry: Registry, client: RegistryClient, reference: ImageReference
) -> None:
    layer = make_layer(tar=b"", compression="none")
    await registry.push_blob(reference.repository, layer.digest, b"")
    assert await read_blob(client, reference, layer) == b""


async def test_blob_stall_is_ended_and_resumed(
    proxy: FaultProxy, client_for: Callable[..., RegistryClient], reference: ImageReference, image: Image
) -> None:
    proxy.inject(Fault(stall_after=2_000_000), path="/blobs/")
    async with client_for(proxy.host, stall_timeout=0.2) as client:
        assert await read_blob(client, reference, image.layers[0]) == image.layers[0].blob
    assert [seen.status for seen in proxy.requests] == [200, 206]


async def test_blob_that_stalls_every_time_is_stalled(
    proxy: FaultProxy, client_for: Callable[..., RegistryClient], reference: ImageReference, image: Image
) -> None:
    proxy.inject(Fault(stall_after=10), path="/blobs/", always=True)
    async with client_for(proxy.host, stall_timeout=0.1, retries=1) as client:
        with pytest.raises(Stalled) as caught:
            await read_blob(client, reference, image.layers[0])
    assert caught.value.fields["registry"] == proxy.host
    assert len(proxy.requests) == 2


async def test_blob_slow_line_is_no_stall(
    proxy: FaultProxy, client_for: Callable[..., RegistryClient], reference: ImageReference, image: Image
) -> None:
    # In all longer than the time-out, but never that long without a byte.
    proxy.inject(Fault(piece=300_000, pause=0.05), path="/blobs/")
    async with client_for(proxy.host, stall_timeout=0.4) as client:
        assert await read_blob(client, reference, image.layers[0]) == image.layers[0].blob
    assert len(proxy.requests) == 1


async def test_blob_slow_reader_is_no_stall(
    proxy: FaultProxy, client_for: Callable[..., RegistryClient], reference: ImageReference, image: Image
) -> None:
    layer = image.layers[0]
    async with (
        client_for(proxy.host, stall_timeout=0.2) as client,
        aclosing(client.open_blob(reference, layer_descriptor(layer))) as chunks,
    ):
        first = await anext(chunks)
        await asyncio.sleep(0.6)  # the reader at work, three time-outs long
        assert first + b"".join([chunk async for chunk in chunks]) == layer.blob
    assert len(proxy.requests) == 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        pytest.param(
            Fault(200, b"<html>Log in</html>", {"Content-Type": "text/html; charset=utf-8"}),
            RegistryProtocolError,
            id="web-page",
        ),
        pytest.param(Fault(headers={"Content-Encoding": "gzip"}), RegistryProtocolError, id="compressed"),
        pytest.param(Fault(status=206, body=b"x"), RegistryProtocolError, id="part-unasked"),
        pytest.param(Fault(status=204), RegistryProtocolError, id="no-content"),
        pytest.param(Fault(status=404), NotFound, id="gone"),
        pytest.param(Fault(status=502), RegistryUnavailable, id="bad-gateway"),
        pytest.param(Fault(drop=True), RegistryUnavailable, id="dropped"),
    ],
)
async def test_blob_answer_of_another_kind_has_its_own_error(
    proxy: FaultProxy,
    client_for: Callable[..., RegistryClient],
    reference: ImageReference,
    image: Image,
    fault: Fault,
    kind: type[BootcdError],
) -> None:
    proxy.inject(fault, path="/blobs/", always=True)
    async with client_for(proxy.host, retries=0) as client:
        with pytest.raises(kind) as caught:
            await read_blob(client, reference, image.layers[0])
    assert type(caught.value) is kind
    fields = caught.value.fields
    assert (fields["registry"], fields["repository"]) == (proxy.host, reference.repository)
    assert str(reference) in caught.value.message


async def test_blobs_in_flight_are_bounded(
    proxy: FaultProxy,
    client_for: Callable[..., RegistryClient],
    reference: ImageReference,
    registry: Registry,
) -> None:
    layers = [make_layer([file(f"usr/{n}", bytes([n]) * 5000)]) for n in range(6)]
    for layer in layers:
        await registry.push_blob(reference.repository, layer.digest, layer.blob)
    async with client_for(proxy.host, parallel=2) as client:
        # Two downloads stop half-way; only when one of them is given up may a third begin.
        proxy.inject(*[Fault(stall_after=10)] * 2, path="/blobs/")
        held = [client.open_blob(reference, layer_descriptor(layer)) for layer in layers[:2]]
        for chunks in held:
            await anext(chunks)
        others = [asyncio.create_task(read_blob(client, reference, layer)) for layer in layers[2:]]
        done, _ = await asyncio.wait(others, timeout=0.2)
        assert not done
        assert len(proxy.requests) == 2
        await held[0].aclose()
        assert await asyncio.gather(*others) == [layer.blob for layer in layers[2:]]
        await held[1].aclose()
    assert len(proxy.requests) == 6


async def test_blob_given_up_by_cancelling_frees_its_place(
    proxy: FaultProxy,
    client_for: Callable[..., RegistryClient],
    reference: ImageReference,
    image: Image,
    waits: Waits,
) -> None:
    async with client_for(proxy.host, parallel=1) as client:
        proxy.inject(Fault(stall_after=10), path="/blobs/")
        task = asyncio.create_task(read_blob(client, reference, image.layers[0]))
        await proxy.wait_for_requests(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await read_blob(client, reference, image.layers[0]) == image.layers[0].blob
    assert waits == []
