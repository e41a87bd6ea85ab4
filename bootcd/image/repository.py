"""A repository of a registry, to write to: the login, the requests, and what goes wrong, as our errors.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md#push
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode, urljoin, urlsplit

import oras.auth
import requests

from bootcd.image.client import Client, Content
from bootcd.model.errors import (
    BootcdError,
    InvalidArguments,
    NotFound,
    RegistryAuthRequired,
    RegistryDenied,
    RegistryProtocolError,
    RegistryRateLimited,
    RegistryTlsFailed,
    RegistryUnavailable,
)
from bootcd.oci.reference import DOCKER_HUB, ImageReference
from bootcd.registry.certificates import CERTIFICATE_DIRS, Certificates
from bootcd.registry.credentials import load_credentials
from bootcd.registry.failures import error_words

_DOCKER_HUB_HOST = "registry-1.docker.io"
_LOGIN_HINT = "log in with podman login or docker login, or name a file with --authfile"


def auth_files(named: str, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return where a login is looked for: the file named, or those podman and docker write.

    The first that is there counts. Raises InvalidArguments if the one named is not.
    """
    if named:
        if not Path(named).is_file():
            raise InvalidArguments(f"there is no file {named}")
        return (named,)
    if name := environment.get("REGISTRY_AUTH_FILE"):
        return (name,)
    runtime = environment.get("XDG_RUNTIME_DIR") or f"/run/containers/{os.getuid()}"
    home = environment.get("HOME", "")
    config = environment.get("XDG_CONFIG_HOME") or f"{home}/.config"
    docker = environment.get("DOCKER_CONFIG") or f"{home}/.docker"
    # Without a directory of its own podman leaves out the level it shares there.
    first = (
        f"{runtime}/containers/auth.json" if environment.get("XDG_RUNTIME_DIR") else f"{runtime}/auth.json"
    )
    return (first, f"{config}/containers/auth.json", f"{docker}/config.json")


class Repository:
    """The repository of an image. Every method blocks, raises what RegistryError roots, from any thread."""

    def __init__(self, reference: ImageReference, client: Client) -> None:
        self.reference = reference
        self._client = client
        self._base = f"{client.prefix}://{client.hostname}/v2/{reference.repository}"

    @classmethod
    async def open(
        cls, reference: ImageReference, *, authfile: str = "", plain_http: bool = False, ca_file: str = ""
    ) -> Repository:
        """Find out how to log in. Raises InvalidConfig for files that cannot be used, and RegistryError."""
        login = load_credentials(auth_files(authfile))
        credential = await login(reference.registry, reference.repository)
        if credential and credential.identity_token:
            raise RegistryAuthRequired(
                f"the login to registry {reference.registry} is an identity token, which does not do here",
                hint="log in with a user and a password, or a token in its place",
            )
        # What the library logs are parts of what is raised here.
        logging.getLogger("oras").setLevel(logging.CRITICAL)
        host = _DOCKER_HUB_HOST if reference.registry == DOCKER_HUB else reference.registry

        def connect() -> Repository:
            context = None
            if not plain_http:
                directories = [Path("/") / name for name in CERTIFICATE_DIRS]
                context = Certificates(ca_file, directories).context(reference.registry, known=True)
            client = Client(host, reference.repository, context, plain_http=plain_http)
            repository = cls(reference, client)
            try:
                with repository._failures():
                    client.find_login(*(credential.username, credential.password) if credential else ("", ""))
                if client.lacks_login:
                    raise RegistryAuthRequired(
                        f"registry {reference.registry} wants a login", hint=_LOGIN_HINT
                    )
            except BaseException:
                repository.close()
                raise
            return repository

        return await asyncio.to_thread(connect)

    def close(self) -> None:
        self._client.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get_manifest(self, name: str, accept: str) -> requests.Response:
        return self._ask("GET", f"/manifests/{name}", name, headers={"Accept": accept})

    def put_manifest(self, name: str, document: bytes, media_type: str) -> requests.Response:
        headers = {"Content-Type": media_type}
        return self._ask("PUT", f"/manifests/{name}", name, data=document, headers=headers)

    def require_writable(self) -> None:
        """Raise what an upload would raise for want of a right."""
        # Nothing is sent there. To say so takes the right to delete.
        self._begin("")

    def put_blob(self, digest: str, content: Content | bytes, *, mount_from: str = "") -> bool:
        """Send a blob unless it is there; tell whether it was sent.

        Args:
            mount_from: a repository of the registry that may have it, which it is then taken from.
        """
        with self._failures():
            if self._client.do_request(f"{self._base}/blobs/{digest}", "HEAD").status_code == 200:
                return False
        place = self._begin(digest, mount_from)
        if not place:
            return False
        place += ("&" if urlsplit(place).query else "?") + urlencode({"digest": digest})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(content))}
        self._ask("PUT", place, f"blob {digest}", data=content, headers=headers)
        return True

    def _begin(self, digest: str, mount_from: str = "") -> str:
        """Return where to send a blob; empty if the registry has taken it from another repository."""
        what = f"blob {digest}" if digest else "a blob"
        if mount_from:
            query = urlencode({"mount": digest, "from": mount_from})
            try:
                answer = self._ask("POST", f"/blobs/uploads/?{query}", what)
            except (RegistryAuthRequired, RegistryDenied, NotFound, RegistryProtocolError):
                # Who may not read there sends it.
                return self._begin(digest)
            if answer.status_code == 201:
                return ""
        else:
            answer = self._ask("POST", "/blobs/uploads/", what)
        place = urljoin(answer.url, answer.headers.get("Location", ""))
        if not answer.headers.get("Location") or urlsplit(place).scheme not in ("https", self._client.prefix):
            raise RegistryProtocolError(
                f"registry {self.reference.registry} does not say where to send {what} of {self.reference}"
            )
        return place

    def _ask(self, method: str, place: str, what: str, **arguments: Any) -> requests.Response:
        url = f"{self._base}{place}" if place.startswith("/") else place
        with self._failures():
            answer = self._client.do_request(url, method, **arguments)
        status = answer.status_code
        if status in (200, 201, 202):
            return answer
        errors: dict[int, type[BootcdError]] = {
            401: RegistryAuthRequired,
            403: RegistryDenied,
            404: NotFound,
            429: RegistryRateLimited,
        }
        kind = errors.get(status, RegistryUnavailable if status >= 500 else RegistryProtocolError)
        words = error_words(answer.content, str(answer.request.headers.get("Authorization", "")))
        raise kind(
            f"registry {self.reference.registry} answered {status} for {what} of {self.reference}{words}",
            hint=_LOGIN_HINT if status in (401, 403) else "",
        )

    @contextmanager
    def _failures(self) -> Iterator[None]:
        registry = self.reference.registry
        try:
            yield
        except requests.exceptions.SSLError as error:
            raise RegistryTlsFailed(
                f"registry {registry} does not speak TLS as expected",
                hint="name its issuer's certificate with --ca-file, or say --plain-http",
            ) from error
        except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
            raise RegistryUnavailable(
                f"registry {registry} cannot be reached", hint="check the network and the name"
            ) from error
        except (
            *(requests.exceptions.RequestException, oras.auth.AuthenticationException),
            *(ValueError, AttributeError),
        ) as error:
            # The library's words for a login that is missing or refused, or wanted in a way it does not know.
            raise RegistryAuthRequired(
                f"registry {registry} does not let {self.reference.name} be written", hint=_LOGIN_HINT
            ) from error
