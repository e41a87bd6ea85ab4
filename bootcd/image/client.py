"""The library's client of registries, taught what it does not do: to stream, to log in at once, to give up.

Its own way to upload holds a blob in memory, and sends it once without a login before it does with one.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import oras.auth
import oras.provider
import requests
import requests.adapters

from bootcd.ostree.libostree import host_errors

_DEADLINE_SECS = 60
_UPLOADED_DEADLINE_SECS = 900
"For the answer to a blob, which a registry may copy once more before it gives it."
_PIECE_BYTES = 1 << 20


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
        return super().send(request, **options)


class _Tokens(oras.auth.TokenAuth):  # type: ignore[misc]
    """Tokens that are all good to write with: of threads that share one none gets less than it needs."""

    _tls_verify = True

    def __init__(self, session: requests.Session, repository: str) -> None:
        super().__init__()
        self.session = session
        self.repository = repository

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
        self.auth: oras.auth.base.AuthBackend = _Tokens(self.session, repository)
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

    def do_request(self, *arguments: Any, **options: Any) -> requests.Response:
        if isinstance(self.auth, oras.auth.BasicAuth):
            # At once: a registry that wants it may hang up on a body it did not ask for.
            options["headers"] = (options.get("headers") or {}) | self.auth.get_auth_header()
        once = oras.provider.Registry.do_request.__wrapped__
        answer: requests.Response = once(self, *arguments, **options)
        if answer.status_code == 401 and getattr(self.auth, "token", None):
            # A token to read is of no use to write: ask for another one.
            self.auth.token = None
            answer = once(self, *arguments, **options)
        return answer
