"""The Varlink front end of the service: listens at a local socket and answers, few callers per user.

https://varlink.org/Service
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from pathlib import Path
from typing import Any

from bootcd.agent.authorisation import Authorise, NotAuthorised
from bootcd.agent.interface import UpdateService, unexpected
from bootcd.host.peers import Peer, peer_of
from bootcd.host.sockets import listen_unix
from bootcd.model.errors import BootcdError
from bootcd.varlink import wire
from bootcd.varlink.connection import Connection
from bootcd.varlink.description import (
    INTERFACE,
    SERVICE_DESCRIPTION,
    SERVICE_INTERFACE,
    description,
    methods,
)
from bootcd.varlink.methods import Methods, Replies, Reply, Request
from bootcd.varlink.verbs import InvalidParameter, checked

log = logging.getLogger(__name__)

SOCKET_NAME = "io.bootcd"
CONNECTIONS_PER_USER = 16
CONNECTIONS = 128


class _Failure(Exception):
    """An error reply: `name` in full."""

    def __init__(self, name: str, **parameters: Any) -> None:
        super().__init__(name)
        self.name = name
        self.parameters = parameters


class Frontend:
    def __init__(self, service: UpdateService, path: Path, authorise: Authorise, version: str) -> None:
        self._path = path
        self._version = version
        self._handlers = Methods(service, authorise).handlers()
        self._parameters = methods()
        self._peers: dict[Connection, Peer] = {}
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to listen. Raises BackendFailed."""
        sock = await asyncio.to_thread(listen_unix, self._path, mode=0o666)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: Connection(self._serve, self._opened, self._closed), sock=sock
        )

    async def stop(self) -> None:
        """Hang up; jobs go on."""
        if self._server is not None:
            self._server.close()
        for connection in [*self._peers]:
            await connection.stop()
        await asyncio.to_thread(self._path.unlink, missing_ok=True)

    def _opened(self, connection: Connection) -> bool:
        try:
            peer = peer_of(connection.transport.get_extra_info("socket"))
        except OSError as error:
            log.debug("a caller that the kernel does not name: %s", error.strerror)
            return False
        users = Counter(known.uid for known in self._peers.values())
        if len(self._peers) >= CONNECTIONS or users[peer.uid] >= CONNECTIONS_PER_USER:
            log.debug("too many connections, those of user %d among them", peer.uid)
            peer.close()
            return False
        self._peers[connection] = peer
        return True

    def _closed(self, connection: Connection) -> None:
        peer = self._peers.pop(connection, None)
        if peer is not None:
            peer.close()

    async def _serve(self, connection: Connection, message: bytes) -> bool:
        try:
            call = wire.parse_call(message)
        except ValueError as error:
            log.debug("a message that is no call: %s", error)
            return False
        try:
            replies = self._replies(call, self._peers[connection])
            try:
                async for reply in replies:
                    if not call.oneway:
                        await connection.send(_encoded(reply))
            finally:
                await replies.aclose()
        except ConnectionAbortedError:
            return False
        except Exception as error:
            answer = wire.encode_error(*_explained(error, call))
            try:
                if not call.oneway:
                    await connection.send(answer)
            except ConnectionAbortedError:
                return False
        return True

    def _replies(self, call: wire.Call, peer: Peer) -> Any:
        if call.upgrade:
            raise _Failure(
                "org.varlink.service.MethodNotImplemented", method=f"{call.interface}.{call.method}"
            )
        if call.interface == SERVICE_INTERFACE:
            return self._introspect(call)
        if call.interface != INTERFACE:
            raise _Failure("org.varlink.service.InterfaceNotFound", interface=call.interface)
        if call.method not in self._handlers:
            raise _Failure("org.varlink.service.MethodNotFound", method=f"{INTERFACE}.{call.method}")
        values = checked(call.parameters, self._parameters[call.method])
        return self._handlers[call.method](Request(peer, values, call.more and not call.oneway))

    async def _introspect(self, call: wire.Call) -> Replies:
        match call.method:
            case "GetInfo":
                checked(call.parameters, {})
                yield Reply(
                    {
                        "vendor": "bootcd",
                        "product": "bootcd",
                        "version": self._version,
                        "url": "",
                        "interfaces": [SERVICE_INTERFACE, INTERFACE],
                    }
                )
            case "GetInterfaceDescription":
                name = checked(call.parameters, {"interface": "string"})["interface"]
                texts = {SERVICE_INTERFACE: SERVICE_DESCRIPTION, INTERFACE: description()}
                if name not in texts:
                    raise _Failure("org.varlink.service.InterfaceNotFound", interface=name)
                yield Reply({"description": texts[name]})
            case _:
                name = f"{SERVICE_INTERFACE}.{call.method}"
                raise _Failure("org.varlink.service.MethodNotFound", method=name)


def _encoded(reply: Reply) -> bytes:
    if reply.document:
        return wire.encode_document("document", reply.document)
    return wire.encode_reply(reply.parameters, continues=reply.continues)


def _explained(error: Exception, call: wire.Call) -> tuple[str, dict[str, Any]]:
    """Return name and parameters of the error reply."""
    match error:
        case _Failure():
            return error.name, error.parameters
        case InvalidParameter():
            return "org.varlink.service.InvalidParameter", {"parameter": error.name}
        case NotAuthorised():
            message, _, hint = error.text.partition("\n")
            return f"{INTERFACE}.{error.name}", {"message": message, "hint": hint, "details": {}}
        case BootcdError():
            info = error.info()
            facts = {"message": info.message, "hint": info.hint, "details": dict(info.fields)}
            return f"{INTERFACE}.{info.name}", facts
        case _:
            text = unexpected(error, f"{call.interface}.{call.method}")
            return f"{INTERFACE}.Failed", {"message": text, "hint": "", "details": {}}
