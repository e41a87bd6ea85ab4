from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from bootcd.model.errors import RegistryUnavailable
from bootcd.oci.reference import ImageReference
from bootcd.registry.client import RegistryClient
from tests.adapter.registry.conftest import REPOSITORY, read_blob
from tests.support.certificate import Certificate
from tests.support.oci_image import Image
from tests.support.registry import Registry

LOGIN = "Basic " + base64.b64encode(b"host:s3cret").decode()


@dataclass
class WebProxy:
    """A forward proxy that wants a login: tunnels CONNECT, passes on requests with a whole URL."""

    heads: list[str] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self.tasks.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            found = re.match(r"(\w+) (?:http://)?([\d.]+):(\d+)", head)
            if LOGIN not in head or not found:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            other_reader, other = await asyncio.open_connection(found[2], int(found[3]))
            if found[1] == "CONNECT":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                other.write(head.encode())
            try:
                await asyncio.gather(self._copy(reader, other), self._copy(other_reader, writer))
            finally:
                other.close()
        finally:
            writer.close()

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
            writer.close()


@pytest.fixture
async def web_proxy(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WebProxy]:
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with WebProxy() as proxy:
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://host:s3cret@{proxy.address}")
        yield proxy


async def test_proxy_with_login_passes_plain_http(
    web_proxy: WebProxy, registry: Registry, client_for: Callable[..., RegistryClient], image: Image
) -> None:
    async with client_for(registry.host) as client:
        assert await client.head_digest(ImageReference(registry.host, REPOSITORY, "44")) == image.digest
    assert web_proxy.heads[0].startswith(f"HEAD http://{registry.host}/v2/")


async def test_proxy_with_login_tunnels_tls(
    web_proxy: WebProxy,
    tmp_path: Path,
    authority: Certificate,
    new_directory: Callable[[str], Path],
    client_for: Callable[..., RegistryClient],
    image: Image,
) -> None:
    layer = image.layers[0]
    async with (
        Registry(
            new_directory("secure"), certificate=authority.issue(tmp_path), authority=authority
        ) as registry,
        client_for(ca_file=str(authority.path)) as client,
    ):
        reference = ImageReference(registry.host, REPOSITORY, "44")
        assert await read_blob(client, reference, layer) == layer.blob
    assert [head.split()[:2] for head in web_proxy.heads] == [["CONNECT", registry.host]]


async def test_proxy_that_refuses_is_unavailable_and_its_login_not_shown(
    web_proxy: WebProxy,
    registry: Registry,
    client_for: Callable[..., RegistryClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("https_proxy", f"http://host:mistaken@{web_proxy.address}")
    async with client_for(retries=0) as client:
        with pytest.raises(RegistryUnavailable, match="proxy") as caught:
            await client.head_digest(ImageReference(registry.host, REPOSITORY, "44"))
    assert "mistaken" not in repr(caught.value.info())
