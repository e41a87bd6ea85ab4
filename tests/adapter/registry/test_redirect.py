from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from bootcd.model.errors import RegistryProtocolError
from bootcd.oci.reference import ImageReference
from bootcd.registry.client import RegistryClient
from tests.adapter.registry.conftest import REPOSITORY, login, read_blob
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.oci_image import Image
from tests.support.registry import PASSWORD, USER, Registry


def redirect(location: str, status: int = 307) -> Fault:
    return Fault(status, headers={"Location": location})


@pytest.fixture
async def private(new_directory: Callable[[str], Path]) -> AsyncIterator[FaultProxy]:
    """A registry that wants a login, behind a proxy of its own."""
    async with (
        Registry(new_directory("private"), basic_auth=True) as registry,
        FaultProxy(registry.url) as proxy,
    ):
        yield proxy


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_to_other_storage_is_followed_without_the_credential(
    private: FaultProxy,
    proxy: FaultProxy,
    client_for: Callable[..., RegistryClient],
    image: Image,
    status: int,
) -> None:
    layer = image.layers[0]
    path = f"/v2/{REPOSITORY}/blobs/{layer.digest}"
    reference = ImageReference(private.host, REPOSITORY, "44")
    async with client_for(private.host, credentials=login(USER, PASSWORD)) as client:
        await client.head_digest(reference)
        private.inject(redirect(f"{proxy.url}{path}?signature=a%2Fb%2B", status), path="/blobs/")
        proxy.inject(Fault(cut_after=2_000_000), path="/blobs/")
        # The second try asks the registry again: a storage URL is valid for a short time only.
        private.inject(redirect(f"{proxy.url}{path}", status), path="/blobs/")
        assert await read_blob(client, reference, layer) == layer.blob
    assert ["Authorization" in seen.headers for seen in private.seen("/blobs/")] == [True, True]
    assert ["Authorization" in seen.headers for seen in proxy.requests] == [False, False]
    assert proxy.requests[0].path == f"{path}?signature=a%2Fb%2B"
    assert "Range" in proxy.requests[1].headers


async def test_redirect_back_does_not_get_the_credential_again(
    private: FaultProxy, proxy: FaultProxy, client_for: Callable[..., RegistryClient], image: Image
) -> None:
    path = f"/v2/{REPOSITORY}/blobs/{image.layers[1].digest}"
    reference = ImageReference(private.host, REPOSITORY, "44")
    async with client_for(private.host, credentials=login(USER, PASSWORD)) as client:
        await client.head_digest(reference)
        private.inject(redirect(proxy.url + path), path="/blobs/")
        proxy.inject(redirect(f"{private.url}/v2/"), path="/blobs/")
        with pytest.raises(Exception, match=r"login|credential"):
            await read_blob(client, reference, image.layers[1])
    assert private.requests[-1].path == "/v2/"
    assert "Authorization" not in private.requests[-1].headers


async def test_redirect_within_the_registry_keeps_the_credential(
    private: FaultProxy, client_for: Callable[..., RegistryClient], image: Image
) -> None:
    layer = image.layers[1]
    reference = ImageReference(private.host, REPOSITORY, "44")
    async with client_for(private.host, credentials=login(USER, PASSWORD)) as client:
        await client.head_digest(reference)
        private.inject(redirect(f"/v2/{REPOSITORY}/blobs/{layer.digest}?again"), path="/blobs/")
        assert await read_blob(client, reference, layer) == layer.blob


async def test_redirect_without_end_is_followed_five_times(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference, image: Image
) -> None:
    proxy.inject(redirect("?again"), path="/blobs/", always=True)
    with pytest.raises(RegistryProtocolError, match="redirected more than 5 times"):
        await read_blob(client, reference, image.layers[0])
    assert len(proxy.requests) == 6


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "http://[::1", "http://host:port/", "data:,x", "ftp://127.0.0.1/x"],
)
async def test_redirect_to_no_web_address_is_refused(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference, image: Image, location: str
) -> None:
    proxy.inject(redirect(location), path="/blobs/")
    with pytest.raises(RegistryProtocolError):
        await read_blob(client, reference, image.layers[0])
    assert len(proxy.requests) == 1


async def test_redirect_with_a_login_in_it_does_not_send_it(
    client: RegistryClient, proxy: FaultProxy, reference: ImageReference, image: Image
) -> None:
    layer = image.layers[1]
    path = f"/v2/{REPOSITORY}/blobs/{layer.digest}"
    proxy.inject(redirect(f"http://user:secret@{proxy.host}{path}"), path="/blobs/")
    assert await read_blob(client, reference, layer) == layer.blob
    assert "Authorization" not in proxy.requests[1].headers


async def test_redirect_failing_at_storage_names_storage_and_registry_but_no_url(
    client: RegistryClient, proxy: FaultProxy, registry: Registry, reference: ImageReference, image: Image
) -> None:
    location = f"{registry.url}/v2/{REPOSITORY}/blobs/sha256:{'0' * 64}?signature=secret"
    proxy.inject(redirect(location), path="/blobs/")
    with pytest.raises(Exception, match=registry.host) as caught:
        await read_blob(client, reference, image.layers[0])
    assert proxy.host in str(caught.value)
    assert "secret" not in repr(caught.value)
