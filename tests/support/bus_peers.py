"""Clients of a private bus: in this process as root, in another one as an ordinary user; and polkit.

polkitd is the real one. It sees the product's actions and the test's rules through bind mounts in a
mount namespace of its own; the host's directories are never written.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from dbus_fast import BusType, Message, MessageFlag, MessageType, Variant
from dbus_fast.aio import MessageBus

from tests.support.bus import POLKITD, PrivateBus
from tests.support.machine import REPOSITORY

NOBODY = 65534
DBUS = "org.freedesktop.DBus"
DBUS_PATH = "/org/freedesktop/DBus"
POLKIT = "org.freedesktop.PolicyKit1"


@asynccontextmanager
async def private_bus() -> AsyncIterator[PrivateBus]:
    """Run a bus every user of the machine can reach, which a directory of pytest's is not."""
    directory = Path(tempfile.mkdtemp(prefix="bootcd-bus-"))
    directory.chmod(0o755)
    try:
        bus = await PrivateBus.start(directory)
        try:
            yield bus
        finally:
            resume(bus)
            await bus.stop()
    finally:
        shutil.rmtree(directory)


def pause(bus: PrivateBus) -> None:
    """Stop the bus from reading and writing."""
    bus._daemon.send_signal(signal.SIGSTOP)


def resume(bus: PrivateBus) -> None:
    if bus._daemon.returncode is None:
        bus._daemon.send_signal(signal.SIGCONT)


async def restart(bus: PrivateBus) -> None:
    """Kill the bus and start it again at the same address."""
    bus._daemon.kill()
    await bus._daemon.wait()
    bus._daemon = (await PrivateBus.start(Path(bus.address.removeprefix("unix:path=")).parent))._daemon


@asynccontextmanager
async def polkit(bus: PrivateBus, directory: Path, rules: str = "") -> AsyncIterator[None]:
    """Run polkitd on the bus with the product's actions and one file of rules."""
    seen = Path(tempfile.mkdtemp(prefix="bootcd-polkit-"))  # polkitd gives up root before it reads
    seen.chmod(0o755)
    actions, rules_directory = seen / "actions", seen / "rules"
    for each in (actions, rules_directory):
        each.mkdir(mode=0o755)
    (actions / "org.bootcd1.policy").write_text((REPOSITORY / "dbus/org.bootcd1.policy").read_text())
    (rules_directory / "10-test.rules").write_text(rules)
    script = (
        f"mount --bind {actions} /usr/share/polkit-1/actions && "
        f"mount --bind {rules_directory} /etc/polkit-1/rules.d && "
        f"exec {POLKITD} --no-debug"
    )
    with (directory / "polkitd.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *("unshare", "--mount", "sh", "-c", script),
            env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus.address},
            stdout=log,
            stderr=log,
        )
    try:
        await bus.wait_for_name(POLKIT)
        yield
    finally:
        process.kill()
        await process.wait()
        shutil.rmtree(seen)


class Answer:
    """What came back from a call: `error` is the full name of an error, or empty."""

    def __init__(self, error: str, body: list[Any]) -> None:
        self.error = error
        self.body = body

    @property
    def text(self) -> str:
        assert self.error, f"no error but {self.body}"
        return str(self.body[0])

    def value(self) -> Any:
        """Return the single value of a good answer, variants unpacked."""
        assert not self.error, f"{self.error}: {self.body}"
        assert len(self.body) == 1
        return plain(self.body[0])


class Peer:
    """A plain client of the bus in this process."""

    def __init__(self, bus: MessageBus) -> None:
        self.bus = bus
        self.signals: list[Message] = []
        self._arrived = asyncio.Event()
        bus.add_message_handler(self._on_message)

    async def call(
        self,
        path: str,
        interface: str | None,
        member: str,
        signature: str = "",
        body: list[Any] | None = None,
        *,
        destination: str = "org.bootcd1",
        interactive: bool = False,
        unix_fds: list[int] | None = None,
    ) -> Answer:
        reply = await self.reply(
            path,
            interface,
            member,
            signature,
            body,
            destination=destination,
            interactive=interactive,
            unix_fds=unix_fds,
        )
        return Answer(reply.error_name or "", list(reply.body))

    async def reply(
        self,
        path: str,
        interface: str | None,
        member: str,
        signature: str = "",
        body: list[Any] | None = None,
        *,
        destination: str = "org.bootcd1",
        interactive: bool = False,
        unix_fds: list[int] | None = None,
    ) -> Message:
        """Call a method and return the whole answer, with its descriptors."""
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=body or [],
            flags=MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION if interactive else MessageFlag.NONE,
            unix_fds=unix_fds or [],
        )
        async with asyncio.timeout(30):
            reply = await self.bus.call(message)
        assert reply is not None
        return reply

    async def listen(self, rule: str = "type='signal',sender='org.bootcd1'") -> None:
        answer = await self.call(DBUS_PATH, DBUS, "AddMatch", "s", [rule], destination=DBUS)
        assert not answer.error, answer.body

    async def signal(self, wanted: Callable[[Message], bool]) -> Message:
        """Wait for a signal, also one that came already."""
        seen = 0
        async with asyncio.timeout(20):
            while True:
                while seen < len(self.signals):
                    if wanted(self.signals[seen]):
                        return self.signals[seen]
                    seen += 1
                self._arrived.clear()
                await self._arrived.wait()

    def _on_message(self, message: Message) -> None:
        # The bus greets with NameAcquired, before or after this handler was there.
        if message.message_type is MessageType.SIGNAL and message.member != "NameAcquired":
            self.signals.append(message)
            self._arrived.set()


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Peer]:
    bus = MessageBus(address, BusType.SYSTEM, negotiate_unix_fd=True)
    await bus.connect()
    try:
        yield Peer(bus)
    finally:
        bus.disconnect()
        await asyncio.wait([asyncio.ensure_future(bus.wait_for_disconnect())], timeout=5)


class UserProcess:
    """A client in a process of its own with the rights of an ordinary user (tests.support.bus_user)."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._events: asyncio.Queue[str] = asyncio.Queue()
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._reader = asyncio.create_task(self._read())

    async def call(
        self,
        path: str,
        interface: str | None,
        member: str,
        signature: str = "",
        body: list[Any] | None = None,
        *,
        destination: str = "org.bootcd1",
        interactive: bool = False,
    ) -> Answer:
        number = len(self._waiting)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        request = [number, path, interface, member, signature, body or [], destination, interactive]
        assert self.process.stdin is not None
        self.process.stdin.write(to_json(request))
        async with asyncio.timeout(30):
            return await self._waiting[number]

    async def event(self) -> str:
        """Return the next thing that happened to the user's authentication agent."""
        async with asyncio.timeout(20):
            return await self._events.get()

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await asyncio.wait([self._reader], timeout=5)

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            number, error, body = from_json(line)
            if number < 0:
                self._events.put_nowait(error)
            elif not self._waiting[number].done():
                self._waiting[number].set_result(Answer(error, body))


@asynccontextmanager
async def user(
    address: str, *, uid: int = NOBODY, agent_of: UserProcess | None = None
) -> AsyncIterator[UserProcess]:
    """Run an unprivileged client, or an authentication agent that tells of prompts and answers none."""
    served = agent_of.process.pid if agent_of else 0
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.bus_user", address, str(uid), str(served)),
        cwd=REPOSITORY,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=16 << 20,
    )
    client = UserProcess(process)
    try:
        assert await client.event() == "ready"
        yield client
    finally:
        await client.kill()


def plain(value: Any) -> Any:
    """Unpack variants at any depth."""
    match value:
        case Variant():
            return plain(value.value)
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case _:
            return value


def to_json(value: Any) -> bytes:
    def encode(item: Any) -> Any:
        assert isinstance(item, Variant)
        return {"@": item.signature, "=": item.value}

    return json.dumps(value, default=encode).encode() + b"\n"


def from_json(line: bytes) -> Any:
    def decode(item: dict[str, Any]) -> Any:
        return Variant(item["@"], item["="]) if "@" in item else item

    return json.loads(line, object_hook=decode)
