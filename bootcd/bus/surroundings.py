"""The surroundings of the host as NetworkManager, UPower, power-profiles-daemon, logind, systemd tell.

None of them need be there, none is started by asking, and each may come and go. A change makes the whole
of what it says be read again, at most once a second, so that what is known is always of one piece.
What they say is checked like anything else that comes in.

https://networkmanager.dev/docs/api/latest/gdbus-org.freedesktop.NetworkManager.html
https://upower.freedesktop.org/docs/UPower.html
org.freedesktop.login1(5), org.freedesktop.systemd1(5)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dbus_fast import Message, MessageFlag, MessageType, Variant

from bootcd.bus.connection import BUS_NAME, BUS_PATH, Connection, ConnectionEnded, RemoteError
from bootcd.model.text import one_line
from bootcd.update.surroundings import ShutdownBlock, Source, Surroundings

_log = logging.getLogger(__name__)

_SECS = 10.0
"For all that is asked of one service at a time."
_PAUSE_SECS = 1.0
"Between two readings of one service, which anybody who can log in may cause to change."
_GONE_SECS = 10.0
"A service that was there and is not may be about to start again."
_SESSIONS = 64
"Looked at; with more, somebody is there anyway."
_BLOCKS = 16
_TEXT_LIMIT = 128

_PROPERTIES = "org.freedesktop.DBus.Properties"
_NETWORK = ("org.freedesktop.NetworkManager", "/org/freedesktop/NetworkManager")
_POWER = ("org.freedesktop.UPower", "/org/freedesktop/UPower")
_DISPLAY_DEVICE = "/org/freedesktop/UPower/devices/DisplayDevice"
_DEVICE = "org.freedesktop.UPower.Device"
_PROFILES = ("net.hadess.PowerProfiles", "/net/hadess/PowerProfiles")
_LOGIN = ("org.freedesktop.login1", "/org/freedesktop/login1")
_LOGIN_MANAGER = "org.freedesktop.login1.Manager"
_LOGIN_SESSION = "org.freedesktop.login1.Session"
_SESSION_ROOT = "/org/freedesktop/login1/session"

_SYSTEMD = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
_SYSTEMD_MANAGER = "org.freedesktop.systemd1.Manager"
_UNIT = "org.freedesktop.systemd1.Unit"
_BOOT_COMPLETE = "boot-complete.target"
_BOOT_COMPLETE_PATH = "/org/freedesktop/systemd1/unit/boot_2dcomplete_2etarget"

_METERED = (1, 3)
"NM_METERED_YES and NM_METERED_GUESS_YES."
_BATTERIES = (2, 3)
"UP_DEVICE_KIND_BATTERY and UP_DEVICE_KIND_UPS."
_PEOPLE = ("user", "user-early")
_DESKTOPS = ("x11", "wayland", "mir")

Ask = Callable[..., Awaitable[list[Any]]]
"Call a method of the service that is read: path, interface, member, signature and body."


@dataclass(frozen=True, slots=True)
class _Teller:
    """One service that is asked for one part of the surroundings."""

    name: str
    rules: tuple[str, ...]
    "Of signals after which it is read again, without type and sender."
    nothing: Mapping[str, None]
    "The part, unknown."
    read: Callable[[Ask], Awaitable[dict[str, Any]]]
    settles_secs: float = 0.0
    "After a change, more may change within this time that the service does not tell of."


class SurroundingsWatch:
    """Follows what is wanted while there is a connection."""

    def __init__(self) -> None:
        self._seen: Callable[[Surroundings], None] = lambda _: None
        self._wanted: frozenset[Source] = frozenset()
        self._connection: Connection | None = None
        self._known = Surroundings()
        self._owners: dict[str, str] = {}
        self._tasks: dict[Source, asyncio.Task[None]] = {}
        self._changed: set[Source] = set()
        "To be read again once the reading at work has ended."

    def watch(self, sources: frozenset[Source], seen: Callable[[Surroundings], None]) -> None:
        """Follow these from now on and forget the others; `seen` is called when what is known changes."""
        self._seen = seen
        before, self._wanted = self._wanted, sources
        unread = (self._known.unread & sources) | (sources - before)
        self._learn({"unread": unread})
        for source in before - sources:
            self._match("RemoveMatch", source)
            self._stop(source)
            self._learn(_TELLERS[source].nothing)
        for source in sources - before:
            self._follow(source)

    def connected(self, connection: Connection) -> None:
        """Ask over this connection from now on; what was known before it stays until it answers."""
        self._connection = connection
        self._owners.clear()
        for source in self._wanted:
            self._follow(source)

    def disconnected(self) -> None:
        self._connection = None
        for source in [*self._tasks]:
            self._stop(source)

    def handle(self, message: Message) -> None:
        """Take a signal of the bus, whoever it is from."""
        if message.message_type is not MessageType.SIGNAL or not self._wanted:
            return
        if message.sender == BUS_NAME:
            if message.member == "NameOwnerChanged" and message.signature == "sss":
                for source in self._sources_of(message.body[0]):
                    self._stop(source)  # It may wait for the one that has come.
                    self._read_soon(source)
            return
        for name, owner in self._owners.items():
            if message.sender == owner:
                for source in self._sources_of(name):
                    self._read_soon(source)

    def _sources_of(self, name: str) -> list[Source]:
        return [source for source in self._wanted if _TELLERS[source].name == name]

    def _follow(self, source: Source) -> None:
        self._match("AddMatch", source)
        self._read_soon(source)

    def _stop(self, source: Source) -> None:
        self._changed.discard(source)
        if task := self._tasks.pop(source, None):
            task.cancel()

    def _read_soon(self, source: Source) -> None:
        if self._connection is None:
            return
        if source in self._tasks:
            self._changed.add(source)
            return
        task = asyncio.get_running_loop().create_task(self._keep_reading(source, self._connection))
        self._tasks[source] = task

    async def _keep_reading(self, source: Source, connection: Connection) -> None:
        """Read until nothing has changed for a while."""
        teller, settled, waited = _TELLERS[source], False, False
        while True:
            self._changed.discard(source)
            part = await self._read(teller, connection)
            if part == teller.nothing and not waited and self._knows_more_than(teller.nothing):
                await asyncio.sleep(_GONE_SECS)
                waited = True
                continue
            waited = False
            if part is not None:
                self._learn({**part, "unread": self._known.unread - {source}})
            await asyncio.sleep(_PAUSE_SECS)
            if source in self._changed:
                settled = False
            elif teller.settles_secs and not settled:
                await asyncio.sleep(teller.settles_secs)
                settled = True
            else:
                break
        self._tasks.pop(source, None)

    async def _read(self, teller: _Teller, connection: Connection) -> Mapping[str, Any] | None:
        """Return what a service says, unknown where it says nothing; None without a bus."""
        try:
            async with asyncio.timeout(_SECS):
                [owner] = await connection.call(
                    BUS_NAME, BUS_PATH, BUS_NAME, "GetNameOwner", "s", [teller.name]
                )
                self._owners[teller.name] = str(owner)

                async def ask(
                    path: str, interface: str, member: str, signature: str = "", body: tuple[Any, ...] = ()
                ) -> list[Any]:
                    # By the unique name, so that no part of an answer is of a service started meanwhile.
                    return await connection.call(
                        str(owner), path, interface, member, signature, body, deadline=_SECS
                    )

                return await teller.read(ask)
        except ConnectionEnded:
            return None
        except RemoteError as error:
            _log.debug("%s says nothing: %s", teller.name, error)
        except (TimeoutError, ValueError, TypeError) as error:
            _log.warning("%s does not answer as it should, proceeding without: %s", teller.name, error)
        return teller.nothing

    def _knows_more_than(self, nothing: Mapping[str, None]) -> bool:
        return any(getattr(self._known, name) is not None for name in nothing)

    def _learn(self, part: Mapping[str, Any]) -> None:
        known = replace(self._known, **part)
        if known != self._known:
            self._known = known
            self._seen(known)

    def _match(self, member: str, source: Source) -> None:
        if self._connection is None:
            return
        teller = _TELLERS[source]
        owner = f"sender='{BUS_NAME}',interface='{BUS_NAME}',member='NameOwnerChanged',arg0='{teller.name}'"
        for rule in (owner, *(f"sender='{teller.name}',{rule}" for rule in teller.rules)):
            self._connection.send(
                Message(
                    destination=BUS_NAME,
                    path=BUS_PATH,
                    interface=BUS_NAME,
                    member=member,
                    signature="s",
                    body=[f"type='signal',{rule}"],
                    flags=MessageFlag.NO_REPLY_EXPECTED,
                )
            )


# What each says


async def _read_network(ask: Ask) -> dict[str, Any]:
    properties = await _get_all(ask, _NETWORK[1], _NETWORK[0])
    metered = _value(properties, "Metered", "u")
    # Zero is NM_METERED_UNKNOWN.
    return {"metered": metered in _METERED if metered else None}


async def _read_power(ask: Ask) -> dict[str, Any]:
    """Read of the display device, which stands for all that power the host, and for no mouse."""
    on_battery = _value(await _get_all(ask, _POWER[1], _POWER[0]), "OnBattery", "b")
    device = await _get_all(ask, _DISPLAY_DEVICE, _DEVICE)
    percent = _value(device, "Percentage", "d")
    present = _value(device, "IsPresent", "b") and _value(device, "Type", "u") in _BATTERIES
    known = present and percent is not None and 0 <= percent <= 100
    return {"on_battery": on_battery, "battery_percent": int(percent) if known else None}


async def _read_profile(ask: Ask) -> dict[str, Any]:
    profile = _value(await _get_all(ask, _PROFILES[1], _PROFILES[0]), "ActiveProfile", "s")
    return {"power_saver": None if profile is None else profile == "power-saver"}


async def _read_sessions(ask: Ask) -> dict[str, Any]:
    [sessions] = await ask(_LOGIN[1], _LOGIN_MANAGER, "ListSessions")
    people: dict[str, None] = {}
    for _id, _uid, name, _seat, path in sessions[:_SESSIONS]:
        try:
            session = await _get_all(ask, path, _LOGIN_SESSION)
        except RemoteError:
            continue  # It has ended.
        if _is_of_a_person(session):
            people[_text(name)] = None
    return {"people": tuple(people)}


def _is_of_a_person(session: Mapping[str, Any]) -> bool:
    """Tell whether somebody works in a session; file transfers and Ansible have no terminal."""
    if _value(session, "Class", "s") not in _PEOPLE or _value(session, "State", "s") == "closing":
        return False
    return _value(session, "Type", "s") in _DESKTOPS or bool(_value(session, "TTY", "s"))


async def _read_shutdown(ask: Ask) -> dict[str, Any]:
    [inhibitors] = await ask(_LOGIN[1], _LOGIN_MANAGER, "ListInhibitors")
    blocks = [
        ShutdownBlock(_text(who), _text(why))
        for what, who, why, mode, _uid, _pid in inhibitors
        if "shutdown" in str(what).split(":") and mode in ("block", "block-weak")
    ]
    return {"shutdown_blocks": tuple(blocks[:_BLOCKS])}


async def _read_boot(ask: Ask) -> dict[str, Any]:
    """Read whether systemd is still to reach the target that a boot reaches once it is found good.

    A boot that nobody judges has no job for it.
    """
    # systemd tells nothing to nobody; that one has subscribed already is an error.
    with contextlib.suppress(RemoteError):
        await ask(_SYSTEMD[1], _SYSTEMD_MANAGER, "Subscribe")
    [value] = await ask(_BOOT_COMPLETE_PATH, _PROPERTIES, "Get", "ss", (_UNIT, "Job"))
    job = _value({"Job": value}, "Job", "(uo)")
    return {"boot_undecided": None if job is None else job[0] != 0}


async def _get_all(ask: Ask, path: str, interface: str) -> Mapping[str, Any]:
    [properties] = await ask(path, _PROPERTIES, "GetAll", "s", (interface,))
    if not isinstance(properties, dict):
        raise ValueError(f"properties of {interface} are none")
    return properties


def _value(properties: Mapping[str, Any], name: str, signature: str) -> Any:
    """Return a property, None where it is missing or of another type."""
    variant = properties.get(name)
    return variant.value if isinstance(variant, Variant) and variant.signature == signature else None


def _text(value: object) -> str:
    return one_line(str(value), _TEXT_LIMIT)


def _changes(path: str, interface: str) -> str:
    return f"path='{path}',interface='{_PROPERTIES}',member='PropertiesChanged',arg0='{interface}'"


_TELLERS = {
    Source.NETWORK: _Teller(
        _NETWORK[0], (_changes(_NETWORK[1], _NETWORK[0]),), {"metered": None}, _read_network
    ),
    Source.POWER: _Teller(
        _POWER[0],
        (_changes(_POWER[1], _POWER[0]), _changes(_DISPLAY_DEVICE, _DEVICE)),
        {"on_battery": None, "battery_percent": None},
        _read_power,
    ),
    Source.PROFILE: _Teller(
        _PROFILES[0], (_changes(_PROFILES[1], _PROFILES[0]),), {"power_saver": None}, _read_profile
    ),
    Source.SESSIONS: _Teller(
        _LOGIN[0],
        (
            f"path='{_LOGIN[1]}',interface='{_LOGIN_MANAGER}',member='SessionNew'",
            f"path='{_LOGIN[1]}',interface='{_LOGIN_MANAGER}',member='SessionRemoved'",
            f"path_namespace='{_SESSION_ROOT}',interface='{_PROPERTIES}',member='PropertiesChanged'",
        ),
        {"people": None},
        _read_sessions,
        # The terminal of an SSH login, which logind takes from utmp when that is written.
        settles_secs=5.0,
    ),
    Source.SHUTDOWN: _Teller(
        _LOGIN[0], (_changes(_LOGIN[1], _LOGIN_MANAGER),), {"shutdown_blocks": None}, _read_shutdown
    ),
    Source.BOOT: _Teller(
        _SYSTEMD[0],
        (
            f"path='{_SYSTEMD[1]}',interface='{_SYSTEMD_MANAGER}',member='JobNew',arg2='{_BOOT_COMPLETE}'",
            f"path='{_SYSTEMD[1]}',interface='{_SYSTEMD_MANAGER}',member='JobRemoved',arg2='{_BOOT_COMPLETE}'",
        ),
        {"boot_undecided": None},
        _read_boot,
    ),
}
