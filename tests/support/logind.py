"""The real systemd-logind on a private bus, with a /run of its own.

It finds nobody to write to there, and no service manager to start sessions with; all it needs for schedules
and inhibitors it has.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.bus import PrivateBus

POLICY = Path("/usr/share/dbus-1/system.d/org.freedesktop.login1.conf")
NAME, PATH = "org.freedesktop.login1", "/org/freedesktop/login1"
MANAGER, SESSION = "org.freedesktop.login1.Manager", "org.freedesktop.login1.Session"

_SCRIPT = (
    "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system /run/systemd/seats && "
    "exec /lib/systemd/systemd-logind"
)


@asynccontextmanager
async def real_logind(bus: PrivateBus, directory: Path) -> AsyncIterator[None]:
    """Run it until it is left; the bus needs `POLICY`."""
    with (directory / "logind.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *("unshare", "--mount", "sh", "-c", _SCRIPT),
            env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus.address, "SYSTEMD_LOG_TARGET": "console"},
            stdout=log,
            stderr=log,
        )
    try:
        await bus.wait_for_name(NAME)
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
