"""One notification on the desktop of a session, shown anew in its place whenever there is something else.

https://specifications.freedesktop.org/notification/latest/protocol.html
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Self

from dbus_fast import BusType, DBusFastError, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from bootcctl.exitcodes import Failure
from bootcctl.notices import LABELS, Notice

_NAME, _PATH = "org.freedesktop.Notifications", "/org/freedesktop/Notifications"
_BUS, _BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
_APPLICATION = "System Update"
_ICON, _BAD_ICON = "system-software-update", "dialog-warning"
"By the names all icon themes have, see the Icon Naming Specification."
_SECS = 10.0
_NORMAL, _CRITICAL = 1, 2
_NEVER, _AS_USUAL = 0, -1
"When a notification goes away by itself."


class Desktop:
    """The session bus, used as an asynchronous context manager.

    `on_action` is called with what somebody chose, `on_server` when a notification server has come, `on_end`
    when the session bus has gone.
    """

    def __init__(
        self, on_action: Callable[[str], None], on_server: Callable[[], None], on_end: Callable[[], None]
    ) -> None:
        self._on_action = on_action
        self._on_server = on_server
        self._on_end = on_end
        self._id = 0
        self._session = ""
        self._closing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(_SECS):
                self._bus = MessageBus(bus_type=BusType.SESSION)
                await self._bus.connect()
                self._bus.add_message_handler(self._on_message)
                for rule in (
                    f"type='signal',sender='{_NAME}',path='{_PATH}',interface='{_NAME}'",
                    f"type='signal',sender='{_BUS}',member='NameOwnerChanged',arg0='{_NAME}'",
                ):
                    await self._call("AddMatch", "s", [rule], _BUS, _BUS_PATH)
                [self._session] = await self._call("GetId", "", [], _BUS, _BUS_PATH)
            self._closing = asyncio.create_task(self._watch_connection())
        except (TimeoutError, OSError, EOFError, DBusFastError, ValueError):
            raise Failure(
                "Unreachable", "the session bus cannot be reached", "run it within a desktop session"
            ) from None
        return self

    async def __aexit__(self, *_: object) -> None:
        self._bus.disconnect()
        if self._closing:
            self._closing.cancel()
            await asyncio.wait([self._closing], timeout=1)

    async def _watch_connection(self) -> None:
        with suppress(Exception):
            await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        self._on_end()

    @property
    def place(self) -> tuple[str, int]:
        """The session, and the number of the notification in it; 0 if there is none."""
        return self._session, self._id

    def resume(self, place: Sequence[Any]) -> bool:
        """Take up the notification an earlier process has shown, if it was in this session."""
        match place:
            case [str(session), int(number)] if session == self._session and 0 < number < 1 << 32:
                self._id = number
                return True
            case _:
                return False

    async def show(self, notice: Notice) -> bool:
        """Show it in the place of the last one; false if there is no notification server for now."""
        try:
            [capabilities] = await self._call("GetCapabilities", "", [])
            actions: list[str] = []
            summary, body = notice.summary, notice.body
            if "actions" in capabilities:
                actions = [text for action in notice.actions for text in (action, LABELS[action])]
            elif notice.actions:
                body += " To restart now: bootcctl apply"
            if "body" not in capabilities:
                summary = f"{summary}. {body}"
            elif "body-markup" in capabilities:
                body = _escaped(body)
            hints = {
                "urgency": Variant("y", _CRITICAL if notice.urgent else _NORMAL),
                "category": Variant("s", "system"),
            }
            expires = _NEVER if notice.urgent else _AS_USUAL
            icon = _BAD_ICON if notice.bad else _ICON
            shown = [_APPLICATION, self._id, icon, summary, body, actions, hints, expires]
            [self._id] = await self._call("Notify", "susssasa{sv}i", shown)
        except (TimeoutError, OSError, EOFError, DBusFastError, ValueError, TypeError):
            return False
        return True

    async def close(self) -> None:
        """Take the notification away; one that has gone is no matter."""
        number, self._id = self._id, 0
        if number:
            with suppress(TimeoutError, OSError, EOFError, DBusFastError):
                await self._call("CloseNotification", "u", [number])

    async def _call(
        self, member: str, signature: str, body: list[Any], name: str = _NAME, path: str = _PATH
    ) -> list[Any]:
        message = Message(
            destination=name, path=path, interface=name, member=member, signature=signature, body=body
        )
        async with asyncio.timeout(_SECS):
            reply = await self._bus.call(message)
        if reply.message_type is MessageType.ERROR:
            raise ValueError(reply.error_name)
        return list(reply.body)

    def _on_message(self, message: Message) -> bool | None:
        if message.message_type is MessageType.SIGNAL:
            # After whoever waits for an answer that came before it, which may say what its number means.
            asyncio.get_running_loop().call_soon(self._take, message)
        return None

    def _take(self, message: Message) -> None:
        match message.member, message.body:
            case "NameOwnerChanged", [name, _, owner] if message.sender == _BUS and name == _NAME:
                self._id = 0
                if owner:
                    self._on_server()
            case "NotificationClosed", [number, *_] if number == self._id:
                self._id = 0
            case "ActionInvoked", [number, str(action)] if number == self._id and number:
                self._on_action(action)
            case _:
                pass


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
