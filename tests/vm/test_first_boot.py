"""A host that was just installed: what boots is what was installed, and all is well with it."""

from __future__ import annotations

import re

import pytest

from tests.vm.conftest import OS, Host
from tests.vm.image import REGISTRY

pytestmark = [pytest.mark.vm_long, pytest.mark.asyncio(loop_scope="session")]

MOST_EXPOSURE = 2.5


async def test_status_as_ordinary_user_shows_installed_image(host: Host) -> None:
    status = await host.guest.status(user="person")

    image = status["booted"]["image"]
    assert image["image"]["image"] == f"{REGISTRY}/{OS}:stable"
    assert image["imageDigest"] == host.images.digest("v1")
    assert image["version"] == "1"
    assert (status["staged"], status["rollback"]) == (None, None)


async def test_first_boot_leaves_system_healthy(host: Host) -> None:
    failed = await host.guest.text("systemctl list-units --failed --plain --no-legend")
    state = await host.guest.run("systemctl is-system-running", check=False)
    assert (state.stdout.strip(), failed) == ("running", "")
    complaints = await host.guest.text("journalctl --unit=bootcd.service --priority=warning --output=cat")
    assert complaints == "-- No entries --" or not complaints


async def test_unit_is_confined_on_real_manager(host: Host) -> None:
    report = await host.guest.text("systemd-analyze security --no-pager bootcd.service")
    found = re.search(r"Overall exposure level for bootcd\.service: ([0-9.]+)", report)
    assert found, report
    print(found[0])
    assert float(found[1]) <= MOST_EXPOSURE
