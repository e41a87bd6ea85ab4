"""Signatures kept on a web server, and how much of what is offered as one is read."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest

from bootcd.model.errors import BootcdError, InvalidConfig
from bootcd.oci.reference import ImageReference
from bootcd.oci.trust.attachment import MAX_SIGNATURES_BYTES
from bootcd.registry.client import RegistryClient
from bootcd.registry.signatures import attached_signatures, lookaside_signatures
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.oci_image import digest_of

DIGEST = "sha256:" + "a" * 64


async def test_signatures_of_a_web_server_are_read_until_one_is_missing(
    proxy: FaultProxy, client: RegistryClient, reference: ImageReference
) -> None:
    place = f"/store/{reference.repository}@sha256={'a' * 64}/signature-"
    for number in (1, 2, 4):
        proxy.inject(Fault(status=200, body=b"%d" % number), path=f"{place}{number}", always=True)
    proxy.inject(Fault(status=404, body=b""), path=f"{place}3", always=True)

    found = await lookaside_signatures(client, reference, DIGEST, f"{proxy.url}/store/")

    assert found == [b"1", b"2"]
    assert not any("Authorization" in seen.headers for seen in proxy.seen("/store"))


async def test_login_of_a_signature_server_is_used_and_never_told(
    proxy: FaultProxy, client_for: Callable[..., RegistryClient], reference: ImageReference
) -> None:
    proxy.inject(Fault(status=403, body=b"no"), path="/store", always=True)
    base = f"http://user:s3cret@{proxy.host}/store"
    async with client_for(proxy.host, retries=0) as client:
        with pytest.raises(BootcdError) as raised:
            await lookaside_signatures(client, reference, DIGEST, base)
        with pytest.raises(InvalidConfig) as unknown:
            await lookaside_signatures(client, reference, DIGEST, base.replace("http", "ftp"))

    told = "".join(
        (repr(e.value) + e.value.message + e.value.hint + str(e.value.fields)) for e in (raised, unknown)
    )
    assert "s3cret" not in told
    expected = "Basic " + base64.b64encode(b"user:s3cret").decode()
    assert [seen.headers["Authorization"] for seen in proxy.seen("/store")] == [expected]


async def test_signatures_without_end_are_read_up_to_a_bound(
    proxy: FaultProxy, client: RegistryClient, reference: ImageReference
) -> None:
    proxy.inject(Fault(status=200, body=bytes(1 << 20)), path="/store", always=True)

    found = await lookaside_signatures(client, reference, DIGEST, f"{proxy.url}/store")

    assert sum(map(len, found)) == MAX_SIGNATURES_BYTES


async def test_manifests_of_signatures_without_end_are_read_up_to_a_bound(
    proxy: FaultProxy, client: RegistryClient, reference: ImageReference
) -> None:
    layer = {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "digest": DIGEST, "size": 1}
    manifests = [
        json.dumps({"layers": [{**layer, "annotations": {str(n): "x" * (3 << 20)}}]}).encode()
        for n in range(20)
    ]
    entries = []
    for data in manifests:
        digest = digest_of(data)
        proxy.inject(Fault(status=200, body=data), path=digest, always=True)
        media_type = "application/vnd.oci.image.manifest.v1+json"
        entries.append({"mediaType": media_type, "digest": digest, "size": len(data)})
    index = json.dumps({"manifests": entries}).encode()
    proxy.inject(Fault(status=200, body=index), path="/referrers/", always=True)

    assert await attached_signatures(client, reference, DIGEST) == []
    assert 1 < len(proxy.seen("/manifests/sha256:")) < 8
