"""Other services of a host as python-dbusmock plays them by its own templates, each a process on a bus."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from dbus_fast import Variant

from tests.support.bus_peers import DBUS, Peer, connected, plain

_CONTROL = "org.freedesktop.DBus.Mock"
_PROPERTIES = "org.freedesktop.DBus.Properties"


_POLICY = """<busconfig>
 <policy user="root">{}</policy>
 <policy context="default"><allow send_type="method_call"/></policy>
</busconfig>"""


def mock_policy(directory: Path, *names: str) -> Path:
    """Write the policy with which root plays services of these names, as the real ones have theirs."""
    path = directory / "mocks.conf"
    path.write_text(_POLICY.format("".join(f'<allow own="{name}"/>' for name in names)))
    return path


class Mock:
    """One service; `peer` is a client beside it."""

    def __init__(self, peer: Peer, name: str, path: str) -> None:
        self.peer = peer
        self.name = name
        self.path = path

    async def control(self, member: str, signature: str = "", *body: Any, path: str = "") -> Any:
        """Call one of dbusmock's own methods and return its answer."""
        answer = await self.peer.call(
            path or self.path, _CONTROL, member, signature, [*body], destination=self.name
        )
        assert not answer.error, answer.body
        return answer.body[0] if answer.body else None

    async def change(self, interface: str, path: str = "", **properties: Variant) -> None:
        """Change properties and tell, as the real service does."""
        await self.control("UpdateProperties", "sa{sv}", interface, properties, path=path)

    async def calls(self, member: str, path: str = "") -> list[list[Any]]:
        """Return the arguments of all calls of a method so far."""
        found = await self.control("GetMethodCalls", "s", member, path=path)
        return [plain(arguments) for _, arguments in found]


@asynccontextmanager
async def dbusmock(
    address: str, template: str, name: str, path: str, *, session: bool = False, **parameters: Any
) -> AsyncIterator[Mock]:
    """Run a template, or with an empty one a service without anything, until it is left."""
    kind = "SESSION" if session else "SYSTEM"
    chosen = (
        ("--template", template, "--parameters", json.dumps(parameters))
        if template
        else (f"--{kind.lower()}", name, path, name)
    )
    async with connected(address) as peer:
        await peer.listen(f"type='signal',sender='{DBUS}',member='NameOwnerChanged',arg0='{name}'")
        process = await asyncio.create_subprocess_exec(
            *("/usr/bin/python3", "-m", "dbusmock", *chosen),
            env={**os.environ, f"DBUS_{kind}_BUS_ADDRESS": address},
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:
            await peer.signal(lambda message: message.member == "NameOwnerChanged" and message.body[2] != "")
            yield Mock(peer, name, path)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
