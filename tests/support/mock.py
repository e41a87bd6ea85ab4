"""`bootcctl mock` as a process on a private session bus."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.machine import REPOSITORY


@asynccontextmanager
async def session_bus(directory: Path) -> AsyncIterator[str]:
    """Run an ordinary session bus; yield its address."""
    daemon = await asyncio.create_subprocess_exec(
        *("dbus-daemon", "--session", "--nofork", "--nopidfile", "--print-address"),
        f"--address=unix:path={directory}/session",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert daemon.stdout is not None
        async with asyncio.timeout(20):
            yield (await daemon.stdout.readline()).decode().strip()
    finally:
        if daemon.returncode is None:
            daemon.kill()
        await daemon.wait()


@asynccontextmanager
async def mocked(address: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the stand-in on a session bus until it is left."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bootcctl", "mock", *arguments),
        cwd=REPOSITORY,
        env={**os.environ, "DBUS_SESSION_BUS_ADDRESS": address},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            line = await process.stdout.readline()
        if not line:
            _, errors = await process.communicate()
            raise AssertionError(errors.decode())
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(20):
            await process.communicate()


async def run(address: str, *command: str) -> tuple[int, str, str]:
    """Run a client that takes the session bus for the system bus."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=REPOSITORY,
        env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": address, "DBUS_SESSION_BUS_ADDRESS": address},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(40):
        out, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), errors.decode()
