"""What an administrator does on a host that has been upgraded once: roll back, change one's mind, switch."""

from __future__ import annotations

import pytest

from tests.vm.conftest import OS, OTHER, Host
from tests.vm.guest import Guest, until
from tests.vm.image import REGISTRY

SCHEDULE = '[updates]\nmode = "stage"\ninterval = "20s"\njitter = "0s"'
UNASKED_SECS = 600

pytestmark = [pytest.mark.vm_long, pytest.mark.asyncio(loop_scope="session")]


async def test_rollback_twice_ends_where_it_began(upgraded: Host) -> None:
    guest = upgraded.guest

    await guest.run("bootcctl rollback")
    assert (await guest.status())["rollbackQueued"]
    await guest.run("bootcctl rollback")
    assert not (await guest.status())["rollbackQueued"]

    assert await guest.reboot() == "test-os-2"
    status = await guest.status()
    assert status["rollback"]["image"]["imageDigest"] == upgraded.images.digest("v1")


async def test_rollback_reports_staged_update_it_drops(upgraded: Host) -> None:
    guest, staged = upgraded.guest, await upgraded.publish("v3")
    await guest.run("bootcctl upgrade")
    assert (await guest.status())["staged"]["image"]["imageDigest"] == staged

    job = await guest.json("bootcctl rollback --json")

    assert job["outcome"]["dropped"] == staged
    status = await guest.status()
    assert (status["staged"], status["rollbackQueued"]) == (None, True)
    assert await guest.reboot() == "test-os-1"


async def test_host_switches_to_another_image_and_back(host: Host) -> None:
    guest = host.guest
    other = await host.publish("other", OTHER)

    assert await guest.reboot(f"bootcctl switch --apply {REGISTRY}/{OTHER}:stable") == "other-os-1"
    status = await guest.status()
    assert status["booted"]["image"]["imageDigest"] == other
    assert status["booted"]["image"]["image"]["image"] == f"{REGISTRY}/{OTHER}:stable"

    assert await guest.reboot(f"bootcctl switch --apply {REGISTRY}/{OS}:stable") == "test-os-1"
    status = await guest.status()
    assert status["booted"]["image"]["imageDigest"] == host.images.digest("v1")
    assert status["rollback"]["image"]["imageDigest"] == other


async def test_version_that_never_gets_healthy_goes_back_by_itself(host: Host) -> None:
    guest, broken = host.guest, await host.publish("v3")
    assert await guest.reboot("bootcctl upgrade --apply") == "test-os-3"

    # Nobody asks for this one.
    assert await guest.rebooted() == "test-os-1"

    await guest.run("systemctl start boot-complete.target")
    health = await guest.json("cat /var/lib/bootcd/health.json")
    [failure] = health["failures"]
    assert (failure["digest"], failure["state"]) == (broken, "rolled-back")
    assert failure["reasons"] == ["test-os-health.service: failed (exit-code)"]
    assert health["last"]["good"]
    await told_in_history(guest, "test-os-health.service: failed (exit-code)")

    # It is not taken again, and the next one is.
    await guest.write("/etc/bootcd/config.d/60-schedule.toml", SCHEDULE)
    await guest.run("systemctl reload bootcd.service")

    async def held_up() -> bool | None:
        why = await guest.run("bootcctl why", check=False)
        return "this version booted badly here" in why.stdout or None

    await until(held_up, UNASKED_SECS)
    assert (await guest.status())["staged"] is None
    new = await host.publish("v2")

    async def staged() -> bool | None:
        image = (await guest.status())["staged"]
        return (image is not None and image["image"]["imageDigest"] == new) or None

    await until(staged, UNASKED_SECS)


async def test_version_whose_kernel_panics_goes_back_by_itself(host: Host) -> None:
    guest, broken = host.guest, await host.publish("v4")

    # GRUB tries it four times, and nobody is asked.
    assert await guest.reboot("bootcctl upgrade --apply") == "test-os-1"

    await guest.run("systemctl start boot-complete.target")
    health = await guest.json("bootcctl health --json")
    [failure] = health["failures"]
    assert (health["health"], failure["digest"], failure["state"]) == ("good", broken, "rolled-back")
    assert "boot loader gave up" in failure["reasons"][0]
    status = await guest.status()
    assert (status["rollbackQueued"], status["rollback"]["image"]["imageDigest"]) == (False, broken)
    assert "boot_counter" not in await guest.text("cat /boot/grub2/grubenv")
    await told_in_history(guest, "boot loader gave up")


async def told_in_history(guest: Guest, reason: str) -> None:
    """Wait until the history says why a version was taken back; the service looks in its own time."""

    async def told() -> bool | None:
        return reason in await guest.text("bootcctl history") or None

    await until(told, UNASKED_SECS)
