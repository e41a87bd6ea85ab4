"""A job goes on while the daemon is killed, restarted and upgraded, and the next daemon takes it up."""

from __future__ import annotations

import pytest

from tests.support.faultproxy import Fault
from tests.vm.conftest import Host
from tests.vm.guest import Guest, until

pytestmark = [pytest.mark.vm_long, pytest.mark.asyncio(loop_scope="session")]

PACKAGE = "/usr/lib/python3/dist-packages/bootcd"
KILL = "systemctl kill --kill-whom=main --signal=KILL bootcd.service"
RESTART = "systemctl restart bootcd.service"
# /usr of a host takes changes only over it, and ostree waits for a job that is at work.
UNLOCK = "ostree admin unlock"
UPGRADE = (
    # As a package manager does.
    f"sed -i 's/^__version__.*/__version__ = \"99.0\"/' {PACKAGE}/__init__.py"
    f" && rm {PACKAGE}/__pycache__/__init__.*.pyc"
    " && systemctl restart bootcd.service"
)
VERSION = "busctl get-property org.bootcd1 /org/bootcd1 org.bootcd1.Manager Version"
_RESTART_SECS = 60


@pytest.mark.parametrize(
    ("before", "what", "version"),
    [
        pytest.param("", KILL, "", id="killed"),
        pytest.param("", RESTART, "", id="restarted"),
        pytest.param(UNLOCK, UPGRADE, "99.0", id="upgraded"),
    ],
)
async def test_job_goes_on_and_is_adopted_by_the_next_daemon(
    host: Host, before: str, what: str, version: str
) -> None:
    guest, new = host.guest, await host.publish("v2")
    await guest.run(before)
    layer = host.new_layers("v2")[-1]
    host.proxy.inject(Fault(stall_after=1000), path=layer)
    started = await guest.json("bootcctl upgrade --no-wait --json")
    await host.proxy.wait_for(layer)
    unit = f"bootcd-job-{started['uuid']}.service"
    worker, daemon = await main_pid(guest, unit), await main_pid(guest, "bootcd.service")
    assert worker != "0"

    await guest.run(what)
    await until(lambda: another_pid(guest, daemon), _RESTART_SECS)

    [job] = [
        job for job in (await guest.json("bootcctl jobs --json"))["jobs"] if job["uuid"] == started["uuid"]
    ]
    assert (job["state"], await main_pid(guest, unit)) == ("running", worker)
    if version:
        assert version in await guest.text(VERSION)
    host.proxy.release()
    await guest.run("bootcctl upgrade")
    assert (await guest.status())["staged"]["image"]["imageDigest"] == new
    entries = (await guest.json("bootcctl history --json"))["entries"]
    assert [entry["state"] for entry in entries if entry["uuid"] == started["uuid"]] == ["done"]


async def another_pid(guest: Guest, daemon: str) -> str | None:
    pid = await main_pid(guest, "bootcd.service")
    return pid if pid not in ("0", daemon) else None


async def main_pid(guest: Guest, unit: str) -> str:
    return await guest.text(f"systemctl show --property=MainPID --value {unit}")
