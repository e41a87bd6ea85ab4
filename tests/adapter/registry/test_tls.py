from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from bootcd.model.errors import InvalidConfig, RegistryProtocolError, RegistryTlsFailed
from bootcd.oci.reference import ImageReference
from bootcd.registry.client import RegistryClient
from tests.adapter.registry.conftest import REPOSITORY, Waits, login, read_blob
from tests.support.certificate import Certificate
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.oci_image import Image
from tests.support.registry import Registry


@pytest.fixture
async def secure(
    tmp_path: Path, authority: Certificate, new_directory: Callable[[str], Path]
) -> AsyncIterator[FaultProxy]:
    """A registry that serves HTTPS, behind a proxy that does so too."""
    certificate = authority.issue(tmp_path)
    async with (
        Registry(new_directory("secure"), certificate=certificate, authority=authority) as registry,
        FaultProxy(
            registry.url, registry.client_context, server_context=certificate.server_context()
        ) as proxy,
    ):
        yield proxy


async def test_tls_certificate_of_known_authority_is_accepted(
    secure: FaultProxy, authority: Certificate, client_for: Callable[..., RegistryClient], image: Image
) -> None:
    reference = ImageReference(secure.host, REPOSITORY, "44")
    async with client_for(ca_file=str(authority.path)) as client:
        assert await client.head_digest(reference) == image.digest
        assert await read_blob(client, reference, image.layers[0]) == image.layers[0].blob


async def test_tls_certificate_of_unknown_authority_is_refused_without_a_retry(
    secure: FaultProxy, client_for: Callable[..., RegistryClient], waits: Waits
) -> None:
    reference = ImageReference(secure.host, REPOSITORY, "44")
    async with client_for() as client:
        with pytest.raises(RegistryTlsFailed, match="certificate") as caught:
            await client.head_digest(reference)
    assert caught.value.fields["registry"] == secure.host
    assert str(reference) in caught.value.message
    assert secure.requests == []
    assert waits == []


async def test_tls_certificate_of_another_host_is_refused(
    tmp_path: Path, authority: Certificate, registry: Registry, client_for: Callable[..., RegistryClient]
) -> None:
    other = authority.issue(tmp_path, address="127.0.0.9")
    async with (
        FaultProxy(registry.url, server_context=other.server_context()) as proxy,
        client_for(ca_file=str(authority.path)) as client,
    ):
        with pytest.raises(RegistryTlsFailed, match=r"127\.0\.0\.1"):
            await client.head_digest(ImageReference(proxy.host, REPOSITORY, "44"))


async def test_tls_registry_in_plain_http_is_not_spoken_to_unless_configured(
    proxy: FaultProxy, client_for: Callable[..., RegistryClient], reference: ImageReference
) -> None:
    async with client_for() as client:
        with pytest.raises(RegistryTlsFailed):
            await client.head_digest(reference)
    assert proxy.requests == []


async def test_tls_redirect_to_plain_http_is_refused(
    secure: FaultProxy,
    proxy: FaultProxy,
    authority: Certificate,
    client_for: Callable[..., RegistryClient],
    image: Image,
) -> None:
    secure.inject(Fault(307, headers={"Location": f"{proxy.url}/v2/x"}), path="/blobs/")
    async with client_for(proxy.host, ca_file=str(authority.path)) as client:
        with pytest.raises(RegistryProtocolError, match="https to plain http"):
            await read_blob(client, ImageReference(secure.host, REPOSITORY, "44"), image.layers[0])
    assert proxy.requests == []


async def test_tls_token_service_in_plain_http_gets_no_credential(
    secure: FaultProxy, proxy: FaultProxy, authority: Certificate, client_for: Callable[..., RegistryClient]
) -> None:
    challenge = f'Bearer realm="{proxy.url}/token",service="x",scope="repository:{REPOSITORY}:pull"'
    secure.inject(Fault(401, headers={"WWW-Authenticate": challenge}), always=True)
    async with client_for(ca_file=str(authority.path), credentials=login("me", "secret")) as client:
        with pytest.raises(RegistryProtocolError, match="without TLS"):
            await client.head_digest(ImageReference(secure.host, REPOSITORY, "44"))
    assert proxy.requests == []


@pytest.mark.parametrize("content", [None, b"no certificate"], ids=["missing", "nonsense"])
async def test_tls_unusable_authority_file_is_a_config_error(
    tmp_path: Path, client_for: Callable[..., RegistryClient], content: bytes | None
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidConfig) as caught:
        async with client_for(ca_file=str(path)):
            pass
    assert caught.value.fields["path"] == str(path)
