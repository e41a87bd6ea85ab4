"""Calls nobody would make, from anybody, in any number: the daemon answers each and is none the worse.

BOOTCD_FUZZ_SECONDS=600 runs for as long with a new seed instead of for a moment with a known one.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Message, MessageFlag, MessageType, Variant

from bootcd.bus.inbox import BODY_LIMIT
from bootcd.bus.interfaces import DEPLOYMENT, JOB, MANAGER, ROOT_PATH, deployment_path
from bootcd.bus.schema import INTROSPECTABLE, OBJECT_MANAGER, PEER, PROPERTIES
from tests.support.bus_peers import NOBODY, private_bus
from tests.support.bus_raw import RawClient
from tests.support.daemon import Daemon, resident_kib, running
from tests.support.jobs import DONE, WorkerScript
from tests.support.service import STAGED, show_host

SECONDS = float(os.environ.get("BOOTCD_FUZZ_SECONDS", "0"))
CALLS = 2_500
GROWTH_KIB = 10 << 10
LOG_LINES = 40
"Of warnings and worse, however many calls there are."

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the bus policy gives the name to root"),
    pytest.mark.timeout(120 + SECONDS * 2),
]

INTERFACES = (MANAGER, JOB, DEPLOYMENT, PEER, INTROSPECTABLE, PROPERTIES, OBJECT_MANAGER)
METHODS = [(interface, method) for interface in INTERFACES for method in interface.methods.values()]
OPTIONS = sorted({name for _, method in METHODS for name in method.options or ()})
PATHS = [
    ROOT_PATH,
    "/",
    "/org",
    f"{ROOT_PATH}/job",
    f"{ROOT_PATH}/job/_1",
    f"{ROOT_PATH}/job/_2",
    f"{ROOT_PATH}/job/_999999999999",
    deployment_path(STAGED.status.booted),
]
BASIC = "ybnqiuxtdsog"
LEAK = re.compile(
    r"Traceback|internal error|\.py\b|\bbootcd\.[a-z]|<class|object at 0x|dbus_fast|pydantic|asyncio"
    r"|NoneType|(Key|Type|Value|Attribute|Index|Unicode\w+|OS|Runtime|Assertion)Error"
)


class Nonsense:
    """Calls by chance, each valid for the bus."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def message(self, serial: int) -> Message:
        chance = self.chance
        interface, method = chance.choice(METHODS)
        signature, body = "", []
        if chance.random() < 0.7:
            for argument in method.inputs:
                signature += argument.signature
                body.append(self.options() if argument.name == "options" else self.value(argument.signature))
        else:
            for _ in range(chance.randrange(4)):
                part = self.signature()
                signature += part
                body.append(self.value(part))
        path = chance.choice(PATHS) if chance.random() < 0.4 else self.home(interface.name)
        flags = MessageFlag(chance.choice((0, 0, 0, 0, 1, 2, 4, 5, 7)))
        return Message(
            destination="org.bootcd1",
            path=path if chance.random() < 0.95 else self.value("o"),
            interface=interface.name,
            member=method.name if chance.random() < 0.95 else chance.choice(("Nothing", "a" * 255, "get")),
            signature=signature,
            body=body,
            flags=flags,
            serial=serial,
        )

    def home(self, interface: str) -> str:
        return {JOB.name: f"{ROOT_PATH}/job/_{self.chance.randrange(1, 5)}", DEPLOYMENT.name: PATHS[-1]}.get(
            interface, ROOT_PATH
        )

    def options(self) -> dict[str, Variant]:
        chance = self.chance
        names = [*OPTIONS, "x-any", "", "a\nb", "é" * 200]
        return {
            chance.choice(names): self.value("v") if chance.random() < 0.7 else Variant("b", True)
            for _ in range(chance.choice((0, 0, 0, 1, 1, 2, 5, 100)))
        }

    def signature(self, depth: int = 0) -> str:
        chance = self.chance
        kind = chance.choice(f"{BASIC}va(" if depth < 12 else BASIC)
        if kind == "a":
            if chance.random() < 0.4:
                return f"a{{{chance.choice(BASIC)}{self.signature(depth + 2)}}}"
            return "a" + self.signature(depth + 1)
        if kind == "(":
            inner = "".join(self.signature(depth + 3) for _ in range(chance.randrange(1, 4)))
            return f"({inner})" if len(inner) < 60 else "(s)"
        return kind

    def value(self, signature: str, depth: int = 0) -> Any:
        chance = self.chance
        match signature[0]:
            case "b":
                return chance.random() < 0.5
            case "d":
                return chance.choice((0.0, -1.5, float("inf"), float("nan"), 1e308))
            case "y" | "q" | "u" | "t" as kind:
                bits = {"y": 8, "q": 16, "u": 32, "t": 64}[kind]
                return chance.choice((0, 1, 1 << (bits - 1), (1 << bits) - 1))
            case "n" | "i" | "x" as kind:
                bits = {"n": 15, "i": 31, "x": 63}[kind]
                return chance.choice((0, -1, -(1 << bits), (1 << bits) - 1))
            case "s":
                return self.text()
            case "o":
                return chance.choice(
                    (*PATHS, "/" + "/".join("x" * chance.randrange(1, 40) for _ in range(9)))
                )
            case "g":
                return chance.choice(("", "a{sv}", "(ii)", "a" * 32 + "y", "v" * 255))
            case "v":
                kind = self.signature(depth * 3)
                return Variant(kind, self.value(kind, depth + 1))
            case "(":
                return [self.value(part, depth + 1) for part in parts(signature[1:-1])]
            case _:
                count = chance.choice((0, 1, 2, 3)) if depth else chance.choice((0, 1, 7, 300))
                if signature[1] == "{":
                    key, value = parts(signature[2:-1])
                    pairs = [(self.value(key), self.value(value, depth + 1)) for _ in range(count)]
                    return {k: v for k, v in pairs if k == k}
                if signature[1] == "y":
                    return chance.randbytes(count)
                return [self.value(signature[1:], depth + 1) for _ in range(count)]

    def text(self) -> str:
        chance = self.chance
        plain = [interface.name for interface in INTERFACES] + [item.name for item in MANAGER.properties]
        odd = [
            *("", "registry.test/os:1", "\u202egro.tset", "%s%n{0}", "../../etc/shadow", "a b"),
            *("\U0001f4a5" * 50, "x" * 1025, "x" * chance.choice((10, BODY_LIMIT - 1, BODY_LIMIT * 4))),
        ]
        return chance.choice(plain if chance.random() < 0.5 else odd)


def parts(signature: str) -> Iterator[str]:
    """Yield the complete types of a signature."""
    while signature:
        end, depth = 0, 0
        while True:
            depth += (signature[end] in "({") - (signature[end] in ")}")
            end += 1
            if depth == 0 and signature[end - 1] != "a":
                break
        yield signature[:end]
        signature = signature[end:]


class Attack:
    """Several clients of two users at once; `seen` counts the names of errors, empty for a good answer."""

    def __init__(self, address: str, seed: int) -> None:
        self.address = address
        self.seed = seed
        self.seen: Counter[str] = Counter()
        self.calls = 0

    async def run(self, calls: int, until: float) -> None:
        tasks = [
            asyncio.create_task(self._client(uid, random.Random(f"{self.seed} {number}"), calls // 8, until))
            for number, uid in enumerate((0, 0, *[NOBODY] * 6))
        ]
        await asyncio.gather(*tasks)

    async def _client(self, uid: int, chance: random.Random, calls: int, until: float) -> None:
        nonsense = Nonsense(chance)
        client = await RawClient.connect(self.address, uid)
        done = 0
        while done < calls or time.monotonic() < until:
            burst = [self._call(client, nonsense) for _ in range(chance.choice((1, 1, 4, 40)))]
            await asyncio.gather(*burst)
            done += len(burst)
            if chance.random() < 0.3:
                await self._vanishing(uid, nonsense)
        await client.vanish()

    async def _call(self, client: RawClient, nonsense: Nonsense) -> None:
        serial = client.next_serial()
        message = nonsense.message(serial)
        data = bytes(message._marshall(False))
        self.calls += 1
        if message.flags & MessageFlag.NO_REPLY_EXPECTED:
            client.write(data)
            return
        what = (
            f"seed {self.seed}: {message.interface}.{message.member}({message.signature}) at {message.path}"
        )
        try:
            answer = await client.call(data, serial)
        except (TimeoutError, ConnectionError) as error:
            pytest.fail(f"no answer to {what}, call {self.calls}: {error!r}; {await self.state()}")
        self.seen[answer.error_name or ""] += 1
        if answer.message_type is MessageType.ERROR:
            assert not LEAK.search(str(answer.body)), f"{what}: {answer.body}"
            assert len(answer.body[0]) <= 4096, what

    async def state(self) -> str:
        """Say whether others are still answered."""
        try:
            client = await RawClient.connect(self.address, 0)
            serial = client.next_serial()
            message = Message("org.bootcd1", ROOT_PATH, MANAGER.name, "ListInhibitors", serial=serial)
            await client.call(bytes(message._marshall(False)), serial)
            await client.vanish()
        except (TimeoutError, ConnectionError) as error:
            return f"nobody is: {error!r}"
        return "others are"

    async def _vanishing(self, uid: int, nonsense: Nonsense) -> None:
        client = await RawClient.connect(self.address, uid)
        for _ in range(nonsense.chance.randrange(1, 4)):
            client.write(bytes(nonsense.message(client.next_serial())._marshall(False)))
        data = bytes(nonsense.message(client.next_serial())._marshall(False))
        client.write(data[: nonsense.chance.randrange(len(data))])
        await asyncio.sleep(0)
        await client.vanish()


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon whose jobs end at once, on a host where most verbs make sense; nobody runs polkit."""
    script = WorkerScript(tmp_path / "sysroot")
    show_host(script, STAGED)
    script.steps(["ready"], ["progress", {"phase": "fetch", "bytes_done": 1, "bytes_total": 2}], DONE)
    async with private_bus() as bus:
        made = Daemon(tmp_path, bus, scripted=True)
        with made.manager:
            yield made
    script.close()


async def test_nonsense_is_answered_and_leaves_the_daemon_as_it_was(daemon: Daemon, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32) if SECONDS else 1
    with (tmp_path / "log").open("wb") as log:
        async with running(daemon, stderr=log.fileno()) as process:
            owner = await daemon.bus.wait_for_name("org.bootcd1")
            await Attack(daemon.bus.address, 0).run(400, 0)  # what it needs at work, it has after this
            before = resident_kib(process.pid)
            attack = Attack(daemon.bus.address, seed)
            await attack.run(CALLS, time.monotonic() + SECONDS)
            grown = resident_kib(process.pid) - before
            assert (await daemon.call("GetHistory", "a{sv}", {})).message_type is MessageType.METHOD_RETURN
            assert await daemon.bus.wait_for_name("org.bootcd1") == owner
            assert process.returncode is None
    lines = (tmp_path / "log").read_text(errors="replace").splitlines()
    print(f"{attack.calls} calls, grown by {grown} KiB, {len(lines)} lines, {json.dumps(attack.seen)}")
    assert grown < GROWTH_KIB, f"seed {seed}"
    assert attack.seen[""] > attack.calls // 20
    odd = [line for line in lines if not line.startswith("INFO:")]
    assert len(odd) < LOG_LINES, "\n".join(odd[:100])


async def test_signatures_nobody_knows_are_not_kept(daemon: Daemon) -> None:
    """What is read off a signature takes 40 KiB at most, and senders make them up."""
    chance = random.Random(1)
    async with running(daemon) as process:
        client = await RawClient.connect(daemon.bus.address, NOBODY)

        async def call() -> None:
            signature = "".join(chance.choices("ynqiuxt", k=255))
            serial = client.next_serial()
            message = Message(
                *("org.bootcd1", ROOT_PATH, MANAGER.name, "GetHistory"),
                signature=signature,
                body=[0] * 255,
                serial=serial,
            )
            answer = await client.call(bytes(message._marshall(False)), serial)
            assert answer.error_name == "org.freedesktop.DBus.Error.InvalidArgs"

        for _ in range(50):
            await call()
        before = resident_kib(process.pid)
        for _ in range(600):
            await call()
        assert resident_kib(process.pid) - before < GROWTH_KIB
        await client.vanish()


async def test_message_of_the_largest_size_costs_neither_memory_nor_time(daemon: Daemon) -> None:
    """Eight million variants; dbus-daemon lets everybody send that."""
    small = Message(
        "org.bootcd1", ROOT_PATH, MANAGER.name, "GetHistory", signature="a{sv}", body=[{}], serial=7
    )
    frame = small._marshall(False)
    values = b"\x01y\0\x01" * ((30 << 20) // 4)
    entry = struct.pack("<I", 3) + b"x-a\0\x02av\0" + struct.pack("<I", len(values)) + values
    body = struct.pack("<II", len(entry), 0) + entry
    del frame[-struct.unpack_from("<I", frame, 4)[0] :]
    struct.pack_into("<I", frame, 4, len(body))
    async with running(daemon) as process:
        client = await RawClient.connect(daemon.bus.address, NOBODY)
        answer = await client.call(bytes(frame) + body, 7)
        assert answer.error_name == "org.freedesktop.DBus.Error.LimitsExceeded"
        again = await client.call(bytes(small._marshall(False)), 7)
        await client.vanish()
        status = Path(f"/proc/{process.pid}/status").read_text()
    assert again.reply_serial == 7
    peak_kib = int(status.partition("VmHWM:")[2].split()[0])
    assert peak_kib < 60 << 10
