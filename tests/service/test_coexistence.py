"""A host others change while our daemon looks, and boots somebody chose from the menu."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from bootcd.model.job import JobKind
from tests.support.bus import PrivateBus
from tests.support.deployed import Host, deploy_first, prepared_host
from tests.support.foreign import PYTHON, deploy, reorder
from tests.support.jobs import eventually

pytestmark = [pytest.mark.machine, pytest.mark.timeout(180)]

DEADLINE_SECS = 15.0
"For a machine that does much else; what is promised is a second."


@pytest.fixture
async def host(stack: AsyncExitStack, tmp_path: Path) -> Host:
    host = await stack.enter_async_context(prepared_host(tmp_path))
    await deploy_first(host)
    return host


class Shown:
    """What the daemon's file says of the host, read as anybody may."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.delays: list[float] = []

    def read(self, name: str = "status.json") -> dict[str, Any]:
        text = self._host.read(f"/run/bootcd/{name}")
        return dict(json.loads(text)) if text else {}

    async def look_secs(self) -> float:
        """Return what the fastest of a few looks at the host takes."""
        took = []
        for _ in range(3):
            begun = time.monotonic()
            await self._host.status()
            took.append(time.monotonic() - begun)
        return min(took)

    async def after(self, change: Callable[[], Awaitable[object]], wanted: Callable[[Any], bool]) -> None:
        """Change the host as others do, and note how long it takes to be shown."""
        assert not wanted(self.read().get("status"))
        await change()
        begun = time.monotonic()
        async with asyncio.timeout(DEADLINE_SECS):
            await eventually(lambda: bool((status := self.read().get("status")) and wanted(status)))
        self.delays.append(time.monotonic() - begun)


async def start_daemon(host: Host, stack: AsyncExitStack) -> Shown:
    bus = await PrivateBus.start(host.machine)
    log = stack.enter_context((host.machine.directory / "daemon.log").open("ab"))
    command = [PYTHON, "-m", "bootcd", "--config-dir=/run/none"]
    await host.machine.popen(command, stdout=log.fileno(), stderr=log.fileno())
    await bus.wait_for_name("org.bootcd1")
    shown = Shown(host)
    async with asyncio.timeout(DEADLINE_SECS):
        await eventually(lambda: "status" in shown.read())
    return shown


async def test_changes_others_make_are_shown_within_a_second(host: Host, stack: AsyncExitStack) -> None:
    machine = host.machine
    await host.publish("2")
    await host.done(JobKind.UPGRADE)
    assert await host.reboot() == "2"
    second = await host.commit("3")
    shown = await start_daemon(host, stack)
    look = await shown.look_secs()

    def run(*command: str) -> Callable[[], Awaitable[object]]:
        return lambda: machine.run(command)

    await shown.after(run("ostree", "admin", "pin", "1"), lambda s: s["rollback"]["pinned"])
    await shown.after(run("ostree", "admin", "pin", "-u", "1"), lambda s: not s["rollback"]["pinned"])
    await shown.after(lambda: reorder(machine), lambda s: s["rollbackQueued"])
    await shown.after(lambda: reorder(machine), lambda s: not s["rollbackQueued"])
    await shown.after(lambda: deploy(machine, second, host.origin, "--stage"), lambda s: s["staged"])
    lock = run("touch", "/run/ostree/staged-deployment-locked")
    await shown.after(lock, lambda s: s["staged"]["downloadOnly"])
    await shown.after(run("ostree", "admin", "undeploy", "0"), lambda s: not s["staged"])
    await shown.after(run("ostree", "admin", "unlock"), lambda s: s["usrOverlay"])

    # This machine does much else meanwhile: what a look at the host takes here is not the daemon's doing.
    assert min(shown.delays) < max(1, 0.7 + look), (shown.delays, look)


async def test_kernel_arguments_edited_in_the_boot_entry_are_shown(host: Host, stack: AsyncExitStack) -> None:
    shown = await start_daemon(host, stack)
    generation = shown.read("service.json")["generation"]
    show = [PYTHON, "-m", "bootcctl", "kargs"]
    before = (await host.machine.run(show)).stdout
    (entry,) = (host.machine.sysroot / "boot/loader/entries").iterdir()
    new = entry.with_name(".new")
    new.write_text(entry.read_text().replace("options ", "options audit=0 "))

    new.rename(entry)

    async with asyncio.timeout(DEADLINE_SECS):
        while (after := (await host.machine.run(show, user=1000)).stdout) == before:
            pass
    assert "audit=0" in after
    assert shown.read("service.json")["generation"] == generation, "what is deployed is the same"


async def test_deployment_chosen_in_the_boot_menu_is_what_the_status_tells_of(host: Host) -> None:
    await host.publish("2")
    await host.done(JobKind.UPGRADE)
    assert await host.reboot() == "2"

    await host.machine.power_cut()
    await host.machine.boot(1)

    status = await host.status()
    assert (status["booted"]["image"]["version"], status["rollback"]["image"]["version"]) == ("1", "2")
    assert status["rollbackQueued"] is True, "the next boot is into version 2 again"
    outcome = await host.done(JobKind.UPGRADE)
    assert outcome.changed, "it tracks what is newer all the same"
    assert await host.versions() == ["staged 2", "other 2", "booted 1"]
    assert (await host.done(JobKind.DROP, deployment="staged")).changed
    await host.done(JobKind.ROLLBACK)
    assert await host.reboot() == "1"
