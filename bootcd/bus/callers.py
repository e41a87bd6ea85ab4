"""Who is at the other end of a call, and whether they are still there.

The bus itself vouches for uid and pid. While calls are being served, and only then, the bus is
asked to tell of names that vanish, so that an idle daemon is not woken by strangers.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from dbus_fast import Message, MessageFlag, MessageType

from bootcd.bus.connection import BUS_NAME, BUS_PATH, Connection, RemoteError
from bootcd.model.errors import AccessDenied
from bootcd.model.job import Requester

_VANISHED = (
    f"type='signal',sender='{BUS_NAME}',path='{BUS_PATH}',interface='{BUS_NAME}'"
    ",member='NameOwnerChanged',arg2=''"
)


@dataclass(frozen=True, slots=True)
class Caller:
    sender: str
    uid: int
    pid: int

    def requester(self) -> Requester:
        return Requester(uid=self.uid, pid=self.pid, name=_process_name(self.pid))


class Callers:
    """Identities by unique name, remembered from `watch` until `unwatch` or the name vanishes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[str, asyncio.Task[Caller]] = {}

    def watch(self) -> None:
        self._match("AddMatch")

    def unwatch(self) -> None:
        self._match("RemoveMatch")
        self._known.clear()

    async def identify(self, sender: str) -> Caller:
        """Return who a unique name belongs to; raises AccessDenied where the bus does not say."""
        task = self._known.get(sender)
        if task is None:
            task = self._known[sender] = asyncio.create_task(self._ask(sender))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    def vanished(self, message: Message) -> str:
        """Return the unique name a signal of the bus says has gone, or an empty text."""
        if (
            message.message_type is not MessageType.SIGNAL
            or message.sender != BUS_NAME
            or message.member != "NameOwnerChanged"
            or message.signature != "sss"
        ):
            return ""
        name, _, owner = message.body
        if owner or not name.startswith(":"):
            return ""
        self._known.pop(name, None)
        return str(name)

    async def _ask(self, sender: str) -> Caller:
        try:
            [credentials] = await self._connection.call(
                BUS_NAME, BUS_PATH, BUS_NAME, "GetConnectionCredentials", "s", [sender]
            )
            uid = credentials["UnixUserID"].value
        except (RemoteError, KeyError, TimeoutError):
            self._known.pop(sender, None)
            raise AccessDenied("the message bus does not say who is calling") from None
        pid = credentials["ProcessID"].value if "ProcessID" in credentials else 0
        return Caller(sender, uid, pid)

    def _match(self, member: str) -> None:
        self._connection.send(
            Message(
                destination=BUS_NAME,
                path=BUS_PATH,
                interface=BUS_NAME,
                member=member,
                signature="s",
                body=[_VANISHED],
                flags=MessageFlag.NO_REPLY_EXPECTED,
            )
        )


def _process_name(pid: int) -> str:
    """Return the command name of a process, for people to read; empty where it cannot be told."""
    try:
        return read_without_waiting(f"/proc/{pid}/comm") if pid else ""
    except OSError:
        return ""


def read_without_waiting(path: str) -> str:
    """Return the first line of a file that is answered from memory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.read(descriptor, 128).decode(errors="replace").partition("\n")[0]
    finally:
        os.close(descriptor)
