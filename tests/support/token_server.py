"""The token service of a registry: checks a login and signs what docker-registry verifies.

https://distribution.github.io/distribution/spec/auth/jwt/
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import BasicAuth, web

from tests.support.certificate import Certificate

SERVICE = "bootcd-test-registry"
ISSUER = "bootcd-test-issuer"


@dataclass
class TokenServer:
    """Issues tokens at `realm`. Without `accounts` anybody gets one, with them only who logs in.

    `requests` holds the query and headers of every request. `faults` are answers given in place of a
    token, first come first served; `expired` is how many of the next tokens are long out of date.
    """

    signer: Certificate
    "An authority made by `Certificate.authority`; its key signs the tokens."
    accounts: dict[str, str] = field(default_factory=dict)
    refresh_tokens: dict[str, str] = field(default_factory=dict)
    "Users by refresh token; only these are taken in a POST."
    certificate: Certificate | None = None
    "Serves HTTPS with it; plain HTTP without."
    lifetime: int = 300
    expired: int = 0
    faults: list[web.Response] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    realm: str = ""

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_route("*", "/token", self._answer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        context = self.certificate.server_context() if self.certificate else None
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context).start()
        port = self._runner.addresses[0][1]
        self.realm = f"{'https' if context else 'http'}://127.0.0.1:{port}/token"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    @property
    def root_certificates(self) -> Path:
        """The file a registry needs to verify our tokens."""
        return self.signer.path

    async def issue(self, user: str, access: list[dict[str, Any]]) -> str:
        """Return a signed token that grants `access` to `user`."""
        now = int(time.time())
        if self.expired:
            self.expired -= 1
            now -= 7200
        certificate = "".join(self.signer.path.read_text().splitlines()[1:-1])
        header = {"typ": "JWT", "alg": "RS256", "x5c": [certificate]}
        claims = {
            "iss": ISSUER,
            "sub": user,
            "aud": SERVICE,
            "exp": now + max(self.lifetime, 60),
            "nbf": now - 10,
            "iat": now,
            "jti": str(len(self.requests)),
            "access": access,
        }
        message = f"{_encode(json.dumps(header).encode())}.{_encode(json.dumps(claims).encode())}"
        process = await asyncio.create_subprocess_exec(
            *("openssl", "dgst", "-sha256", "-sign", str(self.signer.key)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        signature, _ = await process.communicate(message.encode())
        return f"{message}.{_encode(signature)}"

    async def _answer(self, request: web.Request) -> web.Response:
        form = dict(await request.post())
        self.requests.append(
            {"method": request.method, "query": dict(request.query), "form": form, "headers": request.headers}
        )
        if self.faults:
            return self.faults.pop(0)
        user, scopes = "", request.query.getall("scope", [])
        if request.method == "POST":
            user, scopes = self.refresh_tokens.get(str(form.get("refresh_token")), ""), [str(form["scope"])]
            if not user or form.get("grant_type") != "refresh_token" or not form.get("client_id"):
                return web.json_response({"error": "invalid_grant"}, status=401)
        elif header := request.headers.get("Authorization"):
            login = BasicAuth.decode(header)
            user = login.login
            if self.accounts.get(user) != login.password:
                return web.json_response({"errors": [{"code": "UNAUTHORIZED"}]}, status=401)
        elif self.accounts:
            return web.json_response({"token": await self.issue("", []), "expires_in": self.lifetime})
        access = []
        for scope in scopes:
            resource, _, actions = scope.rpartition(":")
            kind, _, name = resource.partition(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        member = "access_token" if request.method == "POST" else "token"
        return web.json_response({member: await self.issue(user, access), "expires_in": self.lifetime})


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
