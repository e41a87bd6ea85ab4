"""Two hosts of a fleet that lets one reboot at a time, each with its own daemon, bus, root, pids and network.

From there they reach the FleetLock server and nothing else. Time is hurried where a host only waits.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from uuid import uuid4

import pytest

from bootcd.fleetlock import client_id
from bootcd.model.job import JobKind
from tests.support.bus import PrivateBus
from tests.support.deployed import Host, deploy_first, prepared_host
from tests.support.fleet_lock import FleetLockServer
from tests.support.foreign import PYTHON
from tests.support.hurried import BEGIN
from tests.support.jobs import eventually
from tests.support.machine import REPOSITORY
from tests.support.network import Network

pytestmark = [pytest.mark.machine, pytest.mark.timeout(300)]

CONFIG = """
[updates]
mode = "apply"
interval = "30d"

[fleet-lock]
url = "http://127.0.0.1:{port}/base"

[registry]
retries = 0
"""


class Member:
    """A host of the fleet; its next version is staged, and nobody but its daemon has it reboot."""

    def __init__(self, host: Host, server: FleetLockServer, network: Network) -> None:
        self.host = host
        self._machine = host.machine
        self._server = server
        self._network = network
        self._machine_id = uuid4().hex
        self.id = client_id(self._machine_id)

    async def begin(self) -> None:
        """Boot version 1 and stage version 2; from then on the host is alone with the server."""
        await deploy_first(self.host)
        self._machine.path("/etc/machine-id").write_text(f"{self._machine_id}\n")
        await self._identify_boot()
        await self.host.publish("2")
        await self.host.done(JobKind.UPGRADE)
        await self._server.serve(self._network.listener)
        self._machine.network = self._network.path
        config = self._machine.path("/run/fleet/10-test.toml")
        config.parent.mkdir()
        config.write_text(CONFIG.format(port=self._network.port))
        await PrivateBus.start(self._machine)

    async def start(self) -> None:
        await self._machine.popen(
            [PYTHON, "-m", "tests.support.hurried", "--config-dir=/run/fleet"],
            env={"PYTHONPATH": str(REPOSITORY)},
            stderr=subprocess.DEVNULL,
        )

    @property
    def is_rebooting(self) -> bool:
        return self._machine.path("/run/reboot-requested").exists()

    @property
    def asked(self) -> int:
        """How often it has asked whether it may reboot."""
        return self._server.asked.count(("pre-reboot", self.id))

    async def asks_in_vain(self, times: int) -> None:
        """Let time go by until it has asked so many times again; it must not reboot."""
        wanted = self.asked + times
        self._machine.path(str(BEGIN)).touch()
        await eventually(lambda: self.asked >= wanted or self.is_rebooting)
        self._machine.path(str(BEGIN)).unlink()
        assert not self.is_rebooting

    async def reboots(self) -> None:
        self._machine.path(str(BEGIN)).touch()
        await eventually(lambda: self.is_rebooting)

    async def shut_down(self) -> None:
        await self._machine.shutdown()

    async def come_back(self) -> str:
        """Boot, and return the version."""
        entry = await self._machine.boot()
        await self._identify_boot()
        return self.host.version_of(entry.deployment.name)

    async def judge(self) -> int:
        """Do what the units of a boot do, and return whether it is good, as an exit code."""
        judged = await self._machine.run([PYTHON, "-m", "bootcd.health"], check=False)
        if judged.returncode == 0:  # which is what boot-complete.target waits for
            await self._machine.run([PYTHON, "-m", "bootcd.health", "unlock"])
        return judged.returncode

    async def _identify_boot(self) -> None:
        """Give this boot the id that a kernel would."""
        self._machine.path("/run/boot-id").write_text(f"{uuid4()}\n")
        await self._machine.run(["mount", "--bind", "/run/boot-id", "/proc/sys/kernel/random/boot_id"])


@pytest.fixture
async def server() -> AsyncIterator[FleetLockServer]:
    async with FleetLockServer(slots=1) as server:
        yield server


@pytest.fixture
async def members(tmp_path: Path, server: FleetLockServer) -> AsyncIterator[tuple[Member, Member]]:
    async with AsyncExitStack() as stack:

        async def member(name: str) -> Member:
            (tmp_path / name).mkdir()
            host = await stack.enter_async_context(prepared_host(tmp_path / name))
            return Member(host, server, stack.enter_context(closing(Network())))

        one, two = await member("one"), await member("two")
        await asyncio.gather(one.begin(), two.begin())
        yield one, two


async def test_second_host_waits_while_the_first_is_away_and_until_its_boot_is_good(
    server: FleetLockServer, members: tuple[Member, Member]
) -> None:
    async with asyncio.timeout(200):
        await asyncio.gather(*(member.start() for member in members))
        await eventually(lambda: all(member.asked for member in members))
        await eventually(lambda: any(member.is_rebooting for member in members))
        [first] = [member for member in members if member.is_rebooting]
        [second] = [member for member in members if member is not first]
        assert server.holders == {"default": {first.id}}

        await first.shut_down()
        await second.asks_in_vain(2)  # and so it would be if the first never came back

        assert await first.come_back() == "2"
        await second.asks_in_vain(1)
        assert server.holders == {"default": {first.id}}
        assert await first.judge() == 0
        await second.reboots()

    assert server.holders == {"default": {second.id}}
    assert server.most == 1, "never two at a time"
