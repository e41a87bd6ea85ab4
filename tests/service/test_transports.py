"""A machine that is switched to and updated from local media, and asks nothing of any network."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.faultproxy import FaultProxy
from tests.support.host import Host
from tests.support.image_layout import push

pytestmark = [pytest.mark.machine, pytest.mark.timeout(300)]


def image_of(entry: dict[str, Any]) -> tuple[str, str, str]:
    image = entry["image"]
    return image["image"]["transport"], image["image"]["image"], image["imageDigest"]


async def test_machine_without_network_is_updated_from_archive_and_directory(
    host: Host, proxy: FaultProxy
) -> None:
    machine, images = host.machine, host.images
    v1, v2, other = (images.digest(tag) for tag in ("v1", "v2", "other"))
    asked = len(proxy.requests)
    usb = machine.var / "usb"
    usb.mkdir()

    # An archive, whose second version comes to the same path.
    await push(images.layout, "v1", f"oci-archive:{usb}/os.tar:stable")
    await host.ctl("switch", "--transport", "oci-archive", "/var/usb/os.tar:stable")
    status = await host.status()
    assert image_of(status["staged"]) == ("oci-archive", "/var/usb/os.tar:stable", v1)
    await host.reboot()
    assert (await host.ctl("check", check=False)).returncode == 77
    (usb / "os.tar").unlink()
    await push(images.layout, "v2", f"oci-archive:{usb}/os.tar:stable")
    checked = json.loads((await host.ctl("check", "--json")).stdout)["outcome"]
    assert (checked["transport"], checked["image"], checked["digest"]) == (
        "oci-archive",
        "/var/usb/os.tar:stable",
        v2,
    )
    await host.ctl("upgrade")
    await host.reboot()
    booted = (await host.status())["booted"]
    assert image_of(booted) == ("oci-archive", "/var/usb/os.tar:stable", v2)
    assert origins(machine.sysroot) >= {
        "container-image-reference=ostree-unverified-image:oci-archive:/var/usb/os.tar:stable"
    }
    refs = (await machine.ostree("refs", f"--repo={machine.repo}", "--list")).split()
    assert "ostree/container/image/oci-archive_3A__2F_var/usb/os_2E_tar_3A_stable" in refs

    # A stick that is not there now is there later.
    (usb / "os.tar").rename(usb / "away")
    gone = await host.ctl("check", "--json", check=False)
    assert gone.returncode == 7
    assert json.loads(gone.stdout)["error"]["name"] == "MediumUnavailable"
    (usb / "away").rename(usb / "os.tar")
    assert (await host.ctl("check", check=False)).returncode == 77

    # A directory.
    layout = usb / "other.oci"
    await push(images.layout, "other", f"oci:{layout}:1")
    await host.ctl("switch", "--transport", "oci", "/var/usb/other.oci:1")
    await host.reboot()
    assert image_of((await host.status())["booted"]) == ("oci", "/var/usb/other.oci:1", other)
    await asyncio.to_thread(shutil.rmtree, layout)
    await push(images.layout, "v1", f"oci:{layout}:1")
    before = await host.history()
    await host.ctl("upgrade")
    assert image_of((await host.status())["staged"]) == ("oci", "/var/usb/other.oci:1", v1)
    assert before[0]["transport"] == "oci"
    assert len(proxy.requests) == asked


def origins(sysroot: Path) -> set[str]:
    found = sysroot.glob("ostree/deploy/default/deploy/*.origin")
    return {line for origin in found for line in origin.read_text().splitlines()}
