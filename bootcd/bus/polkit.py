"""Authorisation of callers by polkit, asked without holding anything while a person is prompted.

The subject is the caller's unique bus name, which is never used again, unlike a pid. For callers beside the
bus it is a process, whose pid is known to have been its own all the while.
https://polkit.pages.freedesktop.org/polkit/eggdbus-interface-org.freedesktop.PolicyKit1.Authority.html
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from dbus_fast import Message, MessageFlag, Variant

from bootcd.bus.callers import Caller
from bootcd.bus.connection import Connection, ConnectionEnded, RemoteError
from bootcd.bus.errors import ProtocolError
from bootcd.host.peers import Peer
from bootcd.model.errors import AccessDenied

_log = logging.getLogger(__name__)

_NAME = "org.freedesktop.PolicyKit1"
_PATH = "/org/freedesktop/PolicyKit1/Authority"
_INTERFACE = "org.freedesktop.PolicyKit1.Authority"
_ALLOW_INTERACTION = 1
_INTERACTIVE_SECS = 300.0
_SECS = 25.0
PROMPTS_PER_USER = 8
"Open at a time: a bus lets a connection wait for 128 answers (dbus-daemon(1), max_replies_per_connection)."
_LOG_SECS = 60.0
"Between two lines on a polkit that fails, as anybody may ask as often as they like."


class Authority:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._silent_until = 0.0
        self._prompts: Counter[int] = Counter()

    async def require(
        self, caller: Caller, action: str, details: Mapping[str, str], *, interactive: bool
    ) -> None:
        """Return if the caller may do the action; a cancelled call takes its prompt down.

        Raises AccessDenied, or InteractiveAuthorizationRequired where a prompt could help and the
        caller did not allow one, or LimitsExceeded where prompts enough of this user are open.
        """
        subject = ["system-bus-name", {"name": Variant("s", caller.sender)}]
        await self._limited(caller.uid, subject, action, details, interactive=interactive)

    async def require_of_process(
        self, peer: Peer, action: str, details: Mapping[str, str], *, interactive: bool
    ) -> None:
        """Likewise for a process that is not on the bus; raises AccessDenied if it ended meanwhile."""
        identity = {
            "pid": Variant("u", peer.pid),
            "start-time": Variant("t", peer.start_ticks),
            "uid": Variant("i", peer.uid),
        }
        await self._limited(peer.uid, ["unix-process", identity], action, details, interactive=interactive)
        # Else polkit may have been asked of another process with the same pid.
        if not peer.alive:
            raise AccessDenied("who is calling has ended")

    async def _limited(
        self, uid: int, subject: list[Any], action: str, details: Mapping[str, str], *, interactive: bool
    ) -> None:
        if not interactive:
            return await self._require(subject, action, details, interactive=False)
        if self._prompts[uid] >= PROMPTS_PER_USER:
            raise ProtocolError("LimitsExceeded", "too many prompts of this user are open")
        self._prompts[uid] += 1
        try:
            await self._require(subject, action, details, interactive=True)
        finally:
            self._prompts[uid] -= 1
            self._prompts += Counter()

    async def _require(
        self, subject: list[Any], action: str, details: Mapping[str, str], *, interactive: bool
    ) -> None:
        cancellation = f"bootcd-{next(self._numbers)}"
        try:
            [(authorized, challenge, result)] = await self._connection.call(
                _NAME,
                _PATH,
                _INTERFACE,
                "CheckAuthorization",
                "(sa{sv})sa{ss}us",
                [
                    subject,
                    action,
                    dict(details),
                    _ALLOW_INTERACTION if interactive else 0,
                    cancellation,
                ],
                deadline=_INTERACTIVE_SECS if interactive else _SECS,
            )
        except (asyncio.CancelledError, TimeoutError) as error:
            self._cancel(cancellation)
            if isinstance(error, asyncio.CancelledError):
                raise
            raise AccessDenied(f"nobody authorised {action} in time") from None
        except RemoteError as error:
            self._complain(action, error)
            raise AccessDenied(
                "the authorisation service cannot be reached or cannot decide",
                hint="check that polkit is running, or run the command as root",
            ) from None
        except ConnectionEnded:
            raise AccessDenied("the message bus ended before the authorisation was decided") from None
        if authorized:
            return
        if challenge and not interactive:
            raise ProtocolError(
                "InteractiveAuthorizationRequired",
                f"an administrator has to authenticate for {action}\n"
                "run the command as root, or on a terminal, where it can ask for a password",
            )
        if "polkit.dismissed" in result:
            raise AccessDenied(f"the authentication for {action} was dismissed")
        raise AccessDenied(
            f"not authorised for {action}",
            hint="no authentication agent could ask; run the command as root" if challenge else "",
        )

    def _complain(self, action: str, error: RemoteError) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._silent_until:
            self._silent_until = now + _LOG_SECS
            _log.warning("polkit could not decide %s: %s: %s", action, error.name, error)

    def _cancel(self, cancellation: str) -> None:
        self._connection.send(
            Message(
                destination=_NAME,
                path=_PATH,
                interface=_INTERFACE,
                member="CancelCheckAuthorization",
                signature="s",
                body=[cancellation],
                flags=MessageFlag.NO_REPLY_EXPECTED | MessageFlag.NO_AUTOSTART,
            )
        )
