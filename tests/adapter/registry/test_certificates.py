from __future__ import annotations

import os
import shutil
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from bootcd.model.errors import InvalidConfig, RegistryTlsFailed, RegistryUnavailable
from bootcd.oci.reference import ImageReference
from bootcd.oci.registries import PullSource
from bootcd.registry.certificates import Certificates
from bootcd.registry.client import RegistryClient
from tests.adapter.registry.conftest import REPOSITORY, read_blob
from tests.support.certificate import Certificate
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.oci_image import Image
from tests.support.registry import Registry


@pytest.fixture
def clients(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Who signs the certificates of clients."""
    return Certificate.authority(tmp_path_factory.mktemp("clients"), name="clients")


@pytest.fixture
async def strict(
    tmp_path: Path, authority: Certificate, clients: Certificate, registry: Registry
) -> AsyncIterator[FaultProxy]:
    """A registry of an authority of its own that wants to know who asks."""
    context = authority.issue(tmp_path, hosts=["localhost"]).server_context()
    context.load_verify_locations(clients.path)
    context.verify_mode = ssl.CERT_REQUIRED
    async with FaultProxy(registry.url, server_context=context) as proxy:
        yield proxy


@pytest.fixture
def bases(tmp_path: Path) -> list[Path]:
    return [tmp_path / "etc/containers/certs.d", tmp_path / "etc/docker/certs.d"]


def install(directory: Path, authority: Certificate, clients: Certificate | None = None) -> None:
    directory.mkdir(parents=True)
    shutil.copy(authority.path, directory / "ca.crt")
    if clients is not None:
        own = clients.issue(directory, name="own")
        own.path.rename(directory / "own.cert")


async def test_registry_gets_the_certificate_and_is_trusted_by_the_authority_of_its_directory(
    strict: FaultProxy,
    authority: Certificate,
    clients: Certificate,
    bases: list[Path],
    client_for: Callable[..., RegistryClient],
    image: Image,
) -> None:
    install(bases[0] / strict.host, authority, clients)
    reference = ImageReference(strict.host, REPOSITORY, "44")
    async with client_for(certificates=Certificates("", bases)) as client:
        assert await client.head_digest(reference) == image.digest
        assert await read_blob(client, reference, image.layers[0]) == image.layers[0].blob


async def test_first_directory_of_a_registry_is_the_only_one(
    strict: FaultProxy,
    authority: Certificate,
    clients: Certificate,
    bases: list[Path],
    client_for: Callable[..., RegistryClient],
    image: Image,
) -> None:
    install(bases[1] / strict.host, authority, clients)
    reference = ImageReference(strict.host, REPOSITORY, "44")
    async with client_for(certificates=Certificates("", bases)) as client:
        assert await client.head_digest(reference) == image.digest
    (bases[0] / strict.host).mkdir(parents=True)
    async with client_for(certificates=Certificates("", bases)) as client:
        with pytest.raises(RegistryTlsFailed):
            await client.head_digest(reference)


async def test_authority_of_one_registry_says_nothing_of_another(
    strict: FaultProxy,
    authority: Certificate,
    clients: Certificate,
    bases: list[Path],
    client_for: Callable[..., RegistryClient],
) -> None:
    install(bases[0] / "other.test:5000", authority, clients)
    async with client_for(certificates=Certificates("", bases)) as client:
        with pytest.raises(RegistryTlsFailed):
            await client.head_digest(ImageReference(strict.host, REPOSITORY, "44"))


async def test_storage_elsewhere_is_trusted_but_not_told_who_asks(
    tmp_path: Path,
    strict: FaultProxy,
    authority: Certificate,
    clients: Certificate,
    bases: list[Path],
    client_for: Callable[..., RegistryClient],
    image: Image,
) -> None:
    install(bases[0] / strict.host, authority, clients)
    reference = ImageReference(strict.host, REPOSITORY, "44")
    port = strict.host.rpartition(":")[2]
    layer = image.layers[0]
    # The same server by another name, for which its certificate is good too.
    strict.inject(
        Fault(307, headers={"Location": f"https://localhost:{port}/v2/{REPOSITORY}/blobs/{layer.digest}"}),
        path="/blobs/",
    )
    async with client_for(certificates=Certificates("", bases), retries=0) as client:
        # By TLS 1.3 a client hears with the answer, or by the end of the connection, that it is refused.
        with pytest.raises((RegistryTlsFailed, RegistryUnavailable)):
            await read_blob(client, reference, layer)
    assert len(strict.requests) == 1


async def test_insecure_place_is_spoken_to_whatever_its_certificate(
    tmp_path: Path,
    authority: Certificate,
    registry: Registry,
    client_for: Callable[..., RegistryClient],
    image: Image,
) -> None:
    context = authority.issue(tmp_path, address="127.0.0.9").server_context()
    async with FaultProxy(registry.url, server_context=context) as proxy:
        reference = ImageReference(proxy.host, REPOSITORY, "44")
        places = [PullSource(reference, insecure=True)]
        async with client_for(sources=lambda reference: places) as client:
            assert await client.head_digest(reference) == image.digest
            assert await read_blob(client, reference, image.layers[0]) == image.layers[0].blob
        assert [seen.path for seen in proxy.requests][:1] == ["/v2/"]
        assert len(proxy.requests) == 3


async def test_insecure_place_without_tls_is_spoken_to_in_plain_http(
    proxy: FaultProxy, client_for: Callable[..., RegistryClient], reference: ImageReference, image: Image
) -> None:
    places = [PullSource(reference, insecure=True)]
    async with client_for(sources=lambda reference: places) as client:
        assert await client.head_digest(reference) == image.digest


def _no_key(directory: Path) -> None:
    (directory / "own.key").unlink()


def _no_certificate(directory: Path) -> None:
    (directory / "own.cert").unlink()


def _swapped(directory: Path) -> None:
    shutil.copy(directory / "ca.crt", directory / "own.cert")


def _nonsense(directory: Path) -> None:
    (directory / "ca.crt").write_text("no certificate")


def _pipe(directory: Path) -> None:
    (directory / "more.crt").unlink(missing_ok=True)
    os.mkfifo(directory / "more.crt")


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (_no_key, "own.cert"),
        (_no_certificate, "own.key"),
        (_swapped, "own.cert"),
        (_nonsense, "ca.crt"),
        (_pipe, "more.crt"),
    ],
)
def test_directory_that_cannot_be_used_is_a_config_error_naming_the_file(
    bases: list[Path],
    authority: Certificate,
    clients: Certificate,
    spoil: Callable[[Path], None],
    name: str,
) -> None:
    directory = bases[0] / "a.test"
    install(directory, authority, clients)
    spoil(directory)
    with pytest.raises(InvalidConfig) as caught:
        Certificates("", bases).context("a.test", known=True)
    assert caught.value.fields["path"] == str(directory / name)


def test_link_to_an_authority_that_is_gone_is_passed_over(
    bases: list[Path], authority: Certificate, clients: Certificate
) -> None:
    directory = bases[0] / "a.test"
    install(directory, authority, clients)
    (directory / "gone.crt").symlink_to("/nowhere")
    (directory / "README").write_text("not for us")
    assert Certificates("", bases).context("a.test", known=True) is not None


def test_key_with_a_password_is_not_asked_for(bases: list[Path], authority: Certificate) -> None:
    directory = bases[0] / "a.test"
    install(directory, authority, authority)
    key = (directory / "own.key").read_text()
    loaded = serialization.load_pem_private_key(key.encode(), None)
    (directory / "own.key").write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"word"),
        )
    )
    with pytest.raises(InvalidConfig):
        Certificates("", bases).context("a.test", known=True)


async def test_registry_the_service_is_told_to_speak_http_to_is_not_asked_for_tls(
    proxy: FaultProxy, client_for: Callable[..., RegistryClient], reference: ImageReference, image: Image
) -> None:
    places = [PullSource(reference, insecure=True)]
    async with client_for(proxy.host, sources=lambda reference: places) as client:
        assert await client.head_digest(reference) == image.digest
    assert len(proxy.requests) == 1


async def test_insecure_place_that_asked_for_a_pause_is_not_taken_for_one_without_tls(
    tmp_path: Path, authority: Certificate, registry: Registry, client_for: Callable[..., RegistryClient]
) -> None:
    context = authority.issue(tmp_path).server_context()
    async with FaultProxy(registry.url, server_context=context) as proxy:
        reference = ImageReference(proxy.host, REPOSITORY, "44")
        places = [PullSource(reference, insecure=True)]
        proxy.inject(Fault(503, headers={"Retry-After": "100"}))
        options = {"sources": lambda reference: places, "pauses_file": tmp_path / "pauses.json"}
        async with client_for(**options, retries=0) as client:
            with pytest.raises(RegistryUnavailable):
                await client.head_digest(reference)
        async with client_for(**options) as client:
            assert (await client.head_digest(reference)).startswith("sha256:")
        assert [seen.path for seen in proxy.requests][1:] == ["/v2/", f"/v2/{REPOSITORY}/manifests/44"]
