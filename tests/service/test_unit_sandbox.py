"""The daemon within what bootcd.service leaves it: no capability, no network, read-only, no writable code.

There is no systemd as process 1 here to apply the unit, so the kernel is asked for the same by hand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from uuid import UUID

import pytest

from tests.conftest import MachineFactory
from tests.support.bus import PrivateBus
from tests.support.machine import PERSON, Machine

pytestmark = pytest.mark.machine

# PR_SET_MDWE of prctl(2), kept over exec; what MemoryDenyWriteExecute= does since systemd 254. Linux
# before 6.3 does not know it, and is not asked for it.
NO_WRITABLE_CODE = """
import ctypes, errno, os, sys
if ctypes.CDLL(None, use_errno=True).prctl(65, 1, 0, 0, 0) and ctypes.get_errno() != errno.EINVAL:
    sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
os.execv(sys.argv[1], sys.argv[1:])
"""
OWN_PLACES = 'mount --make-rprivate / && for place in /run/bootcd /var/lib/bootcd; do \
mkdir -p $place && mount --bind $place $place; done && \
for place in / /sysroot /boot /usr /etc /var; do mount -o remount,bind,ro $place 2>/dev/null || \
{ mount --bind $place $place && mount -o remount,bind,ro $place; }; done && umask 077 && exec "$@"'

SANDBOX = (
    *("unshare", "--mount", "--net", "sh", "-ec", OWN_PLACES, "sandbox"),
    *("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"),
)


async def start(machine: Machine, log: Path, *command: str) -> None:
    with log.open("ab") as output:
        await machine.popen(
            [*SANDBOX, sys.executable, "-c", NO_WRITABLE_CODE, sys.executable, *command],
            stdout=output.fileno(),
            stderr=output.fileno(),
        )


async def ctl(machine: Machine, *argv: str, user: int = PERSON) -> str:
    done = await machine.run([sys.executable, "-m", "bootcctl", *argv], user=user)
    return done.stdout


async def test_sandboxed_daemon_looks_at_the_host_and_serves_everybody(
    machine_factory: MachineFactory, tmp_path: Path
) -> None:
    machine = await machine_factory(image="registry.example/os:1")
    log = tmp_path / "daemon.log"
    async with await PrivateBus.start(machine) as bus:
        await start(machine, log, "-m", "bootcd")
        await bus.wait_for_name("org.bootcd1")
        over_the_bus = await ctl(machine, "--bus=unix:path=/run/dbus/system_bus_socket", "status", "--json")
        host = json.loads(over_the_bus)
        assert host["status"]["booted"]["ostree"]["checksum"], log.read_text()
        assert json.loads(await ctl(machine, "history", "--json")) == {"entries": []}
        listing = (sys.executable, "-m", "bootcctl", "inhibit", "--list")
        assert "blocks download:stage:reboot" in await ctl(machine, "inhibit", *listing, user=0)
        await ctl(machine, "reload", user=0)
        # The record is changed by another program, within the same sandbox, and for all to see.
        failed = {"uuid": str(UUID(int=1)), "digest": "sha256:b", "time": "2026-01-02T03:04:05Z"}
        record = machine.path("/var/lib/bootcd/health.json")
        record.write_text(json.dumps({"failures": [failed]}))
        assert await ctl(machine, "health", "clear", user=0) == "sha256:b may be taken again\n"
        assert json.loads(record.read_text())["cleared"] == ["sha256:b"]
        assert machine.path("/run/bootcd/health.json").stat().st_mode & 0o777 == 0o644
        await ctl(machine, "pause", "1h", user=0)
        assert json.loads(machine.path("/var/lib/bootcd/agent.json").read_text())["pause"]
        await ctl(machine, "resume", user=0)
        assert await ctl(machine, "status", "--json") == over_the_bus
        assert "Booted " in await ctl(machine, "status", "--format=human")
        status = machine.path("/run/bootcd/status.json")
        assert status.stat().st_mode & 0o777 == 0o644
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("command", "refusal"),
    [
        ("touch /etc/x", "Read-only file system"),
        ("touch /sysroot/x", "Read-only file system"),
        ("mount -t tmpfs tmpfs /tmp", "permission denied"),
        ("echo > /dev/tcp/127.0.0.1/1", "Network is unreachable"),
    ],
    ids=["etc", "sysroot", "mount", "network"],
)
async def test_sandbox_is_one(machine_factory: MachineFactory, command: str, refusal: str) -> None:
    machine = await machine_factory()
    done = await machine.run([*SANDBOX, "bash", "-c", command], check=False)
    assert done.returncode != 0
    assert refusal in done.stderr
