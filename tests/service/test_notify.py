"""`bootcctl notify` between the service and a notification server, which python-dbusmock plays."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Variant

from bootcd.agent.snapshot import NextAction
from bootcd.model.errors import LimitsExceeded, OutOfSpace
from bootcd.model.job import JobKind
from bootcd.update.facts import Action
from bootcd.update.gates import Gate
from tests.support.blocking import no_blocking_calls as no_blocking_calls
from tests.support.bootcctl import Command, start_bootcctl
from tests.support.dbusmock import Mock, dbusmock
from tests.support.jobs import eventually
from tests.support.mock import session_bus
from tests.support.scripted_service import ScriptedService, deployment, host, open_bus, shown_on

SERVER = ("notification_daemon", "org.freedesktop.Notifications", "/org/freedesktop/Notifications")
READY = host(booted=deployment("1.0", "a"), staged=deployment("<2.0>", "b"))


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    async with open_bus(tmp_path) as address:
        yield address


@pytest.fixture
async def service(address: str) -> AsyncIterator[ScriptedService]:
    scripted = ScriptedService()
    async with shown_on(address, scripted):
        yield scripted


@pytest.fixture
async def session(tmp_path: Path) -> AsyncIterator[str]:
    async with session_bus(tmp_path) as address:
        yield address


class Screen:
    """The notification server as the test sees it."""

    def __init__(self, mock: Mock) -> None:
        self.mock = mock

    async def shown(self, number: int) -> list[Any]:
        """Return the arguments of the n-th notification, once there are as many."""
        async with asyncio.timeout(20):
            while len(calls := await self.mock.calls("Notify")) < number:
                pass
        return calls[number - 1]

    async def emit(self, member: str, signature: str, *values: Variant) -> None:
        await self.mock.control("EmitSignal", "sssav", self.mock.name, member, signature, [*values])

    async def closed(self) -> None:
        async with asyncio.timeout(20):
            while not await self.mock.calls("CloseNotification"):
                pass

    async def choose(self, action: str) -> None:
        await self.emit("ActionInvoked", "us", Variant("u", 1), Variant("s", action))


async def start(address: str, session: str, home: Path) -> Command:
    environment = {"DBUS_SESSION_BUS_ADDRESS": session, "XDG_STATE_HOME": str(home / "state")}
    return await start_bootcctl(address, "--json", "notify", **environment)


async def stop(command: Command) -> None:
    command.send_signal(signal.SIGTERM)
    assert await command.ended() == 0, command.err


async def test_update_is_told_once_with_actions_and_text_that_is_no_markup(
    address: str, service: ScriptedService, session: str, tmp_path: Path
) -> None:
    async with dbusmock(session, *SERVER, session=True, capabilities="body body-markup actions") as mock:
        screen = Screen(mock)
        command = await start(address, session, tmp_path)
        service.publish(host=READY, host_json=READY.to_json(), reboot_required=True)
        _, replaces, _, summary, body, actions, hints, _ = await screen.shown(1)
        assert (replaces, summary) == (0, "A system update is ready")
        assert body == "Version &lt;2.0&gt; comes at the next restart."
        assert actions == ["restart", "Restart Now", "later", "Later"]
        assert hints["urgency"] == 1
        await stop(command)
        command = await start(address, session, tmp_path)
        # What comes next takes its place: nothing was shown in between, and nothing is stacked.
        service.fail(service.add(JobKind.UPGRADE), OutOfSpace("there is no room", hint="remove something"))
        record = next(iter(service.records.values()))
        service.records[record.request.uuid] = record.model_copy(update={"finished": datetime.now(UTC)})
        service.publish(state="working")
        _, replaces, icon, summary, body, actions, _, _ = await screen.shown(2)
        assert (replaces, summary, actions) == (1, "The system update failed", [])
        assert icon == "dialog-warning"
        assert body == "There is no room. Remove something."
        await stop(command)
        assert len(await mock.calls("Notify")) == 2
        assert await mock.calls("CloseNotification") == []


async def test_restart_now_asks_the_service_and_what_it_refuses_is_told(
    address: str, service: ScriptedService, session: str, tmp_path: Path
) -> None:
    async with dbusmock(session, *SERVER, session=True, capabilities="body actions") as mock:
        screen = Screen(mock)
        service.publish(host=READY, host_json=READY.to_json(), reboot_required=True)
        command = await start(address, session, tmp_path)
        await screen.shown(1)
        service.refusals["apply"] = LimitsExceeded("not now")
        await screen.choose("restart")
        _, replaces, _, summary, body, *_ = await screen.shown(2)
        assert (replaces, summary, body) == (1, "The restart was not possible", "Not now.")
        assert ("apply", {}) in service.requests
        await stop(command)


async def test_reboot_is_told_can_be_put_off_and_goes_from_the_screen(
    address: str, service: ScriptedService, session: str, tmp_path: Path
) -> None:
    when = datetime.now(UTC) + timedelta(minutes=10)
    gate = Gate("sessions", "ann is logged in", when, (Action.APPLY,))
    async with dbusmock(session, *SERVER, session=True, capabilities="body actions") as mock:
        screen = Screen(mock)
        command = await start(address, session, tmp_path)
        service.publish(next_action=NextAction("apply", "ready", when), gates=(gate,))
        _, _, _, summary, body, _, hints, expires = await screen.shown(1)
        assert summary == f"This computer restarts at {when.astimezone():%H:%M}"
        assert (body, hints["urgency"], expires) == ("An update is ready. Save your work.", 2, 0)
        await screen.choose("later")
        async with asyncio.timeout(20):
            await eventually(lambda: bool(service.inhibited))
        [wish] = [request for kind, request in service.requests if kind == "inhibit"]
        assert (wish["what"], wish["how"]) == (["reboot"], "delay")
        await screen.closed()
        later = when + timedelta(hours=1)
        service.publish(
            next_action=NextAction("apply", "ready", later), gates=(replace(gate, ends=later),), inhibitors=()
        )
        await screen.shown(2)
        service.publish(next_action=NextAction("check", "regular check", later), gates=())
        async with asyncio.timeout(20):
            while len(await mock.calls("CloseNotification")) < 2:
                pass
        await stop(command)
    with pytest.raises(BrokenPipeError):  # It lets go when it ends.
        os.write(service.inhibited[0], b"x")


async def test_server_that_comes_late_and_can_do_little_gets_the_text(
    address: str, service: ScriptedService, session: str, tmp_path: Path
) -> None:
    service.publish(host=READY, host_json=READY.to_json(), reboot_required=True)
    command = await start(address, session, tmp_path)
    async with asyncio.timeout(20):
        await service.asked_history.wait()
    async with dbusmock(session, *SERVER, session=True, capabilities="") as mock:
        _, _, _, summary, _, actions, _, _ = await Screen(mock).shown(1)
        assert actions == []
        assert summary.startswith("A system update is ready. Version <2.0> comes at the next restart. To ")
    await stop(command)


async def test_notify_without_a_session_says_so(address: str, tmp_path: Path) -> None:
    command = await start(address, f"unix:path={tmp_path}/none", tmp_path)
    assert await command.ended() == 13
    assert "the session bus cannot be reached" in command.err
