from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web

from bootcd.model.errors import (
    BootcdError,
    RegistryAuthRequired,
    RegistryDenied,
    RegistryProtocolError,
    RegistryUnavailable,
)
from bootcd.oci.authfile import Credential
from bootcd.oci.reference import ImageReference
from bootcd.registry.client import RegistryClient
from tests.adapter.registry.conftest import REPOSITORY, RETRIES, give, login, read_blob
from tests.support.certificate import Certificate
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.oci_image import Image
from tests.support.registry import PASSWORD, USER, Registry
from tests.support.token_server import TokenServer


@pytest.fixture
async def basic(new_directory: Callable[[str], Path]) -> AsyncIterator[FaultProxy]:
    async with (
        Registry(new_directory("basic"), basic_auth=True) as registry,
        FaultProxy(registry.url) as proxy,
    ):
        yield proxy


@pytest.fixture
async def tokens(authority: Certificate) -> AsyncIterator[TokenServer]:
    async with TokenServer(authority) as tokens:
        yield tokens


@pytest.fixture
async def guarded(tokens: TokenServer, new_directory: Callable[[str], Path]) -> AsyncIterator[FaultProxy]:
    async with (
        Registry(new_directory("guarded"), tokens=tokens) as registry,
        FaultProxy(registry.url) as proxy,
    ):
        yield proxy


def reference_at(proxy: FaultProxy) -> ImageReference:
    return ImageReference(proxy.host, REPOSITORY, "44")


async def pull(client: RegistryClient, reference: ImageReference, image: Image) -> None:
    resolved = await client.resolve(reference, architecture="amd64", variant="")
    assert resolved.digest == image.digest
    blobs = await asyncio.gather(*(read_blob(client, reference, layer) for layer in image.layers))
    assert blobs == [layer.blob for layer in image.layers]


async def test_basic_login_is_sent_after_the_challenge_and_from_then_on(
    basic: FaultProxy, client_for: Callable[..., RegistryClient], image: Image
) -> None:
    async with client_for(basic.host, credentials=login(USER, PASSWORD)) as client:
        await pull(client, reference_at(basic), image)
    assert [seen.status for seen in basic.requests][:2] == [401, 200]
    assert "Authorization" not in basic.requests[0].headers
    assert all(seen.status == 200 for seen in basic.requests[1:])


async def test_basic_login_refused_is_an_auth_error_that_keeps_the_secret(
    basic: FaultProxy, client_for: Callable[..., RegistryClient]
) -> None:
    async with client_for(basic.host, credentials=login(USER, "wrong battery")) as client:
        with pytest.raises(RegistryAuthRequired, match="does not accept the credential") as caught:
            await client.resolve(reference_at(basic), architecture="amd64", variant="")
        everything = f"{caught.value!r} {caught.value.info()!r} {client!r} {vars(client)!r}"
    assert "battery" not in everything
    assert base64.b64encode(b"puller:wrong battery").decode() not in everything
    assert caught.value.fields["repository"] == REPOSITORY
    assert len(basic.requests) == 2


async def test_basic_login_missing_is_an_auth_error(
    basic: FaultProxy, client_for: Callable[..., RegistryClient]
) -> None:
    async with client_for(basic.host) as client:
        with pytest.raises(RegistryAuthRequired, match="wants a login"):
            await client.head_digest(reference_at(basic))
    assert len(basic.requests) == 1


async def test_credential_of_netrc_is_not_used(
    basic: FaultProxy,
    client_for: Callable[..., RegistryClient],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with client_for(basic.host) as client:
        with pytest.raises(RegistryAuthRequired):
            await client.head_digest(reference_at(basic))
    assert all("Authorization" not in seen.headers for seen in basic.requests)


async def test_token_is_got_without_login_and_used_for_the_whole_pull(
    guarded: FaultProxy, tokens: TokenServer, client_for: Callable[..., RegistryClient], image: Image
) -> None:
    async with client_for(guarded.host) as client:
        await pull(client, reference_at(guarded), image)
    assert len(tokens.requests) == 1
    assert tokens.requests[0]["query"]["scope"] == f"repository:{REPOSITORY}:pull"
    assert "Authorization" not in tokens.requests[0]["headers"]
    assert [seen.status for seen in guarded.requests].count(401) == 1


async def test_token_is_asked_for_once_by_parallel_downloads(
    guarded: FaultProxy, tokens: TokenServer, client_for: Callable[..., RegistryClient], image: Image
) -> None:
    async with client_for(guarded.host, parallel=4) as client:
        reference = reference_at(guarded)
        await asyncio.gather(*(read_blob(client, reference, layer) for layer in image.layers * 2))
    assert len(tokens.requests) == 1


async def test_token_is_got_with_login_that_only_the_token_service_sees(
    guarded: FaultProxy, tokens: TokenServer, client_for: Callable[..., RegistryClient], image: Image
) -> None:
    tokens.accounts[USER] = PASSWORD
    async with client_for(guarded.host, credentials=login(USER, PASSWORD)) as client:
        await pull(client, reference_at(guarded), image)
    assert tokens.requests[0]["headers"]["Authorization"].startswith("Basic ")
    sent = {seen.headers.get("Authorization", "none").split()[0] for seen in guarded.requests}
    assert sent == {"none", "Bearer"}


@pytest.mark.parametrize("valid", [True, False], ids=["valid", "revoked"])
async def test_token_is_got_with_a_refresh_token(
    guarded: FaultProxy,
    tokens: TokenServer,
    client_for: Callable[..., RegistryClient],
    image: Image,
    valid: bool,
) -> None:
    if valid:
        tokens.refresh_tokens["r3fresh"] = USER
    credential = Credential(identity_token="r3fresh")
    async with client_for(guarded.host, credentials=give(credential)) as client:
        if valid:
            await pull(client, reference_at(guarded), image)
        else:
            with pytest.raises(RegistryAuthRequired, match="does not accept the credential"):
                await client.head_digest(reference_at(guarded))
    (request,) = tokens.requests
    assert request["method"] == "POST"
    assert "r3fresh" not in str(request["query"])


async def test_token_out_of_date_is_renewed(
    guarded: FaultProxy, tokens: TokenServer, client_for: Callable[..., RegistryClient], image: Image
) -> None:
    async with client_for(guarded.host) as client:
        await client.head_digest(reference_at(guarded))
        guarded.inject(Fault(401), path="/blobs/")  # no challenge: nothing to renew the token with
        challenge = f'Bearer realm="{tokens.realm}",service="bootcd-test-registry"'
        with pytest.raises(RegistryAuthRequired):
            await read_blob(client, reference_at(guarded), image.layers[0])
        guarded.inject(Fault(401, headers={"WWW-Authenticate": challenge}), path="/blobs/")
        layer = image.layers[0]
        assert await read_blob(client, reference_at(guarded), layer) == layer.blob
    assert len(tokens.requests) == 2


async def test_token_that_ends_during_a_blob_is_renewed_and_the_blob_resumed(
    guarded: FaultProxy, tokens: TokenServer, client_for: Callable[..., RegistryClient], image: Image
) -> None:
    layer = image.layers[0]
    challenge = f'Bearer realm="{tokens.realm}",service="x",scope="repository:{REPOSITORY}:pull"'
    async with client_for(guarded.host) as client:
        await client.head_digest(reference_at(guarded))
        guarded.inject(
            Fault(cut_after=2_000_000), Fault(401, headers={"WWW-Authenticate": challenge}), path="/blobs/"
        )
        assert await read_blob(client, reference_at(guarded), layer) == layer.blob
    blobs = guarded.seen("/blobs/")
    assert [seen.status for seen in blobs] == [200, 401, 206]
    assert blobs[1].headers["Range"] == blobs[2].headers["Range"]
    assert blobs[1].headers["Authorization"] != blobs[2].headers["Authorization"]


async def test_token_the_registry_refuses_is_an_auth_error_after_one_renewal(
    guarded: FaultProxy, tokens: TokenServer, client_for: Callable[..., RegistryClient]
) -> None:
    tokens.expired = 100
    async with client_for(guarded.host) as client:
        with pytest.raises(RegistryAuthRequired):
            await client.head_digest(reference_at(guarded))
    assert [seen.status for seen in guarded.requests] == [401, 401]


async def test_token_without_the_right_is_an_auth_error(
    guarded: FaultProxy, tokens: TokenServer, client_for: Callable[..., RegistryClient]
) -> None:
    tokens.accounts[USER] = PASSWORD  # who does not log in gets a token that allows nothing
    async with client_for(guarded.host) as client:
        with pytest.raises(RegistryAuthRequired):
            await client.head_digest(reference_at(guarded))
    assert len(guarded.requests) == 2


async def test_token_short_lived_is_not_used_after_its_end(
    guarded: FaultProxy, tokens: TokenServer, client_for: Callable[..., RegistryClient]
) -> None:
    tokens.lifetime = 1
    now = 0.0
    async with client_for(guarded.host, monotonic=lambda: now) as client:
        await client.head_digest(reference_at(guarded))
        now = 0.5
        await client.head_digest(reference_at(guarded))
        now = 1.0
        await client.head_digest(reference_at(guarded))
    assert [seen.status for seen in guarded.requests] == [401, 200, 200, 401, 200]
    assert "Authorization" not in guarded.requests[3].headers


def web_page() -> web.Response:
    return web.Response(text="<html>Log in</html>", content_type="text/html")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param(lambda: web.Response(status=401), RegistryAuthRequired, id="401"),
        pytest.param(lambda: web.Response(status=403), RegistryDenied, id="403"),
        pytest.param(lambda: web.Response(status=503), RegistryUnavailable, id="503"),
        pytest.param(lambda: web.Response(status=404), RegistryProtocolError, id="404"),
        pytest.param(web_page, RegistryProtocolError, id="web-page"),
        pytest.param(lambda: web.json_response([]), RegistryProtocolError, id="list"),
        pytest.param(lambda: web.json_response({"token": ""}), RegistryProtocolError, id="empty"),
        pytest.param(lambda: web.json_response({"token": 5}), RegistryProtocolError, id="number"),
        pytest.param(lambda: web.json_response({"token": "a\r\nX: y"}), RegistryProtocolError, id="newline"),
        pytest.param(lambda: web.json_response({"token": "x" * 2_000_000}), RegistryProtocolError, id="huge"),
    ],
)
async def test_token_service_failing_has_its_own_error(
    guarded: FaultProxy,
    tokens: TokenServer,
    client_for: Callable[..., RegistryClient],
    answer: Callable[[], web.Response],
    kind: type[BootcdError],
) -> None:
    tokens.faults = [answer() for _ in range(RETRIES + 1)]
    async with client_for(guarded.host, credentials=login(USER, PASSWORD)) as client:
        with pytest.raises(kind) as caught:
            await client.head_digest(reference_at(guarded))
    assert type(caught.value) is kind
    assert caught.value.fields["registry"] == guarded.host
    assert PASSWORD not in repr(caught.value.info())


async def test_token_service_down_for_a_moment_is_asked_again(
    guarded: FaultProxy, tokens: TokenServer, client_for: Callable[..., RegistryClient], image: Image
) -> None:
    tokens.faults = [web.Response(status=503)]
    async with client_for(guarded.host) as client:
        assert await client.head_digest(reference_at(guarded)) == image.digest
    assert len(tokens.requests) == 2
