"""What a host sends when it is told to do nothing by itself: the daemon in a network namespace of its own."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.bus import PrivateBus
from tests.support.deployed import Host, deploy_first, prepared_host
from tests.support.foreign import PYTHON
from tests.support.hurried import BEGIN, OVER
from tests.support.jobs import eventually
from tests.support.machine import REPOSITORY

pytestmark = [pytest.mark.machine, pytest.mark.timeout(300)]

# A host with a way out: whatever is sent is counted at `lo` or `out`. The kernel itself would send for IPv6.
_NAMESPACE = f"""
set -e
echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
ip link add out type veth peer name far
ip link set lo up
ip link set far up
ip link set out up
ip address add 192.0.2.2/24 dev out
ip route add default via 192.0.2.1
cat /proc/self/net/dev >/run/before
exec {PYTHON} -m tests.support.hurried --config-dir=/run/silence
"""


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with prepared_host(tmp_path) as host:
        await deploy_first(host)
        yield host


def packets(text: str) -> dict[str, int]:
    """Return what each interface received and sent, from the text of /proc/net/dev."""
    found = {}
    for line in text.splitlines()[2:]:
        name, _, figures = line.partition(":")
        received, sent = figures.split()[1], figures.split()[9]
        found[name.strip()] = int(received) + int(sent)
    return found


async def a_day_of(
    host: Host, mode: str, *, until_checked: bool = False
) -> tuple[dict[str, int], dict[str, Any]]:
    """Let a day pass for a daemon of this mode; return what was sent by interface, and what it says then.

    `until_checked`: or as much of the day as goes by until it has looked for an update.
    """
    machine = host.machine
    service = machine.path("/run/bootcd/service.json")
    for path in (BEGIN, OVER):
        machine.path(str(path)).unlink(missing_ok=True)
    service.unlink(missing_ok=True)
    config = machine.path("/run/silence/10-test.toml")
    config.parent.mkdir(exist_ok=True)
    config.write_text(f'[updates]\nmode = "{mode}"\n[registry]\ninsecure = ["{host.front}"]\nretries = 0\n')
    daemon = await machine.popen(
        ["unshare", "--net", "sh", "-c", _NAMESPACE],
        env={"PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(200):
            await eventually(lambda: service.exists() and json.loads(service.read_text())["state"] == "idle")
            machine.path(str(BEGIN)).touch()
            over = machine.path(str(OVER))
            await eventually(
                lambda: (
                    over.exists() or (until_checked and bool(json.loads(service.read_text())["last-check"]))
                )
            )
            after = packets(Path(f"/proc/{daemon.pid}/net/dev").read_text())
    finally:
        daemon.kill()
        await daemon.wait()
    before = packets(machine.path("/run/before").read_text())
    return {name: after[name] - before[name] for name in after}, json.loads(service.read_text())


async def test_mode_off_sends_not_one_packet_in_a_day(host: Host) -> None:
    await PrivateBus.start(host.machine)
    sent, service = await a_day_of(host, "off")
    assert service["next-action"]["reason"] == "background work is switched off"
    assert (service["state"], service["last-check"]) == ("idle", 0)
    assert sent == {"lo": 0, "out": 0, "far": 0}

    # A host that looks for updates on that day: nobody answers in there, and what is asked is counted.
    sent, service = await a_day_of(host, "check", until_checked=True)
    assert service["last-check-result"] == "RegistryUnavailable"
    assert sent["lo"] > 0
