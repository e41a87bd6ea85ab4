"""Notices of a reboot to people who are logged in, sent by logind as `shutdown` has it do.

What is scheduled there is a rehearsal: logind writes to all terminals, now and again as the time comes near,
refuses logins of the last five minutes and shows it in `shutdown --show`; but the reboot itself is left to
the job that asks hooks, inhibitors and the fleet first. org.freedesktop.login1(5), `ScheduleShutdown`
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from dbus_fast import MessageFlag

from bootcd.bus.connection import Connection, ConnectionEnded, RemoteError
from bootcd.model.moment import microseconds

_log = logging.getLogger(__name__)

_SECS = 10.0
_NAME, _PATH = "org.freedesktop.login1", "/org/freedesktop/login1"
_MANAGER = "org.freedesktop.login1.Manager"
_REHEARSAL = "dry-reboot"
_TEXT = "An update is ready, and this host restarts to use it. See: bootcctl why"


async def tell_people(connection: Connection, when: datetime | None) -> None:
    """Announce a reboot, or take back what was announced; what somebody else has scheduled is left alone."""

    async def ask(member: str, signature: str = "", *body: Any, interface: str = _MANAGER) -> list[Any]:
        flags = MessageFlag.NO_AUTOSTART
        return await connection.call(
            _NAME, _PATH, interface, member, signature, body, deadline=_SECS, flags=flags
        )

    try:
        [scheduled] = await ask(
            "Get", "ss", _MANAGER, "ScheduledShutdown", interface="org.freedesktop.DBus.Properties"
        )
        kind = scheduled.value[0] if scheduled.signature == "(st)" else ""
        if kind not in ("", _REHEARSAL):
            _log.info("a %s is scheduled already, of which people know", str(kind)[:32])
        elif when is not None:
            await ask("SetWallMessage", "sb", _TEXT, True)
            await ask("ScheduleShutdown", "st", _REHEARSAL, microseconds(when))
        elif kind:
            await ask("CancelScheduledShutdown")
    except ConnectionEnded:
        pass
    except (RemoteError, TimeoutError, ValueError, AttributeError) as error:
        _log.warning("people who are logged in cannot be told of the reboot: %s", error)
