"""The D-Bus front end of the service: owns the name, and keeps it when the bus goes and comes back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from dbus_fast import Message

from bootcd.agent.authorisation import NotAuthorised
from bootcd.agent.interface import UpdateService
from bootcd.bus.connection import Connection
from bootcd.bus.dispatch import Dispatcher
from bootcd.bus.errors import ProtocolError
from bootcd.bus.interfaces import ROOT_PATH
from bootcd.bus.logcontrol import LOG_CONTROL, LOG_PATH
from bootcd.bus.methods import Methods
from bootcd.bus.objects import ObjectTree
from bootcd.bus.progress import ProgressPipes
from bootcd.bus.publisher import Publisher
from bootcd.bus.schema import Interface, Signal
from bootcd.bus.surroundings import SurroundingsWatch
from bootcd.bus.wall import Notices
from bootcd.host.peers import Peer
from bootcd.model.errors import AccessDenied, BackendFailed
from bootcd.update.surroundings import Source, Surroundings

_log = logging.getLogger(__name__)

SERVICE_NAME = "org.bootcd1"
_RETRY_FIRST_SECS = 0.1
_RETRY_LAST_SECS = 10.0


class Frontend:
    """`address` is a D-Bus address; None stands for the system bus."""

    def __init__(self, service: UpdateService, address: str | None = None) -> None:
        self._address = address
        self._service = service
        self._connection: Connection | None = None
        self._dispatcher: Dispatcher | None = None
        self._tree = ObjectTree(ROOT_PATH, self._emit, self._is_congested)
        self._publisher = Publisher(self._tree, self._emit, service.snapshot, service.jobs())
        self._tree.put(LOG_PATH, LOG_CONTROL, None)
        self._unsubscribe = service.subscribe(self._publisher.observe)
        self._progress = ProgressPipes(service)
        self._methods = Methods(service, self._publisher, self._progress)
        self._surroundings = SurroundingsWatch()
        self._notices = Notices()
        self._supervisor: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect and take the name.

        Raises BackendFailed where the bus cannot be reached or refuses, WrongState where another
        instance has the name.
        """
        await self._connect()
        self._supervisor = asyncio.create_task(self._supervise())

    async def lost(self) -> None:
        """Wait for the end: return after `stop`, raise WrongState where another has taken the name."""
        if self._supervisor is not None:
            await asyncio.wait([self._supervisor])
            if not self._supervisor.cancelled():
                self._supervisor.result()

    async def stop(self) -> None:
        """Leave the bus; calls being served get no answer."""
        self._unsubscribe()
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
        await self._disconnect()
        self._progress.close()

    def watch(self, sources: frozenset[Source], seen: Callable[[Surroundings], None]) -> None:
        """Implement `bootcd.agent.interface.Outside` by the services on the bus."""
        self._surroundings.watch(sources, seen)

    async def tell(self, when: datetime | None) -> None:
        """Likewise."""
        if self._connection is not None:
            await self._notices.tell(self._connection, when)

    async def called_off(self) -> bool:
        """Likewise."""
        return self._connection is not None and await self._notices.called_off(self._connection)

    async def authorise(
        self, peer: Peer, action: str, details: Mapping[str, str], *, interactive: bool
    ) -> None:
        """Implement `bootcd.agent.authorisation.Authorise` by polkit, which is on the bus."""
        if self._dispatcher is None:
            raise AccessDenied("the message bus is away, and with it polkit", hint="do it as root")
        try:
            await self._dispatcher.authorise(peer, action, details, interactive=interactive)
        except ProtocolError as error:
            raise NotAuthorised(error.name.rpartition(".")[2], error.text) from None

    async def _connect(self) -> None:
        connection = await Connection.open(
            self._address, on_message=self._receive, on_drained=self._tree.flush
        )
        self._dispatcher = Dispatcher(
            connection,
            self._tree,
            self._methods.handlers(),
            self._methods.readers(),
            self._publisher.owner_of,
            lambda: self._service.snapshot.trust.verifies,
        )
        self._connection = connection
        try:
            await connection.own(SERVICE_NAME)
        except BaseException:
            await self._disconnect()
            raise
        self._surroundings.connected(connection)

    async def _disconnect(self) -> None:
        self._surroundings.disconnected()
        connection, self._connection = self._connection, None
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            await dispatcher.stop()
        if connection is not None:
            await connection.close()

    async def _supervise(self) -> None:
        while self._connection is not None:
            reason = await self._connection.ended()
            _log.warning("lost the message bus: %s", reason)
            self._connection = None
            self._surroundings.disconnected()
            if self._dispatcher is not None:
                self._dispatcher.abandon_all()
            await self._reconnect()
            _log.info("back on the message bus as %s", SERVICE_NAME)

    async def _reconnect(self) -> None:
        delay = _RETRY_FIRST_SECS
        while True:
            try:
                return await self._connect()
            except BackendFailed as error:
                _log.debug("%s; trying again in %g s", error.message, delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY_LAST_SECS)

    def _receive(self, message: Message) -> bool:
        self._surroundings.handle(message)
        return self._dispatcher is not None and self._dispatcher.handle(message)

    def _is_congested(self) -> bool:
        return self._connection is not None and self._connection.congested

    def _emit(self, path: str, interface: Interface, signal: Signal, *values: Any) -> None:
        """Send a signal; without a bus there is nobody to tell, and who comes later reads all anew."""
        if self._connection is None:
            return
        try:
            self._connection.send(
                Message.new_signal(path, interface.name, signal.name, signal.signature, list(values))
            )
        except Exception:
            _log.exception("signal %s of %s could not be sent", signal.name, path)
