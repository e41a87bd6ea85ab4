"""The connection against a real dbus-daemon that stalls, dies, refuses and sends nasty things."""

from __future__ import annotations

import asyncio
import os
import resource

import pytest
from dbus_fast import Message

from bootcd.bus import connection as module
from bootcd.bus.connection import BUS_NAME, BUS_PATH, Connection, ConnectionEnded, RemoteError
from bootcd.model.errors import BackendFailed, WrongState
from tests.support.bus import PrivateBus
from tests.support.bus_peers import connected, pause, restart, resume

SIGNALS = 20_000


async def open_connection(bus: PrivateBus, on_drained: object = None) -> Connection:
    return await Connection.open(
        bus.address,
        on_message=lambda _: False,
        on_drained=on_drained or (lambda: None),  # type: ignore[arg-type]
    )


def tick(number: int) -> Message:
    return Message.new_signal("/t", "t.T", "Tick", "us", [number, "x" * 100])


async def test_send_many_signals_in_one_tick_keeps_connection_and_order(bus: PrivateBus) -> None:
    sender = await open_connection(bus)
    async with connected(bus.address) as peer:
        await peer.listen("type='signal',interface='t.T'")
        for number in range(SIGNALS):
            sender.send(tick(number))
        assert sender.congested
        await peer.signal(lambda m: m.member == "Tick" and m.body[0] == SIGNALS - 1)
        received = [message.body[0] for message in peer.signals if message.member == "Tick"]
    assert received == list(range(SIGNALS))
    await sender.close()


async def test_send_to_stalled_bus_waits_and_reports_drained_once_it_reads(bus: PrivateBus) -> None:
    drained = asyncio.Event()
    sender = await open_connection(bus, drained.set)
    pause(bus)
    for number in range(2_000):
        sender.send(tick(number))
    assert sender.congested
    assert not drained.is_set()
    resume(bus)
    await asyncio.wait_for(drained.wait(), 20)
    assert not sender.congested
    assert await sender.call(BUS_NAME, BUS_PATH, BUS_NAME, "GetId")
    await sender.close()


async def test_send_beyond_limit_on_stalled_bus_ends_connection_with_bounded_memory(
    bus: PrivateBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_UNREAD_LIMIT", 1 << 20)
    sender = await open_connection(bus)
    pause(bus)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(100_000):
        sender.send(tick(number))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10
    assert "stopped reading" in await asyncio.wait_for(sender.ended(), 5)
    await sender.close()


async def test_ended_when_bus_dies_returns_and_pending_call_fails(bus: PrivateBus) -> None:
    connection = await open_connection(bus)
    pause(bus)
    call = asyncio.create_task(connection.call(BUS_NAME, BUS_PATH, BUS_NAME, "GetId"))
    await asyncio.sleep(0)
    await restart(bus)
    assert await asyncio.wait_for(connection.ended(), 5)
    with pytest.raises(ConnectionEnded):
        await call
    connection.send(tick(0))  # nobody is there, and nothing happens
    await connection.close()


async def test_call_without_answer_times_out_and_leaves_nothing_behind(bus: PrivateBus) -> None:
    connection = await open_connection(bus)
    pause(bus)
    with pytest.raises(TimeoutError):
        await connection.call(BUS_NAME, BUS_PATH, BUS_NAME, "GetId", deadline=0.05)
    assert not connection._bus._method_return_handlers
    resume(bus)
    assert await connection.call(BUS_NAME, BUS_PATH, BUS_NAME, "GetId")
    await connection.close()


async def test_call_answered_with_error_raises_its_name(bus: PrivateBus) -> None:
    connection = await open_connection(bus)
    with pytest.raises(RemoteError) as caught:
        await connection.call(BUS_NAME, BUS_PATH, BUS_NAME, "GetNameOwner", "s", ["not.there"])
    assert caught.value.name == "org.freedesktop.DBus.Error.NameHasNoOwner"
    await connection.close()


@pytest.mark.parametrize(
    "address",
    ["unix:path=/nonexistent/bus", "nonsense", "unix:"],
    ids=["nobody-there", "no-address", "no-path"],
)
async def test_open_bad_address_raises_backend_failed(address: str) -> None:
    with pytest.raises(BackendFailed, match="the message bus cannot be reached"):
        await Connection.open(address, on_message=lambda _: False, on_drained=lambda: None)


async def test_open_bus_that_never_answers_raises_in_time(
    bus: PrivateBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CONNECT_SECS", 0.1)
    pause(bus)
    with pytest.raises(BackendFailed, match="does not answer"):
        await open_connection(bus)


async def test_own_taken_name_raises_wrong_state(bus: PrivateBus) -> None:
    first, second = await open_connection(bus), await open_connection(bus)
    await first.own("org.bootcd1")
    with pytest.raises(WrongState, match=r"another process owns org\.bootcd1"):
        await second.own("org.bootcd1")
    async with connected(bus.address) as peer:
        await peer.listen(f"type='signal',sender='{BUS_NAME}',member='NameOwnerChanged',arg0='org.bootcd1'")
        await first.close()
        await peer.signal(lambda m: m.member == "NameOwnerChanged" and m.body[2] == "")
    await second.own("org.bootcd1")
    await second.close()


async def test_own_name_the_policy_forbids_raises_backend_failed(bus: PrivateBus) -> None:
    connection = await open_connection(bus)
    with pytest.raises(BackendFailed, match="does not let this process own"):
        await connection.own("org.example.Other")
    await connection.close()


async def test_send_file_descriptor_arrives(bus: PrivateBus) -> None:
    sender = await open_connection(bus)
    read_end, write_end = os.pipe()
    async with connected(bus.address) as peer:
        await peer.listen("type='signal',interface='t.T'")
        message = Message.new_signal("/t", "t.T", "Pipe", "h", [0], unix_fds=[write_end])
        sender.send(message)
        received = (await peer.signal(lambda m: m.member == "Pipe")).unix_fds
    os.write(received[0], b"hello")
    assert os.read(read_end, 5) == b"hello"
    for descriptor in (read_end, *received):
        os.close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(write_end)  # ours went with the message
    await sender.close()


async def test_close_writes_what_is_queued_first(bus: PrivateBus) -> None:
    sender = await open_connection(bus)
    async with connected(bus.address) as peer:
        await peer.listen("type='signal',interface='t.T'")
        for number in range(3_000):
            sender.send(tick(number))
        await sender.close()
        await peer.signal(lambda m: m.member == "Tick" and m.body[0] == 2_999)
