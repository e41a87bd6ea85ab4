"""What runs inside a virtual machine, driven by ssh: commands, the client, the journal.

One connection is shared by all commands of a user, as each costs an emulated machine seconds.
"""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.vm.qemu import Machine, reaped

COMMAND_SECS = 180
_CONNECT_SECS = 60
_LOOK_SECS = 0.3
_CONNECTION_LOST = 255
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Done:
    status: int
    stdout: str
    stderr: str


async def until(look: Callable[[], Awaitable[_T | None]], secs: float) -> _T:
    """Look again and again until there is something to see; what a guest does sends the test no event."""
    async with asyncio.timeout(secs):
        while True:
            if (found := await look()) is not None:
                return found
            await asyncio.sleep(_LOOK_SECS)


class Guest:
    """The system on `machine`; `key` opens it for `root` and `person`."""

    def __init__(self, machine: Machine, key: Path) -> None:
        self.machine = machine
        self._key = key
        self._masters: dict[str, asyncio.subprocess.Process] = {}

    async def run(
        self, command: str, *, user: str = "root", check: bool = True, secs: float = COMMAND_SECS
    ) -> Done:
        """Run a shell command; one that does not end in time is an error, as is one that fails if `check`."""
        await self._connect(user)
        process = await asyncio.create_subprocess_exec(
            *self._ssh(user),
            command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with reaped(process):
            try:
                async with asyncio.timeout(secs):
                    output, errors = await process.communicate()
            except TimeoutError:
                # The shared connection holds the command's output open.
                await self.disconnect()
                raise TimeoutError(f"{command!r} did not end within {secs} s") from None
        assert process.returncode is not None
        done = Done(process.returncode, output.decode(errors="replace"), errors.decode(errors="replace"))
        assert not check or done.status == 0, f"{command!r} ended with {done}"
        return done

    async def text(self, command: str, *, user: str = "root") -> str:
        return (await self.run(command, user=user)).stdout.strip()

    async def json(self, command: str, *, user: str = "root") -> Any:
        return json.loads((await self.run(command, user=user)).stdout)

    async def status(self, user: str = "person") -> dict[str, Any]:
        """Return the status part of the host document."""
        return dict((await self.json("bootcctl status --json", user=user))["status"])

    async def write(self, path: str, text: str) -> None:
        await self.run(f"mkdir -p {shlex.quote(str(Path(path).parent))}; echo {shlex.quote(text)} >{path}")

    async def reboot(self, command: str = "systemctl reboot") -> str:
        """Reboot in good order by `command` and return the name of what comes up."""
        await self.go_down(command)
        return await self.rebooted()

    async def go_down(self, command: str = "systemctl reboot") -> None:
        """Run a command that ends in a reboot, which may end the connection before the command."""
        done = await self.run(command, check=False)
        assert done.status in (0, _CONNECTION_LOST), f"{command!r} ended with {done}"

    async def rebooted(self) -> str:
        """Wait for the end of a reboot that is under way; return the name of what has come up."""
        name = await self.machine.booted()
        await self.disconnect()
        return name

    @asynccontextmanager
    async def lines(self, command: str, *, user: str = "root") -> AsyncIterator[AsyncIterator[bytes]]:
        """Run a command that goes on, and iterate over what it prints."""
        await self._connect(user)
        process = await asyncio.create_subprocess_exec(
            *self._ssh(user), command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
        async with reaped(process):
            assert process.stdout is not None
            yield aiter(process.stdout)

    async def disconnect(self) -> None:
        """Forget the connections, as the guest has; the next command makes new ones."""
        for user, master in self._masters.items():
            if master.returncode is None:
                master.kill()
            await master.wait()
            # One that was killed leaves its socket, and the next would not listen.
            self._control(user).unlink(missing_ok=True)
        self._masters.clear()

    async def _connect(self, user: str) -> None:
        """Have a connection that commands of `user` share; the guest's network comes up in its own time."""
        if (master := self._masters.get(user)) and master.returncode is None:
            return
        async with asyncio.timeout(_CONNECT_SECS):
            while True:
                master = await asyncio.create_subprocess_exec(
                    *self._ssh(user, "-M", "-N", "-n"),
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                )
                self._masters[user] = master
                while master.returncode is None:
                    if await self._is_connected(user):
                        return
                    await asyncio.sleep(0.2)

    async def _is_connected(self, user: str) -> bool:
        process = await asyncio.create_subprocess_exec(
            *self._ssh(user, "-O", "check"), stderr=asyncio.subprocess.DEVNULL
        )
        async with reaped(process):
            return await process.wait() == 0

    async def journal(self) -> str:
        return (await self.run("journalctl --no-pager --output=short-monotonic", check=False, secs=60)).stdout

    def _control(self, user: str) -> Path:
        return Path(self.machine.socket_directory, f"ssh-{user}")

    def _ssh(self, user: str, *more: str) -> list[str]:
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "ConnectTimeout": "20",
            "ControlPath": str(self._control(user)),
            "ServerAliveInterval": "30",
        }
        words = ["ssh", "-F", "none", "-i", str(self._key), "-p", str(self.machine.ssh_port)]
        for name, value in options.items():
            words += ["-o", f"{name}={value}"]
        return [*words, *more, f"{user}@127.0.0.1"]
