"""The client that images are sent with: by what it speaks to a registry."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from bootcd.image.client import Client
from bootcd.image.repository import Repository
from bootcd.model.errors import RegistryAuthRequired, RegistryProtocolError
from bootcd.oci.manifest import MAX_MANIFEST_BYTES
from bootcd.oci.reference import parse_reference

DIGEST = f"sha256:{'0' * 64}"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Take the addresses that are asked, and ask nobody."""
    urls: list[str] = []

    def note(client: Client, *_login: str) -> None:
        urls.append(f"{client.prefix}://{client.hostname}")
        if client.prefix == "https":
            with pytest.raises(requests.exceptions.InvalidSchema):
                client.session.get("http://registry.invalid/v2/")

    monkeypatch.setattr(Client, "find_login", note)
    return urls


@pytest.mark.parametrize(("plain_http", "scheme"), [(False, "https"), (True, "http")])
async def test_registry_of_which_no_file_speaks_is_asked_by_tls_unless_plain_http_is_said(
    asked: list[str], plain_http: bool, scheme: str
) -> None:
    reference = parse_reference("registry.invalid/os:latest")
    with await Repository.open(reference, plain_http=plain_http):
        assert asked == [f"{scheme}://registry.invalid"]


class Server:
    """Answers each path as it is told, else with 404, and notes who asked with which login."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[tuple[str, str, str]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path.partition("?")[0]
                server.asked.append((self.command, path, self.headers.get("Authorization", "")))
                status, headers, body = server.answers.get(path, (404, {}, b""))
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = do_PUT = do_POST = answer

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Server]]:
    """A registry that wants a login by Basic, which there is, and somebody else."""
    registry, other = Server(), Server()
    auth = base64.b64encode(b"user:secret").decode()
    (tmp_path / "auth.json").write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    registry.answers["/v2/"] = (401, {"WWW-Authenticate": 'Basic realm="registry"'}, b"")
    yield registry, other
    registry.close()
    other.close()


async def opened(registry: Server) -> Repository:
    return await Repository.open(parse_reference(f"{registry.host}/os:latest"), plain_http=True)


async def test_login_is_not_sent_to_where_a_registry_stores_elsewhere(
    servers: tuple[Server, Server],
) -> None:
    registry, other = servers
    registry.answers["/v2/os/blobs/uploads/"] = (202, {"Location": f"http://{other.host}/put"}, b"")
    other.answers["/put"] = (201, {}, b"")
    with await opened(registry) as repository:
        assert await asyncio.to_thread(repository.put_blob, DIGEST, b"content")
    assert other.asked == [("PUT", "/put", "")]
    assert {login for _, path, login in registry.asked if path != "/v2/"} == {"Basic dXNlcjpzZWNyZXQ="}


async def test_password_is_not_sent_where_somebody_else_wants_it(
    servers: tuple[Server, Server],
) -> None:
    registry, other = servers
    registry.answers["/v2/"] = (401, {"WWW-Authenticate": 'Bearer realm="http://127.0.0.1:1/"'}, b"")
    registry.answers[f"/v2/os/blobs/{DIGEST}"] = (307, {"Location": f"http://{other.host}/blob"}, b"")
    challenge = f'Bearer realm="http://{other.host}/token",service="x"'
    other.answers["/blob"] = (401, {"WWW-Authenticate": challenge}, b"")
    other.answers["/token"] = (200, {}, b'{"token": "any"}')
    with await opened(registry) as repository, pytest.raises(RegistryAuthRequired):
        await asyncio.to_thread(repository.put_blob, DIGEST, b"content")
    assert other.asked == [("HEAD", "/blob", "")]


async def test_login_of_netrc_is_not_taken(
    servers: tuple[Server, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, other = servers
    (tmp_path / "netrc").write_text("default login thief password netrc\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    registry.answers["/v2/os/manifests/latest"] = (307, {"Location": f"http://{other.host}/there"}, b"")
    other.answers["/there"] = (200, {}, b"{}")
    with await opened(registry) as repository:
        assert (await asyncio.to_thread(repository.get_manifest, "latest", "*/*")).content == b"{}"
    assert [login for *_, login in registry.asked] == ["", "Basic dXNlcjpzZWNyZXQ="]
    assert other.asked == [("GET", "/there", "")]


async def test_answer_without_end_is_not_read_to_its_end(
    servers: tuple[Server, Server],
) -> None:
    registry, _ = servers
    registry.answers["/v2/os/manifests/latest"] = (200, {}, bytes(MAX_MANIFEST_BYTES + 1))
    refused = pytest.raises(RegistryProtocolError, match="answered with more than")
    with await opened(registry) as repository, refused:
        await asyncio.to_thread(repository.get_manifest, "latest", "*/*")
