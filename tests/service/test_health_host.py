"""A bad new version on a whole host: left by itself, told in the history, not taken again until cleared."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.host import PYTHON, Host

pytestmark = [pytest.mark.machine, pytest.mark.timeout(300)]


async def judge(host: Host) -> int:
    return (await host.machine.run([PYTHON, "-m", "bootcd.health"], check=False)).returncode


def service(host: Host) -> dict[str, Any]:
    return dict(json.loads(host.machine.path("/run/bootcd/service.json").read_text()))


async def test_bad_version_is_left_and_told_and_not_taken_again_until_cleared(host: Host) -> None:
    machine = host.machine
    check = machine.path("/etc/bootcd/health.d/required.d/10-app")
    check.parent.mkdir(parents=True)
    check.write_text("#!/bin/sh\n! grep -q quiet /proc/cmdline\n")  # as only version 2 boots
    check.chmod(0o755)
    assert await judge(host) == 0
    v2 = await host.publish("v2")
    await host.ctl("upgrade", "--apply")
    await machine.reboot_requested()
    await host.reboot()

    assert await judge(host) == 1
    await machine.reboot_requested()
    host.mode = "stage"
    await host.reboot()
    assert await judge(host) == 0

    status = await host.status()
    assert status["booted"]["image"]["imageDigest"] == host.images.digest("v1")
    [entry, upgrade] = await host.history()
    assert (entry["kind"], entry["requester"], entry["state"]) == ("rollback", "health", "done")
    assert entry["reason"].endswith("/etc/bootcd/health.d/required.d/10-app: exit status 1")
    assert upgrade["digest"] == v2
    assert "10-app: exit status 1" in (await host.ctl("history")).stdout

    await host.ctl("check")
    assert "not staged: this version booted badly here" in service(host)["next-action"]["reason"]
    assert (await host.status())["staged"] is None

    environment = {"PATH": f"{PYTHON.parent}:/usr/bin"}
    await machine.run([PYTHON.with_name("bootcctl"), "health", "clear", v2], env=environment)
    async with asyncio.timeout(120):
        while (await host.status())["staged"] is None:  # noqa: ASYNC110  # another process does it
            await asyncio.sleep(0.2)
    assert (await host.status())["staged"]["image"]["imageDigest"] == v2
