"""Limits, callers that leave, and a bus that stalls, restarts or gives the name to another."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bootcd.bus import connection, frontend
from bootcd.bus.frontend import Frontend
from bootcd.bus.interfaces import ROOT_PATH
from bootcd.model.errors import WrongState
from bootcd.model.job import Phase
from tests.support.blocking import no_blocking_calls as no_blocking_calls
from tests.support.bus import PrivateBus
from tests.support.bus_front import (
    ERROR,
    JOB_NAME,
    JOB_PATH,
    MANAGER_NAME,
    PROPERTIES,
    get_all,
)
from tests.support.bus_front import bus as bus
from tests.support.bus_front import front as front
from tests.support.bus_front import peer as peer
from tests.support.bus_front import service as service
from tests.support.bus_peers import Peer, connected, pause, plain, restart, resume
from tests.support.scripted_agent import (
    ScriptedService,
    done,
)


async def test_one_caller_has_a_limit_and_others_are_still_served(
    bus: PrivateBus, peer: Peer, service: ScriptedService
) -> None:
    record = service.add()
    waits = [asyncio.create_task(peer.call(JOB_PATH, JOB_NAME, "Wait", "a{sv}", [{}])) for _ in range(40)]
    refused, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    while len(refused) < 8:
        more, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        refused |= more
    assert {task.result().error for task in refused} == {ERROR + "LimitsExceeded"}
    async with connected(bus.address) as other:
        assert (await other.call(ROOT_PATH, MANAGER_NAME, "GetHistory", "a{sv}", [{}])).value() == []
    service.end(record, done())
    assert {(await task).error for task in pending} == {""}


async def test_caller_that_vanishes_frees_its_waits(
    bus: PrivateBus, peer: Peer, front: Frontend, service: ScriptedService
) -> None:
    service.add()
    async with connected(bus.address) as other:
        waits = [asyncio.create_task(other.call(JOB_PATH, JOB_NAME, "Wait", "a{sv}", [{}])) for _ in range(5)]
        while len([call for call in service.calls if call[0] == "wait"]) < 5:
            await get_all(peer, JOB_PATH, JOB_NAME)
    await asyncio.gather(*waits, return_exceptions=True)
    assert front._dispatcher is not None
    while front._dispatcher._served:
        await get_all(peer, JOB_PATH, JOB_NAME)


async def test_second_front_end_is_refused_and_the_first_goes_on(
    bus: PrivateBus, peer: Peer, front: Frontend
) -> None:
    second = Frontend(ScriptedService(), bus.address)
    with pytest.raises(WrongState, match=r"another process owns org\.bootcd1"):
        await second.start()
    await second.stop()
    assert (await peer.call(ROOT_PATH, PROPERTIES, "Get", "ss", ["", "Version"])).value() == "9.9"


async def test_bus_that_restarts_gets_name_and_objects_back_and_the_job_goes_on(
    bus: PrivateBus, peer: Peer, front: Frontend, service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontend, "_RETRY_FIRST_SECS", 0.01)
    record = service.add()
    await restart(bus)
    service.progress(record, bytes_done=1, bytes_total=2)  # nobody hears it
    await bus.wait_for_name("org.bootcd1")
    async with connected(bus.address) as again:
        await again.listen()
        assert (await get_all(again, JOB_PATH, JOB_NAME))["Progress"] == 0.5
        service.end(record, done(changed=True))
        removed = await again.signal(lambda m: m.member == "JobRemoved")
        assert removed.body[:4] == [JOB_PATH, record.request.uuid, "upgrade", "done"]


async def test_name_taken_while_the_bus_was_away_ends_the_front_end(
    bus: PrivateBus, front: Frontend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontend, "_RETRY_FIRST_SECS", 0.01)
    lost = asyncio.create_task(front.lost())
    open_connection = connection.Connection.open
    thieves = []

    async def open_after_the_thief(address: str, **handlers: Any) -> connection.Connection:
        thief = await open_connection(address, on_message=lambda _: False, on_drained=lambda: None)
        await thief.own("org.bootcd1")
        thieves.append(thief)
        return await open_connection(address, **handlers)

    monkeypatch.setattr(connection.Connection, "open", open_after_the_thief)
    await restart(bus)
    with pytest.raises(WrongState):
        await asyncio.wait_for(lost, 10)
    assert len(thieves) == 1
    await thieves[0].close()


async def test_lost_returns_after_stop(bus: PrivateBus, service: ScriptedService) -> None:
    front = Frontend(service, bus.address)
    await front.start()
    lost = asyncio.create_task(front.lost())
    await asyncio.sleep(0)
    await front.stop()
    await asyncio.wait_for(lost, 5)
    with pytest.raises(TimeoutError):
        await bus.wait_for_name("org.bootcd1", timeout=0.05)


async def test_stalled_bus_holds_changes_merged_and_gets_the_last_state(
    bus: PrivateBus, peer: Peer, front: Frontend, service: ScriptedService
) -> None:
    record = service.add()
    await peer.signal(lambda m: m.member == "JobNew")
    pause(bus)
    for number in range(1, 10_001):
        service.progress(record, phase=Phase.FETCH, bytes_done=number, bytes_total=10_000)
    assert front._connection is not None
    assert front._connection.congested
    assert front._connection._writer._unread < 1 << 20
    service.end(record, done(changed=True))
    resume(bus)
    await get_all(peer, JOB_PATH, JOB_NAME)  # everything has been told before it is answered
    told = [m for m in peer.signals if m.path == JOB_PATH or m.member == "JobRemoved"]
    assert [m.member for m in told[-2:]] == ["PropertiesChanged", "JobRemoved"]
    last = plain(told[-2].body[1])
    assert last["State"] == "done"
    assert last["BytesDone"] == 10_000
    assert len(told) < 2_000
