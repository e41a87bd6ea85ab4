"""bootcctl in the foreground on a whole host, while what it talks to is killed or told to stop."""

from __future__ import annotations

import asyncio
import signal
import subprocess

import pytest

from tests.support.faultproxy import FaultProxy
from tests.support.host import PYTHON, Host
from tests.support.machine import Process

pytestmark = [pytest.mark.machine, pytest.mark.timeout(300)]


async def stalled_upgrade(host: Host, proxy: FaultProxy) -> Process:
    """Start `bootcctl upgrade` and return when the download of its layers has stalled."""
    await host.publish("v2")
    layer = host.stall_upgrade(proxy)
    command = [PYTHON, "-m", "bootcctl", "upgrade"]
    follower = await host.machine.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    await proxy.wait_for(layer)
    return follower


async def said(follower: Process, text: bytes) -> None:
    assert follower.stderr is not None
    async with asyncio.timeout(60):
        while text not in (line := await follower.stderr.readline()):
            assert line, f"ended without saying {text!r}"


async def test_foreground_upgrade_goes_on_after_the_daemon_was_killed(host: Host, proxy: FaultProxy) -> None:
    follower = await stalled_upgrade(host, proxy)
    assert host.daemon is not None
    host.daemon.kill()
    await host.daemon.wait()
    await said(follower, b"waiting for the service to come back")
    await host.start_daemon()
    proxy.release()
    out, err = await follower.communicate()
    assert await follower.wait() == 0, err
    assert out.startswith(b"Staged ")
    assert (await host.status())["staged"]["image"]["imageDigest"] == host.images.digest("v2")


async def test_ctrl_c_stops_the_worker_and_leaves_the_host_as_it_was(host: Host, proxy: FaultProxy) -> None:
    before = await host.status()
    follower = await stalled_upgrade(host, proxy)
    follower.send_signal(signal.SIGINT)
    _, err = await follower.communicate()
    assert await follower.wait() == 11
    assert err.endswith(b"bootcctl: the upgrade was cancelled\n")
    assert await host.status() == before
