"""A FleetLock server on loopback: a counting semaphore per group, with owners.

Written from https://coreos.github.io/zincati/development/fleetlock/protocol/.
"""

from __future__ import annotations

import json
import re
import socket
from types import TracebackType
from typing import Self

from aiohttp import web


class FleetLockServer:
    """`holders` are the hosts that have a slot, by group; `faults` are answered first."""

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self.holders: dict[str, set[str]] = {}
        self.asked: list[tuple[str, str]] = []
        self.most = 0
        self.faults: list[web.Response] = []
        self.url = ""
        self.port = 0

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_post("/base/v1/{endpoint}", self._answer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.port = port
        self.url = f"http://{host}:{port}/base"
        return self

    async def serve(self, listener: socket.socket) -> None:
        """Serve hosts that come to this socket as well."""
        await web.SockSite(self._runner, listener).start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        if request.headers.get("fleet-lock-protocol") != "true":
            return _error("invalid_header", "no fleet-lock-protocol header")
        parameters = json.loads(await request.read())["client_params"]
        host, group = parameters["id"], parameters["group"]
        if not host or not re.fullmatch(r"[a-zA-Z0-9.-]+", group):
            return _error("invalid_body", "no id or group")
        endpoint = request.match_info["endpoint"]
        self.asked.append((endpoint, host))
        if self.faults:
            return self.faults.pop(0)
        holders = self.holders.setdefault(group, set())
        if endpoint == "steady-state":
            holders.discard(host)
            return web.Response()
        if host not in holders and len(holders) >= self.slots:
            return _error(
                "failed_lock_semaphore_full", "semaphore currently full, all slots are locked already"
            )
        holders.add(host)
        self.most = max(self.most, len(holders))
        return web.Response()


def _error(kind: str, value: str) -> web.Response:
    return web.json_response({"kind": kind, "value": value}, status=409)
