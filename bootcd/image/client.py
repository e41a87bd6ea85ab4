"""The library's client of registries, taught what it does not do: to stream, to log in at once, to give up.

Its own way to upload holds a blob in memory, and sends it once without a login before it does with one. It
would hand a login to whoever a registry sends it on to, and read an answer of any size into memory.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import oras.auth
import oras.provider
import requests
import requests.adapters

from bootcd.model.errors import RegistryProtocolError
from bootcd.oci.manifest import MAX_MANIFEST_BYTES
from bootcd.ostree.libostree import host_errors

_DEADLINE_SECS = 60
_UPLOADED_DEADLINE_SECS = 900
"For the answer to a blob, which a registry may copy once more before it gives it."
_PIECE_BYTES = 1 << 20
_PORTS = {"http": 80, "https": 443}


class Content:
    """A file that is sent; a request that has to be made again begins again."""

    def __init__(self, path: Path, size: int, tell: Callable[[int], object] = lambda _: None) -> None:
        """`tell` gets the bytes of each piece before it is sent; what it raises ends the request."""
        self._path = path
        self._size = size
        self._tell = tell

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while piece := self._read(file):
                self._tell(len(piece))
                yield piece

    def _read(self, file: IO[bytes]) -> bytes:
        with host_errors("read what is to be sent", path=str(self._path)):
            return file.read(_PIECE_BYTES)


class _Adapter(requests.adapters.HTTPAdapter):
    """Connections with our certificates; the library has no deadlines."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options, ssl_context=self._context)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
        is_upload = isinstance(request.body, Content)
        options["timeout"] = (_DEADLINE_SECS, _UPLOADED_DEADLINE_SECS if is_upload else _DEADLINE_SECS)
        answer = super().send(request, **options | {"stream": True})
        # Nothing that is asked for here is larger than a manifest.
        content = bytearray()
        for piece in answer.iter_content(_PIECE_BYTES):
            content += piece
            if len(content) > MAX_MANIFEST_BYTES:
                answer.close()
                host = urlsplit(request.url or "").hostname
                raise RegistryProtocolError(f"{host} answered with more than {MAX_MANIFEST_BYTES} bytes")
        answer._content = bytes(content)  # noqa: SLF001  # the library has no other way
        return answer


class _Session(requests.Session):
    """Requests with the login they are given and no other: none of ~/.netrc, none to another host."""

    def __init__(self) -> None:
        super().__init__()
        self.auth = lambda request: request
        # Cookies make some registries believe that they talk to a browser.
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        before, now = response.request.url or "", prepared_request.url or ""
        if _origin(before) != _origin(now):
            prepared_request.headers.pop("Authorization", None)


class _Tokens(oras.auth.TokenAuth):  # type: ignore[misc]
    """Tokens that are all good to write with: of threads that share one none gets less than it needs."""

    _tls_verify = True

    def __init__(self, session: requests.Session, registry: str, repository: str) -> None:
        super().__init__()
        self.session = session
        self.registry = registry
        self.repository = repository

    def authenticate_request(
        self, original: requests.Response, headers: dict[str, str], refresh: bool = False
    ) -> Any:
        if _origin(original.url) != _origin(self.registry):
            # Somebody else, whom the registry has sent us on to, does not say where our password goes.
            return headers, False
        return super().authenticate_request(original, headers, refresh)

    def request_token(self, challenge: Any) -> Any:
        return super().request_token(self._to_write(challenge))

    def request_anonymous_token(self, challenge: Any) -> Any:
        return super().request_anonymous_token(self._to_write(challenge))

    def _to_write(self, challenge: Any) -> Any:
        own = f"repository:{self.repository}:"
        others = [scope for scope in (challenge.scope or "").split() if not scope.startswith(own)]
        challenge.scope = " ".join([*others, f"{own}pull,push"])
        return challenge


class Client(oras.provider.Registry):  # type: ignore[misc]
    """The library's client, without its retries: two minutes for a registry that is not there."""

    def __init__(
        self, host: str, repository: str, context: ssl.SSLContext | None = None, *, plain_http: bool = False
    ) -> None:
        """Without a context the system's authorities are trusted."""
        super().__init__(host, insecure=plain_http)
        self.session = _Session()
        own = f"{self.prefix}://{host}"
        self.auth: oras.auth.base.AuthBackend = _Tokens(self.session, own, repository)
        if plain_http:
            self.session.mount("http://", _Adapter(None))
        else:
            # Nobody is sent there, with a login or without, by a registry that speaks TLS.
            del self.session.adapters["http://"]
        self.session.mount("https://", _Adapter(context or ssl.create_default_context()))

    def find_login(self, user: str, password: str) -> None:
        """Find out which of the library's ways to log in is the registry's."""
        challenge = self.session.get(f"{self.prefix}://{self.hostname}/v2/")
        if challenge.headers.get("WWW-Authenticate", "").lower().startswith("basic"):
            self.auth = oras.auth.get_auth_backend("basic", self.session, self.prefix == "http")
        if user:
            self.auth.set_basic_auth(user, password)

    @property
    def lacks_login(self) -> bool:
        return isinstance(self.auth, oras.auth.BasicAuth) and not getattr(self.auth, "_basic_auth", None)

    def do_request(self, url: str, method: str = "GET", **options: Any) -> requests.Response:
        if _origin(url) != _origin(f"{self.prefix}://{self.hostname}"):
            # What a registry has stored elsewhere is sent there, and the address is all the leave it takes.
            return self.session.request(method, url, **options)
        if isinstance(self.auth, oras.auth.BasicAuth):
            # At once: a registry that wants it may hang up on a body it did not ask for.
            options["headers"] = (options.get("headers") or {}) | self.auth.get_auth_header()
        once = oras.provider.Registry.do_request.__wrapped__
        answer: requests.Response = once(self, url, method, **options)
        if answer.status_code == 401 and getattr(self.auth, "token", None):
            # A token to read is of no use to write: ask for another one.
            self.auth.token = None
            answer = once(self, url, method, **options)
        return answer


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """Return scheme, host and port of an address; raises ValueError for what is none."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
