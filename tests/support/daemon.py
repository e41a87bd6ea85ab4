"""The daemon as a process on a bus of its own, with the service manager's socket in the test's hands.

With `scripted` its workers are those of `scripted_worker`, which this module then puts in the place of
the real ones: `python -m tests.support.daemon ARGUMENTS` is the daemon but for that.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from dbus_fast import Message

from tests.support.bus import PrivateBus
from tests.support.jobs import SCRIPTED_WORKER
from tests.support.machine import REPOSITORY


class Daemon:
    """`root` becomes the home of all its directories; the system root there is empty at first."""

    def __init__(self, root: Path, bus: PrivateBus, *, scripted: bool = False) -> None:
        self.root = root
        self.bus = bus
        self.module = "tests.support.daemon" if scripted else "bootcd"
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.manager.bind(str(root / "notify"))
        self.process: asyncio.subprocess.Process | None = None
        self.environment = {
            **os.environ,
            "STATE_DIRECTORY": str(root / "state"),
            "RUNTIME_DIRECTORY": f"{root}/run:/never",
            "NOTIFY_SOCKET": str(root / "notify"),
            "PYTHONPATH": str(REPOSITORY),
        }
        (root / "conf").mkdir()
        (root / "sysroot").mkdir(exist_ok=True)
        self.configure()

    def configure(self, **updates: object) -> None:
        lines = [f"{key} = {json.dumps(value)}" for key, value in {"mode": "off", **updates}.items()]
        (self.root / "conf/test.toml").write_text(
            "[updates]\n" + "\n".join(lines) + f'\n[host]\nsysroot = "{self.root}/sysroot"\n'
        )

    async def start(
        self, *arguments: str, stderr: int = asyncio.subprocess.PIPE
    ) -> asyncio.subprocess.Process:
        command = ("-m", self.module, "--config-dir", f"{self.root}/conf", "--bus", self.bus.address)
        return await asyncio.create_subprocess_exec(
            sys.executable, *command, *arguments, env=self.environment, stderr=stderr
        )

    async def heard(self, wanted: str) -> list[str]:
        """Return the manager's lines up to one that starts as wanted."""
        lines: list[str] = []
        async with asyncio.timeout(20):
            while not any(line.startswith(wanted) for line in lines):
                data = await asyncio.get_running_loop().sock_recv(self.manager, 4096)
                lines += data.decode().split("\n")
        return lines

    async def call(
        self, member: str, signature: str = "", *body: Any, path: str = "", interface: str = "Manager"
    ) -> Message:
        client = await self.bus.connect()
        try:
            reply = await client.call(
                Message(
                    "org.bootcd1",
                    path or "/org/bootcd1",
                    f"org.bootcd1.{interface}",
                    member,
                    signature=signature,
                    body=[*body],
                )
            )
        finally:
            client.disconnect()
        assert reply is not None
        return reply

    def read(self, name: str) -> Any:
        path = self.root / "run" / name
        return json.loads(path.read_text()) if path.exists() else {}


@asynccontextmanager
async def running(
    daemon: Daemon, *, stderr: int = asyncio.subprocess.PIPE
) -> AsyncIterator[asyncio.subprocess.Process]:
    started = await daemon.start(stderr=stderr)
    await daemon.heard("READY=1")
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def errors_of(ended: asyncio.subprocess.Process) -> str:
    async with asyncio.timeout(20):
        _, stderr = await ended.communicate()
    return stderr.decode()


def resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


if __name__ == "__main__":
    from bootcd import __main__, app

    app.WORKER = SCRIPTED_WORKER
    sys.exit(__main__.main())
