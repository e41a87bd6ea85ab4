"""Notices of a reboot, and inhibitors, with the real logind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dbus_fast import Message

from bootcd.bus.connection import Connection
from bootcd.bus.surroundings import SurroundingsWatch
from bootcd.bus.wall import Notices
from bootcd.model.moment import microseconds
from bootcd.update.surroundings import ShutdownBlock, Source, Surroundings
from tests.support.blocking import no_blocking_calls as no_blocking_calls
from tests.support.bus import PrivateBus
from tests.support.bus_peers import Peer, connected
from tests.support.logind import MANAGER, NAME, PATH, POLICY, real_logind

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as logind does")

WHEN = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=8)


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[PrivateBus]:
    async with (
        await PrivateBus.start(tmp_path, policies=(POLICY,)) as running,
        real_logind(running, tmp_path),
    ):
        yield running


@pytest.fixture
async def connection(bus: PrivateBus) -> AsyncIterator[Connection]:
    made = await Connection.open(bus.address, on_message=lambda _: False, on_drained=lambda: None)
    yield made
    await made.close()


@pytest.fixture
async def somebody(bus: PrivateBus) -> AsyncIterator[Peer]:
    async with connected(bus.address) as peer:
        yield peer


async def scheduled(peer: Peer) -> tuple[str, int]:
    answer = await peer.call(
        PATH,
        "org.freedesktop.DBus.Properties",
        "Get",
        "ss",
        [MANAGER, "ScheduledShutdown"],
        destination=NAME,
    )
    kind, when = answer.value()
    return kind, when if kind else 0


async def ask(peer: Peer, member: str, signature: str = "", *body: object) -> None:
    answer = await peer.call(PATH, MANAGER, member, signature, [*body], destination=NAME)
    assert not answer.error, answer.body


async def test_notice_is_scheduled_told_anew_and_taken_back(connection: Connection, somebody: Peer) -> None:
    notices = Notices()
    await notices.tell(connection, WHEN)
    assert (await scheduled(somebody))[1] == microseconds(WHEN + timedelta(seconds=30))
    later = WHEN + timedelta(minutes=5)
    # So does a service that was started anew meanwhile.
    await Notices().tell(connection, later)
    assert (await scheduled(somebody))[1] == microseconds(later + timedelta(seconds=30))
    await Notices().tell(connection, None)
    assert await scheduled(somebody) == ("", 0)


async def test_reboot_is_called_off_like_any_other(connection: Connection, somebody: Peer) -> None:
    notices = Notices()
    assert not await notices.called_off(connection)
    await notices.tell(connection, WHEN)
    assert not await notices.called_off(connection)
    await ask(somebody, "CancelScheduledShutdown")
    assert await notices.called_off(connection)
    await notices.tell(connection, None)
    assert not await notices.called_off(connection)


async def test_rehearsal_whose_time_has_come_reboots_nothing(
    connection: Connection, somebody: Peer, tmp_path: Path
) -> None:
    await Notices().tell(connection, datetime.now(UTC) - timedelta(seconds=29))
    async with asyncio.timeout(20):
        while (await scheduled(somebody))[0]:
            pass
    assert "dry run" in (tmp_path / "logind.log").read_text()


async def test_shutdown_somebody_else_has_scheduled_is_left_alone(
    connection: Connection, somebody: Peer
) -> None:
    await ask(somebody, "SetWallMessage", "sb", "maintenance", True)
    await ask(somebody, "ScheduleShutdown", "st", "dry-poweroff", microseconds(WHEN))
    before, notices = await scheduled(somebody), Notices()
    assert before[1] == microseconds(WHEN)
    await notices.tell(connection, WHEN + timedelta(minutes=1))
    assert not await notices.called_off(connection)
    await notices.tell(connection, None)
    assert await scheduled(somebody) == before


async def test_inhibitor_is_seen_when_it_is_taken_and_when_it_is_let_go(
    bus: PrivateBus, somebody: Peer
) -> None:
    watch, seen, news = SurroundingsWatch(), [Surroundings()], asyncio.Event()

    def receive(message: Message) -> bool:
        watch.handle(message)
        return False

    def see(known: Surroundings) -> None:
        seen.append(known)
        news.set()

    async def until(blocks: tuple[ShutdownBlock, ...]) -> None:
        async with asyncio.timeout(20):
            while seen[-1].shutdown_blocks != blocks:
                news.clear()
                await news.wait()

    made = await Connection.open(bus.address, on_message=receive, on_drained=lambda: None)
    watch.watch(frozenset({Source.SHUTDOWN}), see)
    watch.connected(made)
    await until(())
    body = ["shutdown:sleep", "backup", "copying", "block"]
    reply = await somebody.reply(PATH, MANAGER, "Inhibit", "ssss", body, destination=NAME)
    [descriptor] = reply.unix_fds
    await until((ShutdownBlock("backup", "copying"),))
    os.close(descriptor)
    await until(())
    watch.disconnected()
    await made.close()
