"""What the service does by itself, with nobody there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.vm.conftest import Host
from tests.vm.guest import Guest, until
from tests.vm.image import FLEET_LOCK

pytestmark = [pytest.mark.vm_long, pytest.mark.asyncio(loop_scope="session")]

SCHEDULE = '[updates]\nmode = "stage"\ninterval = "20s"\njitter = "0s"'
FLEET = f"""
[updates]
mode = "apply"
interval = "20s"
jitter = "0s"
windows = [{{ start = "00:00", length = "24h" }}]

[fleet-lock]
url = "http://{FLEET_LOCK}/base"
"""
STAGED_SECS = 600


async def test_schedule_stages_update_and_ordinary_reboot_applies_it(host: Host) -> None:
    guest = host.guest
    await guest.write("/etc/bootcd/config.d/60-schedule.toml", SCHEDULE)
    await guest.run("systemctl reload bootcd.service")
    await guest.disconnect()
    new = await host.publish("v2")

    async with asyncio.timeout(STAGED_SECS):
        await host.proxy.wait_for(host.new_layers("v2")[-1])
    # Nobody was logged in until here.
    staged = await until(lambda: what_is_staged(guest), STAGED_SECS)

    assert staged["image"]["imageDigest"] == new
    [job] = [
        entry
        for entry in (await guest.json("bootcctl history --json"))["entries"]
        if entry["kind"] == "upgrade"
    ]
    assert (job["state"], job["requester"]) == ("done", "agent")
    assert await guest.reboot() == "test-os-2"
    assert (await guest.status())["booted"]["image"]["imageDigest"] == new


async def test_host_reboots_by_itself_when_its_turn_in_the_fleet_comes(host: Host) -> None:
    guest, fleet = host.guest, host.fleet
    fleet.holders["default"] = {"another-host"}
    await guest.write("/etc/bootcd/config.d/60-fleet.toml", FLEET)
    new = await host.publish("v2")
    await guest.run("systemctl reload bootcd.service")

    async def refused() -> bool | None:
        why = await guest.run("bootcctl why", user="person", check=False)
        return "all slots are locked already" in why.stdout or None

    await until(refused, STAGED_SECS)
    assert (await guest.status())["staged"]["image"]["imageDigest"] == new
    await guest.disconnect()
    fleet.holders["default"].clear()

    # Nobody asks for it.
    assert await guest.rebooted() == "test-os-2"

    async def given_back() -> bool | None:
        return not fleet.holders["default"] or None

    await guest.run("systemctl start boot-complete.target")
    await until(given_back, STAGED_SECS)
    assert fleet.most == 1
    assert (await guest.status())["booted"]["image"]["imageDigest"] == new
    entries = (await guest.json("bootcctl history --json"))["entries"]
    [applied, *refused] = [entry for entry in entries if entry["kind"] == "apply"]
    assert (applied["state"], applied["requester"]) == ("done", "agent")
    assert {entry["state"] for entry in refused} == {"failed"}


async def what_is_staged(guest: Guest) -> dict[str, Any] | None:
    staged: dict[str, Any] | None = (await guest.status(user="root"))["staged"]
    return staged
