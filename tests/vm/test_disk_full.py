"""A disk that fills up while an image is imported."""

from __future__ import annotations

import pytest

from bootcctl import exitcodes
from tests.support.faultproxy import Fault
from tests.vm.conftest import Host
from tests.vm.guest import Guest

pytestmark = [pytest.mark.vm_long, pytest.mark.asyncio(loop_scope="session")]

FILLER = "/var/filler"
LEFT = 6 << 20
SLACK = 2 << 20
"What journal, history and directories may take meanwhile."


async def free(guest: Guest) -> int:
    return int(await guest.text("sync; stat -f -c '%a %S' /sysroot | awk '{printf \"%d\", $1 * $2}'"))


async def fill(guest: Guest) -> None:
    await guest.run(f"fallocate -l {await free(guest) - LEFT} {FILLER}; sync")


@pytest.mark.parametrize("late", [pytest.param(False, id="before"), pytest.param(True, id="during-import")])
async def test_full_disk_is_told_and_leaves_nothing_behind(host: Host, late: bool) -> None:
    guest, new = host.guest, await host.publish("v2")
    before, space = await guest.status(), await free(guest)
    layer = host.new_layers("v2")[-1]
    if late:
        host.proxy.inject(Fault(stall_after=1 << 20), path=layer)
        await guest.run("bootcctl upgrade --no-wait")
        await host.proxy.wait_for(layer)
    await fill(guest)
    host.proxy.release()

    done = await guest.run("bootcctl upgrade --json", check=False)

    assert done.status == exitcodes.NO_SPACE, done
    entry = (await guest.json("bootcctl history --json"))["entries"][0]
    assert entry["error-name"] == "OutOfSpace"
    assert "more bytes are needed" in entry["error-message"]
    await guest.run(f"rm {FILLER}")
    assert await free(guest) >= space - SLACK
    assert await guest.status() == before
    await guest.run("bootcctl upgrade")
    assert (await guest.status())["staged"]["image"]["imageDigest"] == new
