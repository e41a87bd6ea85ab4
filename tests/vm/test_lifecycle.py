"""The short run: installed, booted, upgraded, rolled back."""

from __future__ import annotations

import pytest

from tests.vm.conftest import Host

pytestmark = [pytest.mark.vm, pytest.mark.asyncio(loop_scope="session")]

HOME = "/usr/lib/test-os"


async def test_host_upgrades_and_rolls_back(host: Host) -> None:
    guest, old = host.guest, host.images.digest("v1")
    await guest.run("echo kept >/var/lib/state; echo before >/etc/before-staging")
    new = await host.publish("v2")

    await guest.run("bootcctl upgrade")
    await guest.run(
        f"echo after >/etc/after-staging; echo changed >/etc/test-os.conf; test -e {HOME}/removed-in-v2"
    )
    assert await guest.reboot("bootcctl upgrade --apply") == "test-os-2"

    status = await guest.status()
    assert status["booted"]["image"]["imageDigest"] == new
    assert status["rollback"]["image"]["imageDigest"] == old
    assert status["staged"] is None
    assert await guest.text(
        "cat /etc/before-staging /etc/after-staging /etc/test-os.conf /var/lib/state"
    ) == ("before\nafter\nchanged\nkept")
    listed = await guest.text(f"ls {HOME}")
    assert "added-in-v2" in listed
    assert "removed-in-v2" not in listed
    assert "test-os.version=2" in await guest.text("cat /proc/cmdline")

    assert await guest.reboot("bootcctl rollback --apply") == "test-os-1"

    status = await guest.status()
    assert status["booted"]["image"]["imageDigest"] == old
    assert status["rollback"]["image"]["imageDigest"] == new
    assert await guest.text(f"cat /var/lib/state {HOME}/removed-in-v2") == "kept\ngone soon"
    assert "test-os.version=1" in await guest.text("cat /proc/cmdline")
