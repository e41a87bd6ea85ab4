"""One connection to the message bus: an adapter over dbus_fast that neither blocks nor breaks.

dbus_fast takes a full socket for a lost connection and gives up; the writer here waits until the
bus reads again. What waits is bounded: a bus that leaves too much unread is taken for dead.
https://dbus.freedesktop.org/doc/dbus-specification.html#message-bus-messages
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dbus_fast import BusType, DBusError, Message, MessageFlag, MessageType, NameFlag, RequestNameReply
from dbus_fast.aio import MessageBus
from dbus_fast.aio.message_bus import _MessageWriter  # replaced at a seam dbus_fast does not offer
from dbus_fast.signature import get_signature_tree

from bootcd.bus.inbox import CUT, Inbox
from bootcd.model.errors import BackendFailed, WrongState

BUS_NAME = "org.freedesktop.DBus"
BUS_PATH = "/org/freedesktop/DBus"

_CONNECT_SECS = 10.0
_CALL_SECS = 25.0
_CLOSE_SECS = 1.0
_UNREAD_LIMIT = 32 << 20
_SIGNATURES = 128
"Remembered by dbus_fast; it would keep 4096, of up to 40 KiB, that senders may make up."


class RemoteError(Exception):
    """An error answer of a peer; `name` is the full D-Bus error name."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class ConnectionEnded(Exception):
    """The connection ended before the answer came."""


class _Writer(_MessageWriter):
    """Write what the socket takes now and the rest when it takes more."""

    def __init__(self, bus: MessageBus, on_drained: Callable[[], None]) -> None:
        super().__init__(bus)
        assert self.sock is not None
        self._socket = self.sock
        self.waiting = False
        self._on_drained = on_drained
        self._unread = 0

    def schedule_write(self, msg: Message | None = None, future: asyncio.Future[None] | None = None) -> None:
        if msg is None:
            return
        if self.bus._disconnected:  # noqa: SLF001
            close_all(msg.unix_fds)
            return
        self.buffer_message(msg, future)
        self._unread += len(self.messages[-1][0])
        if self._unread > _UNREAD_LIMIT:
            self._fail(TimeoutError("the message bus has stopped reading"))
        elif not self.waiting:
            self.write_callback()

    def write_callback(self, remove_writer: bool = True) -> None:
        try:
            while self.buf is not None or self.messages:
                self._write_some()
        except (BlockingIOError, InterruptedError):
            if not self.waiting:
                self.waiting = True
                self.loop.add_writer(self._socket, self.write_callback)
            return
        except OSError as error:
            self._fail(error)
            return
        if self.waiting:
            self.waiting = False
            self.loop.remove_writer(self._socket)
            self._on_drained()

    def _write_some(self) -> None:
        if self.buf is None:
            data, self.unix_fds, self.fut = self.messages.popleft()
            self.buf, self.offset = memoryview(data), 0
        rest = self.buf[self.offset :]
        if self.unix_fds:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", self.unix_fds))
            sent = self._socket.sendmsg([rest], [rights])
            close_all(self.unix_fds)
            self.unix_fds = None
        else:
            sent = self._socket.send(rest)
        self.offset += sent
        self._unread -= sent
        if self.offset == len(self.buf):
            self.buf = None
            if self.fut is not None and not self.fut.done():
                self.fut.set_result(None)

    def _fail(self, error: OSError) -> None:
        for descriptors in (self.unix_fds, *(item[1] for item in self.messages)):
            close_all(descriptors or ())
        self.unix_fds = None
        self.messages.clear()
        self.buf = None
        self.bus._finalize(error)  # noqa: SLF001


def close_all(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class _Bus(MessageBus):
    """Read through an `Inbox` from the end of the handshake on."""

    async def _authenticate(self) -> None:
        await super()._authenticate()
        assert self._sock is not None
        self._sock = Inbox(self._sock)  # type: ignore[assignment]


class Connection:
    """A connected peer of the bus.

    `on_message` sees every message first and returns whether nobody else needs to; a message that was
    too large is shown without its body and has the flag `CUT`. `on_drained` is called when the bus reads
    again after it had stopped.
    """

    def __init__(self, bus: MessageBus, writer: _Writer) -> None:
        self._bus = bus
        self._writer = writer
        self._ended = asyncio.create_task(self._watch())

    @classmethod
    async def open(
        cls,
        address: str | None,
        *,
        on_message: Callable[[Message], bool],
        on_drained: Callable[[], None],
    ) -> Connection:
        """Connect to the bus at an address, the system bus for None.

        Raises BackendFailed where there is none or it does not answer in time.
        """
        try:
            bus = _Bus(address, BusType.SYSTEM, negotiate_unix_fd=True)
            async with asyncio.timeout(_CONNECT_SECS):
                await bus.connect()
        except TimeoutError:
            raise _unreachable("it does not answer") from None
        except Exception as error:
            raise _unreachable(str(error)) from error
        writer = _Writer(bus, on_drained)
        bus._writer = writer  # noqa: SLF001

        def receive(message: Message) -> bool:
            if get_signature_tree.cache_info().currsize > _SIGNATURES:
                get_signature_tree.cache_clear()
            return on_message(message)

        bus.add_message_handler(receive)
        return cls(bus, writer)

    @property
    def congested(self) -> bool:
        """Whether the bus has stopped reading for now."""
        return self._writer.waiting

    def send(self, message: Message) -> None:
        """Queue a message; on a connection that has ended it is dropped.

        Descriptors in it are closed when they were sent, or with the message.

        Raises a ValueError or TypeError of dbus_fast where the body does not fit the signature.
        """
        if not message.serial:
            message.serial = self._bus.next_serial()
        self._writer.schedule_write(message)

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: Sequence[Any] = (),
        *,
        deadline: float = _CALL_SECS,
        flags: MessageFlag = MessageFlag.NONE,
    ) -> list[Any]:
        """Call a method of a peer and return the body of its answer.

        Raises RemoteError, TimeoutError and ConnectionEnded.
        """
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
            flags=flags,
        )
        try:
            async with asyncio.timeout(deadline):
                reply = await self._bus.call(message)
        except TimeoutError:
            raise
        except (OSError, EOFError) as error:
            raise ConnectionEnded from error
        finally:
            # dbus_fast keeps the handler of a call that was given up.
            self._bus._method_return_handlers.pop(message.serial, None)  # noqa: SLF001
        if reply is None:
            raise ConnectionEnded
        if reply.flags & CUT:
            raise RemoteError("org.freedesktop.DBus.Error.LimitsExceeded", "the answer is too large")
        if reply.message_type is MessageType.ERROR:
            raise RemoteError(reply.error_name or "", str(reply.body[0]) if reply.body else "")
        return list(reply.body)

    async def own(self, name: str) -> None:
        """Take a well-known name; raises WrongState where another has it."""
        try:
            async with asyncio.timeout(_CONNECT_SECS):
                reply = await self._bus.request_name(name, NameFlag.DO_NOT_QUEUE)
        except DBusError as error:
            raise BackendFailed(
                f"the message bus does not let this process own {name}: {error.text}",
                hint=f"check that {name}.conf is installed in dbus-1/system.d and that bootcd runs as root",
            ) from error
        except Exception as error:
            raise _unreachable(str(error) or "it does not answer") from error
        if reply not in (RequestNameReply.PRIMARY_OWNER, RequestNameReply.ALREADY_OWNER):
            raise WrongState(
                f"another process owns {name} on the message bus",
                hint="stop the other instance of bootcd first",
            )

    async def ended(self) -> str:
        """Wait until the connection has ended and return why."""
        return await asyncio.shield(self._ended)

    async def close(self) -> None:
        """End the connection after what is queued has been written, if the bus reads."""
        if self._writer.waiting and not self._ended.done():
            written = asyncio.get_running_loop().create_future()
            self._writer.messages.append((bytearray(), None, written))
            await asyncio.wait(
                [written, self._ended], timeout=_CLOSE_SECS, return_when=asyncio.FIRST_COMPLETED
            )
        self._bus.disconnect()
        await asyncio.wait([self._ended], timeout=_CLOSE_SECS)
        if not self._ended.done():
            self._bus._finalize()  # noqa: SLF001
            await self._ended

    async def _watch(self) -> str:
        try:
            await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        except Exception as error:
            return str(error) or "the message bus closed it"
        return "closed"


def _unreachable(reason: str) -> BackendFailed:
    return BackendFailed(f"the message bus cannot be reached: {reason}", hint="check that dbus is running")
