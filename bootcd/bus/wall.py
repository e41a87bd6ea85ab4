"""Notices of a reboot to people who are logged in, sent by logind as `shutdown` has it do.

What is scheduled there is a rehearsal: logind writes to all terminals, now and again as the time comes near,
refuses logins of the last five minutes and shows it in `shutdown --show`; but the reboot itself is left to
the job that asks hooks, inhibitors and the fleet first. org.freedesktop.login1(5), `ScheduleShutdown`
"""

from __future__ import annotations

import logging
from datetime import datetime
from enum import Enum, auto
from typing import Any

from dbus_fast import MessageFlag

from bootcd.bus.connection import Connection, ConnectionEnded, RemoteError
from bootcd.model.moment import microseconds
from bootcd.update.courtesy import REHEARSED_FOR

_log = logging.getLogger(__name__)

_SECS = 10.0
_NAME, _PATH = "org.freedesktop.login1", "/org/freedesktop/login1"
_MANAGER = "org.freedesktop.login1.Manager"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_REHEARSAL = "dry-reboot"
_TEXT = "An update is ready, and this host restarts to use it. See: bootcctl why"


class Notices:
    """What people on this host were told by logind."""

    def __init__(self) -> None:
        self._rehearsed = False
        "A rehearsal is scheduled, as far as this service knows."

    async def tell(self, connection: Connection, when: datetime | None) -> None:
        """Announce a reboot or take that back; what somebody else has scheduled is left alone."""
        self._rehearsed = False
        try:
            scheduled = await _scheduled(connection)
            if scheduled is _Scheduled.ELSE:
                _log.info("a shutdown is scheduled already, of which people know")
            elif when is not None:
                await _ask(connection, "SetWallMessage", "sb", _TEXT, True)
                ends = microseconds(when + REHEARSED_FOR)
                await _ask(connection, "ScheduleShutdown", "st", _REHEARSAL, ends)
                self._rehearsed = True
            elif scheduled is _Scheduled.OURS:
                await _ask(connection, "CancelScheduledShutdown")
        except ConnectionEnded:
            pass
        except (RemoteError, TimeoutError, ValueError, AttributeError) as error:
            _log.warning("people who are logged in cannot be told of the reboot: %s", error)

    async def called_off(self, connection: Connection) -> bool:
        """Tell, at the time that was announced, whether somebody has called it off, with `shutdown -c`."""
        if not self._rehearsed:
            return False
        try:
            return await _scheduled(connection) is _Scheduled.NOTHING
        except (ConnectionEnded, RemoteError, TimeoutError, ValueError, AttributeError):
            return False


class _Scheduled(Enum):
    NOTHING = auto()
    OURS = auto()
    ELSE = auto()


async def _scheduled(connection: Connection) -> _Scheduled:
    """Return what logind has scheduled; of a rehearsal it does not say that it is one."""
    [value] = await _ask(connection, "Get", "ss", _MANAGER, "ScheduledShutdown", interface=_PROPERTIES)
    if value.signature != "(st)" or not value.value[0]:
        return _Scheduled.NOTHING
    [message] = await _ask(connection, "Get", "ss", _MANAGER, "WallMessage", interface=_PROPERTIES)
    return _Scheduled.OURS if message.value == _TEXT else _Scheduled.ELSE


async def _ask(
    connection: Connection, member: str, signature: str = "", *body: Any, interface: str = _MANAGER
) -> list[Any]:
    flags = MessageFlag.NO_AUTOSTART
    return await connection.call(
        _NAME, _PATH, interface, member, signature, body, deadline=_SECS, flags=flags
    )
