"""docker-registry on a free port of loopback, with storage that goes away with it.

    async with Registry(tmp_path) as registry:
        await registry.push("os/base", "latest", make_image([...]))

The registry binds port 0 itself and says where it listens, so there is no port to race for and
nothing to poll. Configuration: https://distribution.github.io/distribution/about/configuration/
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import ssl
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from yarl import URL

from tests.support.certificate import Certificate
from tests.support.oci_image import Image, Index
from tests.support.token_server import ISSUER, SERVICE, TokenServer

USER, PASSWORD = "puller", "correct horse"
# bcrypt of PASSWORD, the only hash docker-registry accepts; cost 4 keeps a request cheap.
_HTPASSWD = "$2y$04$HfSklCaxggWuhHvhBh9SmO6HwrlclCONl87C089HJU1y.fMndeVT."
_LISTENING = re.compile(r'listening on [^ "]*:(\d+)')
_SENT = re.compile(r"http\.request\.method=GET .*http\.response\.written=(\d+)")
_START_SECONDS = 20


@dataclass
class Registry:
    """A running registry; at most one of `basic_auth` and `tokens`.

    `directory` is a new or empty directory. `certificate` makes it serve HTTPS.
    """

    directory: Path
    certificate: Certificate | None = None
    authority: Certificate | None = None
    "Whom the pushing side trusts, if `certificate` is given."
    basic_auth: bool = False
    tokens: TokenServer | None = None
    upstream: str = ""
    "The URL of a registry it is a pull-through mirror of."
    host: str = ""
    bytes_sent: int = 0
    "Of bodies that were asked for, by its own log; `settled` says when all that was answered is in."

    async def __aenter__(self) -> Self:
        config = self.directory / "config.yml"
        config.write_text(json.dumps(self._config()))  # JSON is YAML
        self._process = await asyncio.create_subprocess_exec(
            *("docker-registry", "serve", str(config)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
        self._log: deque[str] = deque(maxlen=50)
        try:
            async with asyncio.timeout(_START_SECONDS):
                port = await self._listening_port()
        except BaseException:
            await self._stop()
            raise
        self._marks = 0
        self._marked = asyncio.Event()
        self._drain = asyncio.create_task(self._read_log())
        self.host = f"127.0.0.1:{port}"
        context = self.authority.client_context() if self.authority else None
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context or True))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
        await self._stop()
        await self._drain

    @property
    def url(self) -> str:
        return f"{'https' if self.certificate else 'http'}://{self.host}"

    @property
    def client_context(self) -> ssl.SSLContext | None:
        return self.authority.client_context() if self.authority else None

    async def push(self, repository: str, tag: str, image: Image | Index) -> str:
        """Upload `image` with its blobs, tag it unless `tag` is empty, and return its digest."""
        if isinstance(image, Index):
            for part in image.images:
                await self.push(repository, "", part)
        else:
            for digest, blob in image.blobs.items():
                await self.push_blob(repository, digest, blob)
        await self.push_manifest(repository, tag or image.digest, image.manifest, image.media_type)
        return image.digest

    async def push_manifest(self, repository: str, reference: str, manifest: bytes, media_type: str) -> None:
        """Upload a manifest or index as it is; what it names has to be there."""
        await self._send(
            "PUT",
            f"/v2/{repository}/manifests/{reference}",
            repository=repository,
            data=manifest,
            headers={"Content-Type": media_type},
        )

    async def push_blob(self, repository: str, digest: str, blob: bytes) -> None:
        location = await self._send("POST", f"/v2/{repository}/blobs/uploads/", repository=repository)
        await self._send(
            "PUT",
            str(URL(location, encoded=True).update_query(digest=digest)),
            repository=repository,
            data=blob,
            headers={"Content-Type": "application/octet-stream"},
        )

    async def settled(self) -> int:
        """Return `bytes_sent` once its log has told of all requests before."""
        self._marks += 1
        self._marked.clear()
        before = self.bytes_sent
        async with self._session.get(f"{self.url}/v2/?{self._mark}") as answer:
            size = len(await answer.read())
        async with asyncio.timeout(_START_SECONDS):
            await self._marked.wait()
        self.bytes_sent -= size
        assert self.bytes_sent >= before
        return self.bytes_sent

    @property
    def _mark(self) -> str:
        return f"mark-{self._marks}-"

    async def delete_tag_target(self, repository: str, digest: str) -> None:
        """Delete the manifest `digest`, and with it every tag that points to it."""
        await self._send("DELETE", f"/v2/{repository}/manifests/{digest}", repository=repository)

    def blob_path(self, digest: str) -> Path:
        """Return the file that holds a blob or manifest; what is written there is served unchecked."""
        value = digest.removeprefix("sha256:")
        return self.directory / "storage/docker/registry/v2/blobs/sha256" / value[:2] / value / "data"

    def keeps(self, repository: str, digest: str) -> bool:
        """Whether a repository has a blob; asked of a mirror, that is one it need not ask for any more."""
        return (self._kept(repository) / digest.removeprefix("sha256:") / "link").exists()

    def blobs_kept(self, repository: str) -> int:
        """Return how many blobs a repository has."""
        return len(list(self._kept(repository).glob("*/link")))

    def _kept(self, repository: str) -> Path:
        return self.directory / "storage/docker/registry/v2/repositories" / repository / "_layers/sha256"

    async def _send(
        self, method: str, path: str, *, repository: str, data: bytes | None = None, **options: Any
    ) -> str:
        headers = dict(options.pop("headers", {}))
        if self.tokens:
            access = [{"type": "repository", "name": repository, "actions": ["pull", "push", "delete"]}]
            headers["Authorization"] = "Bearer " + await self.tokens.issue(USER, access)
        elif self.basic_auth:
            login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            headers["Authorization"] = f"Basic {login}"
        url = URL(path if "://" in path else self.url + path, encoded=True)
        async with self._session.request(
            method, url, data=io.BytesIO(data or b""), headers=headers, **options
        ) as answer:
            text = await answer.text()
            assert answer.status < 300, f"{method} {url}: {answer.status} {text}"
            return answer.headers.get("Location", "")

    def _config(self) -> dict[str, Any]:
        # Where to upload to is said without a host, so that a proxy before it is not passed by.
        http: dict[str, Any] = {"addr": "127.0.0.1:0", "secret": "loopback", "relativeurls": True}
        if self.certificate:
            http["tls"] = {"certificate": str(self.certificate.path), "key": str(self.certificate.key)}
        config: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "info", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.directory / "storage")},
                "delete": {"enabled": True},
            },
            "http": http,
        }
        if self.upstream:
            config["proxy"] = {"remoteurl": self.upstream}
        if self.basic_auth:
            passwords = self.directory / "htpasswd"
            passwords.write_text(f"{USER}:{_HTPASSWD}\n")
            config["auth"] = {"htpasswd": {"realm": SERVICE, "path": str(passwords)}}
        if self.tokens:
            config["auth"] = {
                "token": {
                    "realm": self.tokens.realm,
                    "service": SERVICE,
                    "issuer": ISSUER,
                    "rootcertbundle": str(self.tokens.root_certificates),
                }
            }
        return config

    async def _listening_port(self) -> int:
        assert self._process.stderr
        while line := (await self._process.stderr.readline()).decode():
            self._log.append(line)
            if found := _LISTENING.search(line):
                return int(found[1])
        raise RuntimeError("docker-registry did not start:\n" + "".join(self._log))

    async def _read_log(self) -> None:
        assert self._process.stderr
        while line := (await self._process.stderr.readline()).decode():
            self._log.append(line)
            if found := _SENT.search(line):
                self.bytes_sent += int(found[1])
            if self._mark in line:
                self._marked.set()

    async def _stop(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
