from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from bootcd.model.errors import (
    BootcdError,
    DigestMismatch,
    InvalidManifest,
    NoMatchingPlatform,
    NotFound,
    RegistryAuthRequired,
    RegistryDenied,
    RegistryProtocolError,
    RegistryRateLimited,
    RegistryUnavailable,
    Stalled,
)
from bootcd.oci.reference import ImageReference
from bootcd.oci.resolve import ResolvedImage
from bootcd.registry.client import RegistryClient
from tests.adapter.registry.conftest import REPOSITORY, RETRIES, Waits
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.oci_image import Image, file, make_image, make_index, make_layer
from tests.support.registry import Registry


async def resolve(client: RegistryClient, reference: ImageReference) -> ResolvedImage:
    return await client.resolve(reference, architecture="amd64", variant="")


async def test_resolve_tag_gives_manifest_and_config(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference, image: Image
) -> None:
    resolved = await resolve(client, reference)
    assert resolved.digest == image.digest
    assert resolved.index_digest is None
    assert resolved.manifest_bytes == image.manifest
    assert [layer.digest for layer in resolved.manifest.layers] == [layer.digest for layer in image.layers]
    assert resolved.config_bytes == image.config
    assert resolved.config.labels["org.opencontainers.image.version"] == "44.1"
    assert len(proxy.requests) == 2


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
async def test_resolve_index_takes_the_image_of_the_platform(
    client: RegistryClient, registry: Registry, reference: ImageReference, docker: bool
) -> None:
    images = [
        make_image([make_layer([file("usr/a", name.encode())])], architecture=name, docker=docker)
        for name in ("arm64", "amd64")
    ]
    index = make_index(images, docker=docker)
    await registry.push(REPOSITORY, "multi", index)
    resolved = await resolve(client, reference.with_tag("multi"))
    assert resolved.digest == images[1].digest
    assert resolved.index_digest == index.digest
    assert resolved.manifest_bytes == images[1].manifest
    assert resolved.config_bytes == images[1].config


async def test_resolve_index_without_the_platform_says_so(
    client: RegistryClient, registry: Registry, reference: ImageReference
) -> None:
    await registry.push(REPOSITORY, "arm", make_index([make_image([], architecture="arm64")]))
    with pytest.raises(NoMatchingPlatform):
        await resolve(client, reference.with_tag("arm"))


async def test_resolve_tag_and_digest_takes_the_digest_although_the_tag_moved(
    client: RegistryClient, registry: Registry, reference: ImageReference, image: Image
) -> None:
    await registry.push(REPOSITORY, "44", make_image([]))
    assert (await resolve(client, reference)).digest != image.digest
    assert (await resolve(client, reference.with_digest(image.digest))).digest == image.digest


async def test_resolve_manifest_other_than_the_digest_is_refused(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference, image: Image
) -> None:
    other = make_image([]).manifest
    headers = {"Content-Type": image.media_type}
    proxy.inject(Fault(200, other, headers), path="/manifests/")
    with pytest.raises(DigestMismatch) as caught:
        await resolve(client, reference.with_digest(image.digest))
    assert caught.value.fields["expected"] == image.digest
    assert caught.value.fields["reference"] == f"{reference}@{image.digest}"


async def test_resolve_platform_manifest_other_than_the_index_says_is_refused(
    client: RegistryClient, proxy: FaultProxy, registry: Registry, reference: ImageReference, image: Image
) -> None:
    index = make_index([image])
    await registry.push(REPOSITORY, "multi", index)
    other = image.manifest.replace(b'"layers"', b'"leyers"')
    proxy.inject(Fault(200, other, {"Content-Type": image.media_type}), path=f"/manifests/{image.digest}")
    with pytest.raises(DigestMismatch):
        await resolve(client, reference.with_tag("multi"))


async def test_resolve_manifest_that_contradicts_its_header_is_refused(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference
) -> None:
    proxy.inject(Fault(headers={"Docker-Content-Digest": "sha256:" + "0" * 64}), path="/manifests/")
    with pytest.raises(DigestMismatch):
        await resolve(client, reference)


@pytest.mark.parametrize("header", [None, "sha999:zz", "nonsense"], ids=["none", "unknown", "nonsense"])
async def test_resolve_manifest_without_usable_digest_header_works(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference, image: Image, header: str | None
) -> None:
    proxy.inject(Fault(headers={"Docker-Content-Digest": header}), path="/manifests/")
    assert (await resolve(client, reference)).digest == image.digest


async def test_resolve_config_with_other_bytes_is_refused(
    client: RegistryClient, registry: Registry, reference: ImageReference, image: Image
) -> None:
    digest = json.loads(image.manifest)["config"]["digest"]
    registry.blob_path(digest).write_bytes(image.config.replace(b"amd64", b"amd46"))
    with pytest.raises(DigestMismatch):
        await resolve(client, reference)


async def test_resolve_endless_manifest_is_ended_at_the_limit(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference, image: Image
) -> None:
    endless = Fault(200, b"{", {"Content-Type": image.media_type}, append=b" " * (64 << 20))
    proxy.inject(endless, path="/manifests/")
    with pytest.raises((InvalidManifest, RegistryProtocolError)):
        await resolve(client, reference)
    assert proxy.body_bytes < 32 << 20


async def test_resolve_config_announced_larger_than_the_limit_is_not_fetched(
    client: RegistryClient, proxy: FaultProxy, registry: Registry, reference: ImageReference, image: Image
) -> None:
    document = json.loads(image.manifest)
    document["config"]["size"] = 1 << 40
    proxy.inject(
        Fault(200, json.dumps(document).encode(), {"Content-Type": image.media_type}), path="/manifests/"
    )
    with pytest.raises(InvalidManifest):
        await resolve(client, reference)
    assert proxy.seen("/blobs/") == []


@pytest.mark.parametrize(
    ("fault", "kind", "requests"),
    [
        pytest.param(Fault(401), RegistryAuthRequired, 1, id="401"),
        pytest.param(Fault(403, b'{"errors":[{"code":"DENIED"}]}'), RegistryDenied, 1, id="403"),
        pytest.param(Fault(404), NotFound, 1, id="404"),
        pytest.param(Fault(400), RegistryProtocolError, 1, id="400"),
        pytest.param(Fault(429), RegistryRateLimited, RETRIES + 1, id="429"),
        pytest.param(Fault(500), RegistryUnavailable, RETRIES + 1, id="500"),
        pytest.param(Fault(504), RegistryUnavailable, RETRIES + 1, id="504"),
        pytest.param(Fault(drop=True), RegistryUnavailable, RETRIES + 1, id="dropped"),
        pytest.param(
            Fault(200, b"<html>", {"Content-Type": "text/html"}), RegistryProtocolError, 1, id="web-page"
        ),
        pytest.param(Fault(200, b"", {"Content-Type": None}), InvalidManifest, 1, id="nothing"),
    ],
)
async def test_resolve_failure_has_its_own_error_naming_the_image(
    client: RegistryClient,
    proxy: FaultProxy,
    reference: ImageReference,
    fault: Fault,
    kind: type[BootcdError],
    requests: int,
) -> None:
    proxy.inject(fault, path="/manifests/", always=True)
    with pytest.raises(kind) as caught:
        await resolve(client, reference)
    assert type(caught.value) is kind
    assert caught.value.fields["registry"] == proxy.host
    assert caught.value.fields["repository"] == REPOSITORY
    assert caught.value.fields["reference"] == str(reference)
    assert str(reference) in caught.value.message
    # aiohttp itself repeats a request once whose connection was closed without an answer.
    assert len(proxy.requests) == requests * (2 if fault.drop else 1)


async def test_resolve_after_passing_failures_succeeds(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference, image: Image, waits: Waits
) -> None:
    proxy.inject(Fault(503), Fault(cut_after=20), Fault(500), path="/manifests/")
    assert (await resolve(client, reference)).digest == image.digest
    assert len(waits) == 3


async def test_resolve_stated_wait_is_honoured(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference, waits: Waits
) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    proxy.inject(
        Fault(429, headers={"Retry-After": "7"}),
        Fault(503, headers={"Retry-After": later}),
        path="/manifests/",
    )
    await resolve(client, reference)
    assert waits[0] == 7
    assert 85 <= waits[1] <= 100


async def test_resolve_wait_beyond_the_bound_ends_the_job_with_it(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference, waits: Waits
) -> None:
    proxy.inject(Fault(429, headers={"Retry-After": "86400"}), path="/manifests/")
    with pytest.raises(RegistryRateLimited) as caught:
        await resolve(client, reference)
    assert caught.value.fields["retry_after_secs"] == 86400
    assert waits == []
    assert len(proxy.requests) == 1


async def test_resolve_waiting_for_a_retry_can_be_cancelled(
    proxy: FaultProxy, client_for: Callable[..., RegistryClient], reference: ImageReference
) -> None:
    proxy.inject(Fault(429, headers={"Retry-After": "300"}), path="/manifests/", always=True)
    waiting = asyncio.Event()

    async def sleep(seconds: float) -> None:
        waiting.set()
        await asyncio.sleep(seconds)

    async with client_for(proxy.host, sleep=sleep) as client:
        task = asyncio.create_task(resolve(client, reference))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(proxy.requests) == 1


async def test_resolve_server_that_never_answers_is_unavailable(
    proxy: FaultProxy, client_for: Callable[..., RegistryClient], reference: ImageReference
) -> None:
    proxy.inject(Fault(silent=True), path="/manifests/", always=True)
    async with client_for(proxy.host, stall_timeout=0.1, retries=1) as client:
        with pytest.raises(RegistryUnavailable):
            await resolve(client, reference)
    assert len(proxy.requests) == 2


async def test_resolve_document_that_trickles_is_stalled(
    proxy: FaultProxy, client_for: Callable[..., RegistryClient], reference: ImageReference
) -> None:
    proxy.inject(Fault(piece=1, pause=0.02), path="/manifests/")
    async with client_for(proxy.host, stall_timeout=0.1, retries=0) as client:
        with pytest.raises(Stalled):
            await resolve(client, reference)


async def test_resolve_refused_connection_is_unavailable_after_the_retries(
    client_for: Callable[..., RegistryClient], waits: Waits
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = f"127.0.0.1:{server.getsockname()[1]}"
    async with client_for(host) as client:
        with pytest.raises(RegistryUnavailable, match="cannot be connected to") as caught:
            await resolve(client, ImageReference(host, REPOSITORY, "44"))
    assert caught.value.fields["registry"] == host
    assert len(waits) == RETRIES


async def test_head_is_one_request_and_gives_the_digest_of_the_tag(
    client: RegistryClient, proxy: FaultProxy, registry: Registry, reference: ImageReference, image: Image
) -> None:
    index = make_index([image])
    await registry.push(REPOSITORY, "multi", index)
    assert await client.head_digest(reference) == image.digest
    assert await client.head_digest(reference.with_tag("multi")) == index.digest
    assert [seen.method for seen in proxy.requests] == ["HEAD", "HEAD"]
    assert proxy.body_bytes == 0


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(headers={"Docker-Content-Digest": None}), id="no-digest"),
        pytest.param(Fault(headers={"Docker-Content-Digest": "latest"}), id="no-real-digest"),
        pytest.param(Fault(405), id="no-head"),
    ],
)
async def test_head_not_answered_in_full_is_followed_by_get(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference, image: Image, fault: Fault
) -> None:
    proxy.inject(fault, method="HEAD")
    proxy.inject(Fault(headers={"Docker-Content-Digest": None}), method="GET")
    assert await client.head_digest(reference) == image.digest
    assert [seen.method for seen in proxy.requests] == ["HEAD", "GET"]


async def test_head_of_unknown_tag_is_not_found(client: RegistryClient, reference: ImageReference) -> None:
    with pytest.raises(NotFound):
        await client.head_digest(replace(reference, tag="none"))
