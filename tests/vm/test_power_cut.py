"""The power goes at any moment of an upgrade: the host boots the old or the new system, and upgrades."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable

import pytest

from tests.support.faultproxy import Fault
from tests.vm.conftest import Host
from tests.vm.guest import until
from tests.vm.image import PAYLOAD_SIZE

pytestmark = [pytest.mark.vm_long, pytest.mark.asyncio(loop_scope="session")]

Moment = Callable[[Host], Awaitable[None]]
_MOMENT_SECS = 300
# The console has no room for long names: what is left out is at the end of this one.
_FINALISING = re.compile(rb"Stopping .{0,20}ostree-finalize-staged\.se")
_FINALISED = re.compile(rb"Stopped .{0,20}ostree-finalize-staged\.se")
_GOING_DOWN = re.compile(rb"Reached target .{0,20}(umount|final|reboot)\.target")


def pull(path: str, stall_after: int) -> Moment:
    """While the answer to a request is under way; `path` may be that of the payload."""

    async def moment(host: Host) -> None:
        where = path or host.new_layers("v2")[-1]
        host.proxy.inject(Fault(stall_after=stall_after), path=where, method="GET")
        await host.guest.run("bootcctl upgrade --no-wait")
        await until(lambda: answered(host, where, stall_after), _MOMENT_SECS)

    return moment


async def answered(host: Host, path: str, size: int) -> bool | None:
    return any(seen.body_bytes >= size for seen in host.proxy.seen(path, "GET")) or None


def phase(name: str, secs: float = 0) -> Moment:
    """Some time after a job has come to a phase; or ended, where the name is that of its last state."""

    async def moment(host: Host) -> None:
        async with host.guest.lines("bootcctl monitor --json") as lines:
            await anext(lines)
            await host.guest.run("bootcctl upgrade --no-wait")
            async for line in lines:
                event = json.loads(line)
                if event["event"] == "job" and name in (event["job"]["phase"], event["job"]["state"]):
                    break
        await asyncio.sleep(secs)  # the time is the moment

    return moment


def shutdown(pattern: re.Pattern[bytes], secs: float = 0) -> Moment:
    """Some time after the console has shown how far a reboot is that applies what is staged."""

    async def moment(host: Host) -> None:
        await host.guest.run("bootcctl upgrade")
        await host.guest.go_down()
        await host.machine.shows(pattern)
        await asyncio.sleep(secs)  # the time is the moment

    return moment


@pytest.mark.parametrize(
    ("moment", "systems"),
    [
        pytest.param(pull("/manifests/", 100), "1", id="manifest"),
        pytest.param(pull("", 1000), "1", id="layer-begun"),
        pytest.param(pull("", PAYLOAD_SIZE // 2), "1", id="layer-half-there"),
        pytest.param(phase("import"), "1", id="import"),
        pytest.param(phase("import", 1), "1", id="import-a-second-later"),
        pytest.param(phase("import", 3), "1", id="import-three-seconds-later"),
        pytest.param(phase("stage"), "1", id="stage"),
        pytest.param(phase("stage", 1), "1", id="stage-a-second-later"),
        pytest.param(phase("done"), "1", id="staged"),
        pytest.param(shutdown(_FINALISING), "12", id="finalisation"),
        pytest.param(shutdown(_FINALISING, 0.5), "12", id="finalisation-half-a-second-later"),
        pytest.param(shutdown(_FINALISING, 1.5), "12", id="finalisation-later"),
        pytest.param(shutdown(_FINALISING, 3), "12", id="finalisation-much-later"),
        pytest.param(shutdown(_FINALISED), "2", id="finalised"),
        pytest.param(shutdown(_GOING_DOWN), "2", id="last-moment"),
    ],
)
async def test_power_cut_leaves_a_host_that_boots_and_upgrades(
    host: Host, moment: Moment, systems: str
) -> None:
    guest, new = host.guest, await host.publish("v2")
    async with asyncio.timeout(_MOMENT_SECS):
        await moment(host)

    await host.machine.power_cut()
    await guest.disconnect()
    host.proxy.release()
    await host.machine.start()

    booted = await host.machine.booted()
    assert booted in {f"test-os-{version}" for version in systems}
    await guest.run("bootcctl upgrade")
    status = await guest.status()
    assert (status["staged"] or status["booted"])["image"]["imageDigest"] == new
    assert await guest.text("systemctl list-units --failed --plain --no-legend") == ""
