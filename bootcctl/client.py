"""Connection to the service on the system bus; where verbs know dbus_fast, but for `desktop`.

Signals are subscribed to before anything is asked, and arrive in one bounded queue in the order the
service sent them, so a reader that applies them to what it read afterwards misses nothing. Only
signals of the current owner of the name count: anybody may send signals to anybody.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Self

from dbus_fast import BusType, DBusFastError, Message, MessageFlag, MessageType, Variant, unpack_variants
from dbus_fast.aio import MessageBus

from bootcctl.exitcodes import Failure, failure_from_bus
from bootcctl.runfiles import parse_document

SERVICE = "org.bootcd1"
ROOT = "/org/bootcd1"
MANAGER = "org.bootcd1.Manager"
JOB = "org.bootcd1.Job"
DEPLOYMENT = "org.bootcd1.Deployment"

CONNECT_SECS = 5.0
CALL_SECS = 30.0
INTERACTIVE_SECS = 300.0
"A person may have to find a password first."

_SIGNATURES: dict[type, str] = {bool: "b", int: "t", str: "s", list: "as"}
_QUEUE_LIMIT = 1000
_DOCUMENT_LIMIT = 16 << 20
_DBUS = "org.freedesktop.DBus"
_DBUS_PATH = "/org/freedesktop/DBus"
_PROPERTIES = "org.freedesktop.DBus.Properties"


class Changed(NamedTuple):
    """Properties of an object changed; `stale` ones have to be asked for."""

    path: str
    interface: str
    values: dict[str, Any]
    stale: bool


class Owner(NamedTuple):
    """The service came to the bus, or left it."""

    present: bool


class Gap(NamedTuple):
    """Events were lost, because they were not taken in time: ask for everything again."""


class Interrupt(NamedTuple):
    """Ctrl-C."""


class BusGone(NamedTuple):
    """The bus itself closed the connection."""


Event = Changed | Owner | Gap | Interrupt | BusGone


class Client:
    """One connection, used as an asynchronous context manager."""

    def __init__(self, address: str, *, interactive: bool = False, descriptors: bool = False) -> None:
        """Prepare a connection.

        Args:
            address: empty for the system bus.
            interactive: a person may be asked for a password.
            descriptors: answers may hold file descriptors, see `document`.
        """
        self._descriptors = descriptors
        self._address = address
        self._flags = MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION if interactive else MessageFlag.NONE
        self._deadline = INTERACTIVE_SECS if interactive else CALL_SECS
        self._events: deque[Event] = deque()
        self._arrived = asyncio.Event()
        self._owner = ""
        self._closing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(CONNECT_SECS):
                self._bus = MessageBus(
                    bus_address=self._address or None,
                    bus_type=BusType.SYSTEM,
                    negotiate_unix_fd=self._descriptors,
                )
                await self._bus.connect()
        except TimeoutError:
            raise Failure(
                "Unreachable",
                f"the system bus did not answer within {CONNECT_SECS:.0f} s",
                "see: busctl status",
            ) from None
        except (OSError, EOFError, DBusFastError) as error:
            reason = (
                error.strerror
                if isinstance(error, OSError) and error.strerror
                else "it refused the connection"
            )
            raise Failure(
                "Unreachable", f"the system bus cannot be reached: {reason}", "is dbus.service running?"
            ) from None
        self._bus.add_message_handler(self._on_message)
        self._closing = asyncio.create_task(self._watch_connection())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._bus.disconnect()
        if self._closing:
            self._closing.cancel()
            await asyncio.wait([self._closing], timeout=1)

    async def _watch_connection(self) -> None:
        # Whatever the reason is, the reader is told that there is no bus any more.
        with suppress(Exception):
            await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        self._put(BusGone())

    async def subscribe(self) -> None:
        """Have the signals of the service arrive from now on."""
        rules = (
            f"type='signal',sender='{SERVICE}',path_namespace='{ROOT}'",
            f"type='signal',sender='{_DBUS}',path='{_DBUS_PATH}',interface='{_DBUS}',"
            f"member='NameOwnerChanged',arg0='{SERVICE}'",
        )
        for rule in rules:
            await self._call_bus("AddMatch", "s", [rule])
        try:
            self._owner = str((await self._call_bus("GetNameOwner", "s", [SERVICE]))[0])
        except Failure:
            self._owner = ""

    @property
    def service_present(self) -> bool:
        """Whether the name has an owner; known after `subscribe`."""
        return bool(self._owner)

    def _on_message(self, message: Message) -> bool | None:
        if message.message_type is not MessageType.SIGNAL:
            return None
        if message.sender == _DBUS and message.member == "NameOwnerChanged" and message.body[0] == SERVICE:
            self._owner = message.body[2]
            self._put(Owner(bool(self._owner)))
        elif (
            message.sender == self._owner
            and message.interface == _PROPERTIES
            and message.signature == "sa{sv}as"
        ):
            interface, values, invalidated = message.body
            self._put(Changed(message.path or "", interface, unpack_variants(values), bool(invalidated)))
        return None

    def _put(self, event: Event) -> None:
        if len(self._events) >= _QUEUE_LIMIT and isinstance(event, Changed):
            self._events.clear()
            event = Gap()
        self._events.append(event)
        self._arrived.set()

    def interrupt(self) -> None:
        """Queue a Ctrl-C, ahead of everything else."""
        self._events.appendleft(Interrupt())
        self._arrived.set()

    async def next_event(self, timeout_secs: float) -> Event | None:
        """Return the next event; None if there was none for that long."""
        try:
            async with asyncio.timeout(timeout_secs):
                while not self._events:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            return None
        return self._events.popleft()

    async def call(
        self, path: str, interface: str, member: str, signature: str = "", body: list[Any] | None = None
    ) -> list[Any]:
        """Call a method of the service; its variants come back as plain values."""
        message = Message(
            destination=SERVICE,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=body or [],
            flags=self._flags,
        )
        return await self._exchange(message, self._deadline)

    async def _call_bus(self, member: str, signature: str, body: list[Any]) -> list[Any]:
        message = Message(
            destination=_DBUS,
            path=_DBUS_PATH,
            interface=_DBUS,
            member=member,
            signature=signature,
            body=body,
        )
        return await self._exchange(message, CONNECT_SECS)

    async def document(self, member: str, signature: str, body: list[Any]) -> dict[str, Any]:
        """Call a method of the manager that answers with a JSON document in a file in memory."""
        descriptor = await self.descriptor(member, signature, body)
        with open(descriptor, "rb") as file:  # noqa: PTH123, ASYNC230  (a file in memory)
            text = file.read(_DOCUMENT_LIMIT).decode(errors="replace")
        document = parse_document(text)
        if document is None:
            raise Failure("Failed", "the service gave a document that cannot be read")
        return document

    async def log(self, path: str) -> str:
        """Read what the worker of a job has printed."""
        with open(await self.descriptor("OpenLog", "", [], path, JOB), "rb") as file:  # noqa: PTH123, ASYNC230
            return file.read(_DOCUMENT_LIMIT).decode(errors="replace")

    async def descriptor(
        self, member: str, signature: str, body: list[Any], path: str = ROOT, interface: str = MANAGER
    ) -> int:
        """Call a method that answers with a file descriptor."""
        message = Message(
            destination=SERVICE,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=body,
            flags=self._flags,
        )
        reply = await self._reply(message, self._deadline)
        if not reply.unix_fds:
            raise Failure("Failed", "the service gave no descriptor")
        return reply.unix_fds[0]

    async def _exchange(self, message: Message, deadline: float) -> list[Any]:
        return list(unpack_variants((await self._reply(message, deadline)).body))

    async def _reply(self, message: Message, deadline: float) -> Message:
        try:
            async with asyncio.timeout(deadline):
                reply = await self._bus.call(message)
        except TimeoutError:
            raise Failure(
                "Unreachable",
                f"the bootcd service did not answer within {deadline:.0f} s",
                "see: systemctl status bootcd.service",
            ) from None
        except (OSError, EOFError, DBusFastError):
            raise Failure("Unreachable", "the system bus closed the connection") from None
        if reply.message_type is MessageType.ERROR:
            text = reply.body[0] if reply.body and isinstance(reply.body[0], str) else ""
            raise failure_from_bus(reply.error_name or "", text)
        return reply

    async def get_all(self, path: str, interface: str) -> dict[str, Any]:
        """Read all properties of an interface."""
        properties: dict[str, Any] = (await self.call(path, _PROPERTIES, "GetAll", "s", [interface]))[0]
        return properties

    async def jobs(self) -> dict[str, dict[str, Any]]:
        """Read the properties of every job the service still shows, by object path, oldest first."""
        objects = (await self.call(ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects"))[0]
        found = [(path, interfaces[JOB]) for path, interfaces in objects.items() if JOB in interfaces]
        return dict(sorted(found, key=lambda item: int(item[1].get("Created", 0))))

    async def history(self, limit: int) -> list[dict[str, Any]]:
        """Read ended jobs, newest first."""
        options = {"limit": Variant("u", limit)}
        entries: list[dict[str, Any]] = (await self.call(ROOT, MANAGER, "GetHistory", "a{sv}", [options]))[0]
        return entries

    async def deployments(self) -> list[dict[str, Any]]:
        """Read the properties of every deployment."""
        objects = (await self.call(ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects"))[0]
        return [interfaces[DEPLOYMENT] for interfaces in objects.values() if DEPLOYMENT in interfaces]

    async def start_job(
        self, member: str, arguments: Sequence[str], options: Mapping[str, bool | int | str | list[str]]
    ) -> str:
        """Call a method of the manager that starts a job; return the path of the job, "/" if none is needed.

        Options that are false or empty are left out.
        """
        given = {name: Variant(_SIGNATURES[type(value)], value) for name, value in options.items() if value}
        signature = "s" * len(arguments) + "a{sv}"
        path: str = (await self.call(ROOT, MANAGER, member, signature, [*arguments, given]))[0]
        return path

    async def own_pid(self) -> int:
        """Ask the bus for the pid it knows this process by, which differs inside a container."""
        pid: int = (await self._call_bus("GetConnectionUnixProcessID", "s", [self._bus.unique_name]))[0]
        return pid


def may_ask_person() -> bool:
    """Whether there is somebody at a terminal who could be asked for a password."""
    return sys.stdin is not None and sys.stdin.isatty()
