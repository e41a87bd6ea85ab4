"""How long callers wait for an answer when many call at once, with one worker that holds the host."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

from tests.bench.report import Figure, percentile
from tests.support.bus_peers import Peer, connected, private_bus
from tests.support.daemon import Daemon, running
from tests.support.jobs import DONE, WorkerScript
from tests.support.service import STAGED, show_host

CLIENTS = 50
_CALLS = (
    *(("Check", "a{sv}", [{}]), ("Upgrade", "a{sv}", [{}]), ("Apply", "a{sv}", [{}])),
    *(("GetStatus", "a{sv}", [{}]), ("Rollback", "a{sv}", [{}])),
)


async def measure_answers(directory: Path) -> list[Figure]:
    """Have clients that are connected already call mixed verbs at the same moment."""
    directory.mkdir()
    script = WorkerScript(directory / "sysroot")
    show_host(script, STAGED)
    script.steps(["ready"], ["hold"], DONE)

    async def call(number: int, peer: Peer) -> tuple[float, str]:
        member, signature, body = _CALLS[number % len(_CALLS)]
        began = time.monotonic()
        answer = await peer.call("/org/bootcd1", "org.bootcd1.Manager", member, signature, body)
        return 1000 * (time.monotonic() - began), answer.error or "answered"

    async with private_bus() as bus:
        daemon = Daemon(directory, bus, scripted=True)
        with daemon.manager:
            async with running(daemon), AsyncExitStack() as stack:
                await daemon.call("GetStatus", "a{sv}", {})
                peers = [await stack.enter_async_context(connected(bus.address)) for _ in range(CLIENTS)]
                found = await asyncio.gather(*(call(*item) for item in enumerate(peers)))
                workers = len(script.pids())
                script.release()
    script.close()
    took = [milliseconds for milliseconds, _ in found]
    busy = sum(error == "org.bootcd1.Error.Busy" for _, error in found)
    note = f"{CLIENTS - busy} answered, {busy} told Busy, {workers} worker"
    return [
        Figure(f"{CLIENTS} clients with mixed verbs at once, p50", percentile(took, 0.5), "ms"),
        Figure(f"{CLIENTS} clients with mixed verbs at once, slowest", max(took), "ms", 100, note),
    ]
