"""A host that is to reboot while somebody is logged in: logind tells them, and the bus says why it waits."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from dbus_fast import Variant

from bootcd.bus.interfaces import MANAGER, ROOT_PATH
from bootcd.model.moment import microseconds
from tests.support.bus import PrivateBus
from tests.support.bus_front import get_all
from tests.support.bus_peers import connected
from tests.support.daemon import Daemon, running
from tests.support.dbusmock import Mock, dbusmock, mock_policy
from tests.support.jobs import WorkerScript
from tests.support.mock import run
from tests.support.service import STAGED, show_host

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the bus policy gives the name to root")

LOGIN = ("logind", "org.freedesktop.login1", "/org/freedesktop/login1")
LOGIN_MANAGER, LOGIN_SESSION = "org.freedesktop.login1.Manager", "org.freedesktop.login1.Session"
MESSAGE = f"self.props['{LOGIN_MANAGER}']['WallMessage']"
SCHEDULED = f"self.props['{LOGIN_MANAGER}']['ScheduledShutdown']"


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[PrivateBus]:
    policy = mock_policy(tmp_path, LOGIN[1])
    async with await PrivateBus.start(tmp_path, policies=(policy,)) as running_bus:
        yield running_bus


@pytest.fixture
async def logind(bus: PrivateBus) -> AsyncIterator[Mock]:
    """Run logind with what python-dbusmock's template of it lacks, and somebody at a desktop."""
    async with dbusmock(bus.address, *LOGIN) as mock:
        value = Variant("(st)", ["", 0])
        await mock.control("AddProperty", "ssv", LOGIN_MANAGER, "ScheduledShutdown", value)
        await mock.control("AddProperty", "ssv", LOGIN_MANAGER, "WallMessage", Variant("s", ""))
        for name, takes, gives, code in (
            ("SetWallMessage", "sb", "", f"{MESSAGE} = args[0]"),
            ("ScheduleShutdown", "st", "", f"{SCHEDULED} = dbus.Struct(('reboot', args[1]), signature='st')"),
            (
                "CancelScheduledShutdown",
                "",
                "b",
                f"{SCHEDULED} = dbus.Struct(('', 0), signature='st'); ret = True",
            ),
        ):
            await mock.control("AddMethod", "sssss", LOGIN_MANAGER, name, takes, gives, code)
        path = await mock.control("AddSession", "ssusb", "1", "seat0", 1000, "ann", True)
        await mock.change(LOGIN_SESSION, path, Type=Variant("s", "wayland"))
        yield mock


async def eventually_called(mock: Mock, member: str) -> None:
    async with asyncio.timeout(20):
        while not await mock.calls(member):
            pass


async def test_people_are_told_before_the_host_reboots_and_when_it_does_not(
    bus: PrivateBus, logind: Mock, tmp_path: Path
) -> None:
    script = WorkerScript(tmp_path / "sysroot")
    show_host(script, STAGED)
    daemon = Daemon(tmp_path, bus, scripted=True)
    daemon.configure(mode="apply")
    async with connected(bus.address) as peer:
        await peer.listen()
        with daemon.manager:
            async with running(daemon):
                told = await peer.signal(lambda message: message.member == "RebootScheduled")
                when, reason, details = told.body
                assert (reason, details) == (
                    "an update is staged; ann is logged in, and may finish first",
                    {},
                )
                assert 0 < when - microseconds(datetime.now(UTC)) <= 600_000_000
                [gate] = (await get_all(peer, ROOT_PATH, MANAGER.name))["BlockedBy"]
                assert (gate[0], gate[2]) == ("sessions", when)
                status, out, _ = await run(bus.address, sys.executable, "-m", "bootcctl", "why")
                assert status == 0
                assert "Apply held up by sessions: ann is logged in, and may finish first (until " in out
                assert script.pids() == []
                # A backup begins: the reboot is off until it has ended.
                await logind.peer.reply(
                    logind.path,
                    LOGIN_MANAGER,
                    "Inhibit",
                    "ssss",
                    ["shutdown", "backup", "copying", "block"],
                    destination=logind.name,
                )
                await logind.control("AddProperty", "ssv", LOGIN_MANAGER, "BlockInhibited", Variant("s", ""))
                await logind.change(LOGIN_MANAGER, BlockInhibited=Variant("s", "shutdown"))
                await peer.signal(lambda m: m.member == "RebootScheduled" and m.body[0] == 0)
                gates = (await get_all(peer, ROOT_PATH, MANAGER.name))["BlockedBy"]
                assert [gate[0] for gate in gates] == ["logind-inhibitor", "sessions"]
                await eventually_called(logind, "CancelScheduledShutdown")
    assert await logind.calls("ScheduleShutdown") == [["dry-reboot", when + 30_000_000]]
    [[text, enabled]] = await logind.calls("SetWallMessage")
    assert "this host restarts" in text
    assert enabled
    script.close()
