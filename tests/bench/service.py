"""Figures of the daemon and its client on a booted host, at rest and while an image is staged."""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import subprocess
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.bench.report import MIB, Figure, percentile
from tests.support.faultproxy import FaultProxy, Seen
from tests.support.host import PERSON, PYTHON, Host, install
from tests.support.machine import REPOSITORY, Machine, minimal_tree
from tests.support.os_image import OsImages
from tests.support.registry import Registry

_INSIDE = REPOSITORY / "tests/bench/inside.py"
_INTERVAL_SECS = 0.01
_STARTS = 10
_SETTLE_SECS = 20

Latencies = list[tuple[float, float]]


async def measure_service(
    disk: Path, registry: Registry, images: OsImages, image: str, rounds: int
) -> list[Figure]:
    """Boot a host with a tiny system, measure it, switch it to `image`, measure that as well."""
    await install(disk / "overlay")
    machine = await Machine.create(
        disk / "machine", overlay=disk / "overlay/usr", binds=[PYTHON.parent.parent]
    )
    async with machine, FaultProxy(registry.url) as proxy:
        host = Host(machine, registry, images)
        tree = minimal_tree(disk / "tree")
        with (tree / "usr/etc/passwd").open("a") as users:
            users.write(f"nobody:x:{PERSON}:{PERSON}::/:/bin/false\n")  # the bus refuses who is not listed
        await machine.install_fixture(tree, image=f"{registry.host}/{image}")
        await host.boot()
        figures = [await _start(host, rounds), *await _rest(host), *await _client(host)]
        async with _status_latency(host) as at_rest:
            await asyncio.sleep(2)
        figures += _latency_figures("at rest", at_rest, limit=None)
        figures += await _while_staging(host, f"{registry.host}/{image}")
        figures += await _no_change_check(host, proxy, f"{proxy.host}/{image}")
    return figures


async def _start(host: Host, rounds: int) -> Figure:
    found = [await _restart(host) for _ in range(rounds)]
    return Figure("daemon, start to name owned", 1000 * statistics.median(found), "ms", 500)


async def _restart(host: Host) -> float:
    """Return the seconds from the start of the daemon's process to its name on the bus."""
    assert host.daemon is not None
    host.daemon.terminate()
    await host.daemon.wait()
    started = time.monotonic()
    await host.start_daemon()
    return time.monotonic() - started


async def _rest(host: Host) -> list[Figure]:
    """Return the daemon's memory once nothing is going on."""
    assert host.daemon is not None
    await host.status()
    proc = Path(f"/proc/{host.daemon.pid}")
    async with asyncio.timeout(_SETTLE_SECS):
        while (proc / f"task/{host.daemon.pid}/children").read_text():  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.05)
    memory = dict(re.findall(r"^(\w+): +(\d+) kB", (proc / "smaps_rollup").read_text(), re.MULTILINE))
    proportional = int(memory["Pss"]) * 1024 / MIB
    note = f"{proportional:.1f} MiB with shared pages divided"
    return [Figure("daemon at rest, resident memory", int(memory["Rss"]) * 1024 / MIB, "MiB", 40, note)]


async def _client(host: Host) -> list[Figure]:
    figures = []
    for name, command, limit in (
        ("the interpreter that does nothing", "/usr/bin/python3 -I -c pass", None),
        ("bootcctl --help, end to end", "/usr/bin/bootcctl --help", None),
        ("bootcctl status, end to end", "/usr/bin/bootcctl status", 80),
    ):
        run: list[str | Path] = [PYTHON, _INSIDE, "startup", str(_STARTS), *command.split()]
        done = await host.machine.run(run, user=PERSON)
        figures.append(Figure(name, 1000 * statistics.median(json.loads(done.stdout)), "ms", limit))
    return figures


@asynccontextmanager
async def _status_latency(host: Host) -> AsyncGenerator[Latencies, None]:
    """Call GetStatus all the time as an ordinary user; the list is filled at the end."""
    pipe = subprocess.PIPE
    command: list[str | Path] = [PYTHON, _INSIDE, "latency", str(_INTERVAL_SECS)]
    process = await host.machine.popen(command, user=PERSON, stdin=pipe, stdout=pipe)
    found: Latencies = []
    try:
        assert process.stdout is not None
        async with asyncio.timeout(_SETTLE_SECS):
            ready = await process.stdout.readline()
        if ready.strip() != b"ready":
            raise RuntimeError("the client of the bus did not get a status")
        yield found
        async with asyncio.timeout(_SETTLE_SECS):
            output, _ = await process.communicate(b"")
        found += json.loads(output)
    finally:
        process.kill()
        await process.wait()


def _latency_figures(when: str, found: Latencies, limit: float | None) -> list[Figure]:
    took = [1000 * secs for _, secs in found]
    note = f"{len(took)} calls"
    return [
        Figure(f"GetStatus {when}, p50", percentile(took, 0.5), "ms", note=note),
        Figure(f"GetStatus {when}, p99", percentile(took, 0.99), "ms", limit),
        Figure(f"GetStatus {when}, max", max(took), "ms"),
    ]


async def _while_staging(host: Host, reference: str) -> list[Figure]:
    async with _status_latency(host) as found:
        started = time.monotonic()
        await host.ctl("switch", reference)
        ended = time.monotonic()
    during = [(when, took) for when, took in found if started <= when <= ended]
    return [
        *_latency_figures("while an image is staged", during, limit=10),
        Figure("bootcctl switch to another image, staged", ended - started, "s"),
    ]


async def _no_change_check(host: Host, proxy: FaultProxy, reference: str) -> list[Figure]:
    # Only now a proxy that counts: it would have taken a part of the machine during the pull.
    host.front = proxy.host
    await _restart(host)
    await host.ctl("switch", reference)
    before = len(proxy.requests)
    started = time.monotonic()
    done = await host.ctl("check", check=False)
    took = 1000 * (time.monotonic() - started)
    if done.returncode != 77:
        raise RuntimeError(f"check ended with {done.returncode}: {done.stderr}")
    seen = proxy.requests[before:]
    assert host.daemon is not None
    left = Path(f"/proc/{host.daemon.pid}/task/{host.daemon.pid}/children").read_text().split()
    note = ", ".join(f"{request.method} {request.path.rpartition('/v2/')[2]}" for request in seen)
    return [
        Figure("check with nothing new, requests", len(seen), "", 1, note),
        Figure("check with nothing new, bytes asked and answered", sum(map(_size, seen)), "B", 4096),
        Figure("check with nothing new, worker processes left", len(left), "", 0),
        Figure("check with nothing new, end to end", took, "ms"),
    ]


def _size(seen: Seen) -> int:
    """Return the bytes of a request's head and of its answer's body."""
    headers = sum(len(f"{name}: {value}\r\n".encode()) for name, value in seen.headers.items())
    return len(f"{seen.method} {seen.path} HTTP/1.1\r\n\r\n".encode()) + headers + seen.body_bytes
