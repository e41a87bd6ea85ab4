"""A real message bus with a system bus's policy, and the real polkitd on it.

In a `Machine` the bus listens where a host's system bus does, so programs under test find it by
their defaults. Without one it listens in a directory of the test's.

The policy is the distribution's own system.conf; only what belongs to the daemon's set-up is taken
out of it (its user, its fork, its pid file) and activation, since nothing here could start services.
"""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self
from xml.etree import ElementTree

from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

from tests.support.machine import REPOSITORY, Machine, Process

OWN_POLICY = REPOSITORY / "dbus/org.bootcd1.conf"
POLKIT_POLICY = Path("/usr/share/dbus-1/system.d/org.freedesktop.PolicyKit1.conf")
POLKITD = "/usr/lib/polkit-1/polkitd"

_SYSTEM_CONF = Path("/usr/share/dbus-1/system.conf")
_SOCKET = Path("/run/dbus/system_bus_socket")
_BUS = {
    "destination": "org.freedesktop.DBus",
    "path": "/org/freedesktop/DBus",
    "interface": "org.freedesktop.DBus",
}
_DROPPED = (
    *("user", "fork", "pidfile", "syslog", "listen", "servicehelper", "standard_system_servicedirs"),
    *("include", "includedir"),
)


class PrivateBus:
    """A running dbus-daemon; `address` is how the test reaches it. Use as a context manager."""

    def __init__(
        self, daemon: asyncio.subprocess.Process | Process, address: str, machine: Machine | None
    ) -> None:
        self.address = address
        self._daemon = daemon
        self._machine = machine

    @classmethod
    async def start(cls, where: Machine | Path, *, policies: tuple[Path, ...] = ()) -> Self:
        """Start the daemon in a booted machine, or in a directory, and wait until it listens.

        `policies` are included besides polkit's and our own.
        """
        included = [POLKIT_POLICY, *policies, *([OWN_POLICY] if OWN_POLICY.exists() else [])]
        if isinstance(where, Machine):
            socket, config = where.path(str(_SOCKET)), where.path("/run/dbus/bus.conf")
            config.parent.mkdir()
            directories = ("/usr/share/dbus-1/system.d", "/etc/dbus-1/system.d")
            config.write_bytes(_bus_config(_SOCKET, included, directories))
            with (where.directory / "bus.log").open("ab") as log:
                daemon: asyncio.subprocess.Process | Process = await where.popen(
                    _command(Path("/run/dbus/bus.conf")), stdout=subprocess.PIPE, stderr=log.fileno()
                )
        else:
            socket, config = where / "bus", where / "bus.conf"
            config.write_bytes(_bus_config(socket, included, ()))
            daemon = await asyncio.create_subprocess_exec(*_command(config), stdout=subprocess.PIPE)
        bus = cls(daemon, f"unix:path={socket}", where if isinstance(where, Machine) else None)
        assert daemon.stdout is not None
        async with asyncio.timeout(20):
            if not await daemon.stdout.readline():
                raise RuntimeError(f"dbus-daemon ended with {await daemon.wait()}")
        return bus

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """End the daemon; every client loses its connection."""
        if self._daemon.returncode is None:
            self._daemon.terminate()
        async with asyncio.timeout(20):
            await self._daemon.wait()

    async def connect(self) -> MessageBus:
        """Return a connection of this process, which is root to the bus but has no pid a machine knows."""
        return await MessageBus(bus_address=self.address).connect()

    async def wait_for_name(self, name: str, timeout: float = 20) -> str:
        """Wait until somebody owns `name` and return the owner's unique name."""
        bus = await self.connect()
        owner: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def on_message(message: Message) -> None:
            changed = message.message_type is MessageType.SIGNAL and message.member == "NameOwnerChanged"
            if changed and message.body[0] == name and message.body[2] and not owner.done():
                owner.set_result(message.body[2])

        try:
            bus.add_message_handler(on_message)
            rule = f"type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0='{name}'"
            await bus.call(Message(**_BUS, member="AddMatch", signature="s", body=[rule]))
            now = await bus.call(Message(**_BUS, member="GetNameOwner", signature="s", body=[name]))
            if now is not None and now.message_type is MessageType.METHOD_RETURN:
                return str(now.body[0])
            async with asyncio.timeout(timeout):
                return await owner
        finally:
            bus.disconnect()
            await bus.wait_for_disconnect()

    async def start_polkitd(self) -> Process:
        """Start the real polkitd in the machine and wait until it answers.

        It reads actions from /usr/share/polkit-1/actions of the machine and rules from /etc/polkit-1/rules.d,
        now and when they change.
        """
        if self._machine is None:
            raise RuntimeError("polkitd runs in a machine only: it reads actions and rules from fixed places")
        log = (self._machine.directory / "polkitd.log").open("ab")
        with log:
            process = await self._machine.popen(
                [POLKITD, "--no-debug"], stdout=log.fileno(), stderr=log.fileno()
            )
        await self.wait_for_name("org.freedesktop.PolicyKit1")
        return process


def _command(config: Path) -> tuple[str, ...]:
    return (
        "dbus-daemon",
        f"--config-file={config}",
        "--nofork",
        "--nopidfile",
        "--nosyslog",
        "--print-address",
    )


def _bus_config(socket: Path, included: list[Path], directories: tuple[str, ...]) -> bytes:
    root = ElementTree.parse(_SYSTEM_CONF).getroot()
    for child in [child for child in root if child.tag in _DROPPED]:
        root.remove(child)
    ElementTree.SubElement(root, "listen").text = f"unix:path={socket}"
    for path in included:
        ElementTree.SubElement(root, "include").text = str(path)
    for directory in directories:
        ElementTree.SubElement(root, "includedir").text = directory
    return ElementTree.tostring(root)
