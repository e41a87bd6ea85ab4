"""Registry credentials as containers-auth.json(5) keeps them.

An entry is for a registry or for a namespace or repository below it; the longest one that fits counts.
Files docker wrote are understood too: their keys are URLs such as `https://index.docker.io/v1/`, of
which only the host says something. Nothing here shows a secret in its repr or in an error.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Any

from bootcd.model.errors import InvalidConfig
from bootcd.oci.reference import DOCKER_HUB
from bootcd.oci.strictjson import parse_object

MAX_AUTHFILE_BYTES = 1 << 20
MAX_HELPER_BYTES = 64 << 10
"Of what a credential helper prints."

_DOCKER_HUB_HOSTS = (DOCKER_HUB, "index.docker.io", "registry-1.docker.io")
# The helper's name becomes part of a program's: docker-credential-<name>.
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Credential:
    """User and password, or in their place an OAuth2 refresh token."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class AuthFile:
    """One file's entries; a broken entry matters only to the registry it is for."""

    where: str
    _entries: dict[str, dict[str, Any]] = field(repr=False)
    "By `host[:port][/path]`."
    _helpers: dict[str, str]
    _default_helper: str = ""

    def lookup(self, registry: str, repository: str) -> Credential | None:
        """Return the credential of the longest entry that fits; None: ask without one.

        An empty entry hides shorter ones. Raises InvalidConfig if the entry cannot be decoded.
        """
        host = _normal_host(registry)
        path = repository
        while path:
            if (entry := self._entries.get(f"{host}/{path}")) is not None:
                return self._decode(f"{host}/{path}", entry)
            path = path.rpartition("/")[0]
        if (entry := self._entries.get(host)) is not None:
            return self._decode(host, entry)
        return None

    def helper_for(self, registry: str) -> str | None:
        """Return the name of the credential helper to ask before `lookup`, if one is configured."""
        return self._helpers.get(_normal_host(registry), self._default_helper) or None

    def is_helped(self, registry: str) -> bool:
        """Whether the helper is this registry's own: then the file's entries for it do not count."""
        return bool(self._helpers.get(_normal_host(registry)))

    def _decode(self, key: str, entry: dict[str, Any]) -> Credential | None:
        auth = entry.get("auth") or ""
        token = entry.get("identitytoken") or ""
        if not isinstance(auth, str) or not isinstance(token, str):
            raise self._broken(key)
        if not auth:
            return Credential(identity_token=token) if token else None
        try:
            username, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            raise self._broken(key) from None
        if not colon or not username:
            raise self._broken(key)
        # Docker pads short passwords with NUL bytes.
        return Credential(username, password.rstrip("\0"), token)

    def _broken(self, key: str) -> InvalidConfig:
        return InvalidConfig(
            f"credential of {key} in {self.where} cannot be decoded",
            hint="an entry holds auth, the base64 form of user:password",
            path=self.where,
        )


def parse_authfile(data: bytes, where: str) -> AuthFile:
    """Parse an auth file; `where` names it in errors. Raises InvalidConfig."""
    document = parse_object(data, what=where, limit_bytes=MAX_AUTHFILE_BYTES, error=InvalidConfig)
    entries: dict[str, dict[str, Any]] = {}
    # A key in the present form counts before one in docker's old form for the same host.
    for key, entry in sorted(_member(document, "auths", where).items(), key=lambda item: "://" in item[0]):
        if not isinstance(entry, dict):
            raise _malformed("auths", where)
        entries.setdefault(_normal_key(key), entry)
    helpers: dict[str, str] = {}
    for key, helper in _member(document, "credHelpers", where).items():
        helpers[_normal_key(key)] = _helper_name(helper, "credHelpers", where)
    default = document.get("credsStore") or ""
    return AuthFile(where, entries, helpers, _helper_name(default, "credsStore", where) if default else "")


def parse_helper_answer(data: bytes) -> Credential | None:
    """Parse what a credential helper prints; None if it is no credential. A user `<token>` marks a token."""
    try:
        document = parse_object(data, what="answer", limit_bytes=MAX_HELPER_BYTES, error=InvalidConfig)
    except InvalidConfig:
        return None
    user, secret = document.get("Username"), document.get("Secret")
    if not isinstance(user, str) or not isinstance(secret, str) or not user or not secret:
        return None
    return Credential(identity_token=secret) if user == "<token>" else Credential(user, secret)


def says_not_found(data: bytes) -> bool:
    """Whether a helper that failed prints the words for having no credential of a registry."""
    return data.strip() == b"credentials not found in native keychain"


def _member(document: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    value = document.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _malformed(name, where)
    return value


def _helper_name(helper: object, member: str, where: str) -> str:
    if not isinstance(helper, str) or (helper and not _HELPER.fullmatch(helper)):
        raise _malformed(member, where)
    return helper


def _malformed(member: str, where: str) -> InvalidConfig:
    return InvalidConfig(f"{member} in {where} is malformed", hint="see containers-auth.json(5)", path=where)


def _normal_key(key: str) -> str:
    scheme, separator, rest = key.partition("://")
    if separator and scheme in ("http", "https"):
        return _normal_host(rest.partition("/")[0])
    host, slash, path = key.partition("/")
    return _normal_host(host) + slash + path.rstrip("/") if path.rstrip("/") else _normal_host(host)


def _normal_host(host: str) -> str:
    host = host.lower()
    return DOCKER_HUB if host in _DOCKER_HUB_HOSTS else host
