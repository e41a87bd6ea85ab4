"""Answers to a registry's demand for a login: basic credentials, and tokens of its token server.

Nothing is sent before a registry asks for it. A token is kept for its repository until it ends, and
downloads that find it refused at the same time get one new token together.
https://distribution.github.io/distribution/spec/auth/token/ and, for refresh tokens, .../auth/oauth/
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from urllib.parse import urlencode

from yarl import URL

from bootcd.oci.authfile import Credential
from bootcd.oci.challenge import (
    MAX_TOKEN_RESPONSE_BYTES,
    Challenge,
    parse_challenges,
    parse_token,
    token_request,
)
from bootcd.oci.reference import ImageReference
from bootcd.registry.credentials import Credentials
from bootcd.registry.failures import Target
from bootcd.registry.transport import Transport, basic_authorization

_CLIENT_ID = "bootcd"
_USABLE_PART = 0.9
"Of a token's life; the rest is for the request to arrive in time."
_MAX_HEADERS = 8
# What a token server may mean with a status as much as a registry; others say it is none.
_TELLING = frozenset({401, 403, 429})


class Authorizer:
    """The Authorization headers of one client, by repository."""

    def __init__(
        self,
        transport: Transport,
        credentials: Credentials,
        insecure: Collection[str],
        monotonic: Callable[[], float],
    ) -> None:
        self._transport = transport
        self._credentials = credentials
        self._insecure = insecure
        self._monotonic = monotonic
        self._known: dict[tuple[str, str], tuple[str, float]] = {}
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}
        self._logged_in: set[tuple[str, str]] = set()

    def known(self, reference: ImageReference) -> str:
        """Return the header that was good for the repository before, or an empty text."""
        header, until = self._known.get(_key(reference), ("", 0.0))
        return header if header and self._monotonic() < until else ""

    def logged_in(self, reference: ImageReference) -> bool:
        """Whether a credential stands behind the header, rather than a token anybody gets."""
        return _key(reference) in self._logged_in

    async def renew(self, target: Target, headers: Sequence[str], *, refused: str) -> str:
        """Return a header that answers the WWW-Authenticate `headers`, other than the one just `refused`.

        Raises RegistryAuthRequired if there is none, and what a failing token server stands for.
        """
        key = _key(target.reference)
        async with self._locks.setdefault(key, asyncio.Lock()):
            current = self.known(target.reference)
            if current and current != refused:
                return current
            with target.naming():
                offered = [
                    challenge for header in headers[:_MAX_HEADERS] for challenge in parse_challenges(header)
                ]
            credential = await self._credentials(*key)
            lifetime = float("inf")
            bearer = next((challenge for challenge in offered if challenge.scheme == "bearer"), None)
            if bearer:
                header, lifetime = await self._token(target, bearer, credential)
            elif credential and credential.username and any(one.scheme == "basic" for one in offered):
                header = basic_authorization(credential.username, credential.password)
            else:
                raise target.auth_required(refused=False)
            if header == refused:
                raise target.auth_required(refused=credential is not None)
            if credential:
                self._logged_in.add(key)
            self._known[key] = (header, self._monotonic() + lifetime * _USABLE_PART)
            return header

    async def _token(
        self, target: Target, challenge: Challenge, credential: Credential | None
    ) -> tuple[str, float]:
        """Ask the token server; return a header and the seconds it is good for."""
        reference = target.reference
        with target.naming():
            address, query = token_request(
                challenge,
                reference.repository,
                allow_http=target.insecure or reference.registry in self._insecure,
            )
        url = URL(address)
        method, headers, authorization, data, secret = "GET", {}, "", None, ""
        if credential and credential.identity_token:
            method = "POST"
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            form = [
                ("grant_type", "refresh_token"),
                ("refresh_token", credential.identity_token),
                ("client_id", _CLIENT_ID),
            ]
            data = urlencode(query + form).encode()
            secret = credential.identity_token
        else:
            url = url.with_query(query)
            if credential:
                authorization = basic_authorization(credential.username, credential.password)
        server = replace(target, host=url.authority)
        async with self._transport.request(
            method, url, server, headers=headers, authorization=authorization, data=data, secret=secret
        ) as answer:
            if answer.status in _TELLING or answer.status >= 500:
                raise await answer.failure(logged_in=credential is not None)
            if answer.status != 200:
                raise answer.target.protocol_error(f"answered {answer.status} when asked for a token")
            body = await answer.read(MAX_TOKEN_RESPONSE_BYTES)
        with server.naming():
            token = parse_token(body)
        return f"Bearer {token.value}", float(token.expires_in_secs)


def _key(reference: ImageReference) -> tuple[str, str]:
    return reference.registry, reference.repository
