"""Clients of a Varlink socket: a plain one, the same as another user, systemd's; and what a definition asks.

Run as `python -m tests.support.varlink SOCKET UID` it is the plain one with the rights of that user: calls as
JSON lines on standard input, replies as JSON lines on standard output.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bootcd.host import process
from tests.support.machine import REPOSITORY

VARLINKCTL = REPOSITORY / ".cache/varlink/bin/varlinkctl"


class VarlinkClient:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, method: str, parameters: dict[str, Any] | None = None, **flags: bool) -> None:
        self.send_raw(
            json.dumps({"method": method, "parameters": parameters or {}, **flags}).encode() + b"\0"
        )

    def send_raw(self, data: bytes) -> None:
        self.writer.write(data)

    async def reply(self) -> dict[str, Any]:
        async with asyncio.timeout(20):
            message = await self.reader.readuntil(b"\0")
        document: dict[str, Any] = json.loads(message[:-1])
        return document

    async def call(self, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        self.send(method, parameters)
        return await self.reply()

    async def closed(self) -> bool:
        """Wait until the other side has hung up; false if it says something instead."""
        async with asyncio.timeout(20):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[VarlinkClient]:
    reader, writer = await asyncio.open_unix_connection(str(path), limit=1 << 24)
    try:
        yield VarlinkClient(reader, writer)
    finally:
        writer.close()


class UserClient:
    def __init__(self, running: asyncio.subprocess.Process) -> None:
        self.process = running

    async def call(self, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        self.send(method, parameters)
        return await self.reply()

    def send(self, method: str, parameters: dict[str, Any] | None = None) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([method, parameters]).encode() + b"\n")

    async def reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            document: dict[str, Any] = json.loads(await self.process.stdout.readline())
            return document


@asynccontextmanager
async def user_client(path: Path, uid: int) -> AsyncIterator[UserClient]:
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.varlink", str(path), str(uid)),
        cwd=REPOSITORY,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    client = UserClient(running)
    try:
        assert await client.reply() == {}
        yield client
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


async def varlinkctl(*arguments: str) -> tuple[int, str, str]:
    done = await process.run((str(VARLINKCTL), *arguments), deadline_secs=30, limit=1 << 20)
    return done.status, done.stdout.decode(), done.stderr.decode()


class Definition:
    """The types, methods and errors of an interface definition, to hold messages against."""

    def __init__(self, text: str) -> None:
        text = re.sub(r"#.*", "", text)
        self.types = {
            name: _members(body) for name, body in re.findall(r"\btype (\w+)\s*\((.*?)\)", text, re.S)
        }
        methods = re.findall(r"\bmethod (\w+)\s*\((.*?)\)\s*->\s*\((.*?)\)", text, re.S)
        self.methods = {name: (_members(given), _members(answer)) for name, given, answer in methods}
        self.errors = {
            name: _members(body) for name, body in re.findall(r"\berror (\w+)\s*\((.*?)\)", text, re.S)
        }

    def check(self, value: Any, members: dict[str, str]) -> None:
        """Fail unless an object has the members it must have, of their types, and no others."""
        assert isinstance(value, dict)
        assert value.keys() <= members.keys()
        for name, kind in members.items():
            if name in value:
                self._check(value[name], kind.removeprefix("?"))
            else:
                assert kind.startswith("?"), name

    def _check(self, value: Any, kind: str) -> None:
        if kind.startswith("[]"):
            for item in value:
                self._check(item, kind[2:])
        elif kind in self.types:
            self.check(value, self.types[kind])
        else:
            wanted = {"string": str, "bool": bool, "int": int, "float": (int, float), "object": dict}[kind]
            assert isinstance(value, wanted), (value, kind)


def _members(body: str) -> dict[str, str]:
    return dict(re.findall(r"(\w+)\s*:\s*([?\[\]\w]+)", body))


async def _serve_user(path: str) -> None:
    async with connected(Path(path)) as client:
        print("{}", flush=True)
        for line in iter(sys.stdin.readline, ""):
            client.send(*json.loads(line))
            print(json.dumps(await client.reply()), flush=True)


if __name__ == "__main__":
    os.setgroups([])
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
    asyncio.run(_serve_user(sys.argv[1]))
