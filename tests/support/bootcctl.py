"""bootcctl as a process of its own, whose output can be awaited while it runs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
_DEADLINE_SECS = 20.0


class Command:
    """A started command; `out` and `err` are what it has written so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.out = ""
        self.err = ""
        self._read_documents = 0
        self._grown = asyncio.Condition()
        self._readers = [
            asyncio.create_task(self._read(stream, name))
            for stream, name in ((process.stdout, "out"), (process.stderr, "err"))
            if stream is not None
        ]

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    @property
    def code(self) -> int:
        """The exit code, once it has ended."""
        assert self._process.returncode is not None
        return self._process.returncode

    async def _read(self, stream: asyncio.StreamReader, name: str) -> None:
        while data := await stream.read(65536):
            async with self._grown:
                setattr(self, name, getattr(self, name) + data.decode())
                self._grown.notify_all()
        async with self._grown:
            self._grown.notify_all()

    async def _await(self, name: str, text: str) -> None:
        async with asyncio.timeout(_DEADLINE_SECS), self._grown:
            while text not in getattr(self, name):
                ended = all(reader.done() for reader in self._readers) or not self.running
                assert not ended, f"ended without saying {text!r}: {self.out!r} {self.err!r}"
                await self._grown.wait()

    async def says(self, text: str) -> None:
        """Wait for a text on standard error."""
        await self._await("err", text)

    async def prints(self, text: str) -> None:
        """Wait for a text on standard output."""
        await self._await("out", text)

    async def document(self) -> dict[str, Any]:
        """Return the next line of standard output as JSON."""
        self._read_documents += 1
        async with asyncio.timeout(_DEADLINE_SECS), self._grown:
            while self.out.count("\n") < self._read_documents:
                assert self.running, f"ended: {self.err!r}"
                await self._grown.wait()
        document: dict[str, Any] = json.loads(self.out.splitlines()[self._read_documents - 1])
        return document

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the end and all output; return the exit code."""
        try:
            async with asyncio.timeout(_DEADLINE_SECS):
                await asyncio.gather(*self._readers)
                return await self._process.wait()
        except TimeoutError:
            self._process.kill()
            raise AssertionError(f"did not end: {self.out!r} {self.err!r}") from None


async def start_bootcctl(
    address: str, *argv: str, stdout: int = asyncio.subprocess.PIPE, **environ: str
) -> Command:
    """Start bootcctl against the bus at an address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bootcctl",
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], "DBUS_SYSTEM_BUS_ADDRESS": address, **environ},
    )
    return Command(process)
