"""How a registry asks for authentication, and the token it is answered with.

WWW-Authenticate of RFC 9110, section 11.6.1, and the token protocol built on it:
https://distribution.github.io/distribution/spec/auth/token/. What a registry sends here decides where
credentials go, so all of it is bounded and checked. Errors do not repeat what the server said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import parse_qsl, urlsplit

from bootcd.model.errors import RegistryProtocolError
from bootcd.oci.strictjson import parse_object
from bootcd.oci.timestamp import parse_timestamp

MAX_HEADER_CHARS = 16 << 10
MAX_CHALLENGES = 16
MAX_PARAMETERS = 32
MAX_TOKEN_RESPONSE_BYTES = 256 << 10
"Tokens that list every permission of a user run to tens of kilobytes."

DEFAULT_LIFETIME_SECS = 60
"Of a token whose response does not say, by the protocol."
MAX_LIFETIME_SECS = 24 * 3600
_MAX_REALM_CHARS = 2048

_SEPARATORS = re.compile(r"[ \t,]*")
_SCHEME = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)(?: +|(?=[ \t]*(?:,|\Z)))")
_TOKEN68 = re.compile(r"([A-Za-z0-9\-._~+/]+=*)(?=[ \t]*(?:,|\Z))")
# auth-param; a value without quotes may hold more than RFC 9110 allows, as URLs are sent so.
_PARAMETER = re.compile(
    r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]*=[ \t]*"
    r"(?:\"((?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\U0010ffff]|\\[\t \x21-\x7e\x80-\U0010ffff])*)\""
    r"|([\x21\x23-\x2b\x2d-\x7e]+))(?=[ \t]*(?:,|\Z))"
)
_QUOTED_PAIR = re.compile(r"\\(.)")
_REALM = re.compile(r"[\x21\x24-\x5b\x5d\x5f\x61-\x7a\x7e]+")
_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate. Scheme and names of parameters are in lower case."""

    scheme: str
    params: dict[str, str] = field(default_factory=dict)
    token68: str = ""


@dataclass(frozen=True, slots=True)
class BearerToken:
    value: str = field(repr=False)
    expires_in_secs: int = DEFAULT_LIFETIME_SECS
    issued_at: datetime | None = None


def parse_challenges(header: str) -> list[Challenge]:
    """Parse one WWW-Authenticate header into its challenges, in their order.

    Raises RegistryProtocolError.
    """
    if len(header) > MAX_HEADER_CHARS:
        raise RegistryProtocolError("registry asks for authentication in a header that is too long")
    challenges: list[Challenge] = []
    position = _skip_separators(header, 0)
    while position < len(header):
        scheme = _SCHEME.match(header, position)
        if scheme is None or len(challenges) == MAX_CHALLENGES:
            raise _malformed()
        position = scheme.end()
        params: dict[str, str] = {}
        token68 = _TOKEN68.match(header, position)
        if token68 is not None and scheme[0] != scheme[1]:
            position = _skip_separators(header, token68.end())
        else:
            token68 = None
            end = position
            position = _skip_separators(header, end)
            while (parameter := _PARAMETER.match(header, position)) is not None:
                name, quoted, plain = parameter.groups()
                if name.lower() in params or len(params) == MAX_PARAMETERS:
                    raise _malformed()
                params[name.lower()] = plain if quoted is None else _QUOTED_PAIR.sub(r"\1", quoted)
                position = _skip_separators(header, parameter.end())
            if not params and position < len(header) and "," not in header[end:position]:
                raise _malformed()
        challenges.append(Challenge(scheme[1].lower(), params, token68[1] if token68 else ""))
    return challenges


def token_request(
    challenge: Challenge, repository: str, *, allow_http: bool = False
) -> tuple[str, list[tuple[str, str]]]:
    """Return URL and query of the request for the token a Bearer challenge asks for.

    The scope is the one asked for, else that of pulling from the repository. `allow_http` is for
    registries configured to be spoken to without TLS. Raises RegistryProtocolError.
    """
    realm = challenge.params.get("realm", "")
    if challenge.scheme != "bearer":
        raise RegistryProtocolError("registry does not ask for a token")
    if len(realm) > _MAX_REALM_CHARS or not _REALM.fullmatch(realm):
        raise _bad_realm()
    try:
        url = urlsplit(realm)
        _ = url.port
    except ValueError:
        raise _bad_realm() from None
    if url.scheme not in ("https", "http") or not url.hostname or "@" in url.netloc:
        raise _bad_realm()
    if url.scheme == "http" and not allow_http:
        raise RegistryProtocolError(
            "registry sends to a token server without TLS",
            hint="configure the registry as insecure if this is meant to be",
        )
    query = parse_qsl(url.query, keep_blank_values=True)
    if service := challenge.params.get("service"):
        query.append(("service", service))
    query.append(("scope", challenge.params.get("scope") or f"repository:{repository}:pull"))
    return url._replace(query="", fragment="").geturl(), query


def parse_token(data: bytes) -> BearerToken:
    """Parse the answer of a token server; raises RegistryProtocolError."""
    document = parse_object(
        data,
        what="answer of the token server",
        limit_bytes=MAX_TOKEN_RESPONSE_BYTES,
        error=RegistryProtocolError,
    )
    value = document.get("token") or document.get("access_token")
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise RegistryProtocolError("answer of the token server holds no token")
    lifetime = document.get("expires_in")
    if type(lifetime) is not int or lifetime <= 0:
        lifetime = DEFAULT_LIFETIME_SECS
    issued = document.get("issued_at")
    return BearerToken(
        value,
        min(lifetime, MAX_LIFETIME_SECS),
        parse_timestamp(issued if isinstance(issued, str) else None),
    )


def _skip_separators(header: str, position: int) -> int:
    match = _SEPARATORS.match(header, position)
    assert match is not None
    return match.end()


def _malformed() -> RegistryProtocolError:
    return RegistryProtocolError("registry asks for authentication in a malformed header")


def _bad_realm() -> RegistryProtocolError:
    return RegistryProtocolError("registry sends to a token server whose address is no URL")
