"""What the service does by itself, with nobody there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.vm.conftest import Host
from tests.vm.guest import Guest, until

pytestmark = [pytest.mark.vm_long, pytest.mark.asyncio(loop_scope="session")]

SCHEDULE = '[updates]\nmode = "stage"\ninterval = "20s"\njitter = "0s"'
STAGED_SECS = 300


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


async def what_is_staged(guest: Guest) -> dict[str, Any] | None:
    staged: dict[str, Any] | None = (await guest.status(user="root"))["staged"]
    return staged
