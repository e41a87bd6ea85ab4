"""Calls that are wrong or fail on a real bus: a typed error each, and nothing else happens."""

from __future__ import annotations

import asyncio
import logging
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dbus_fast import Message, MessageFlag, Variant

from bootcd.bus import methods
from bootcd.bus.frontend import Frontend
from bootcd.bus.interfaces import ROOT_PATH
from bootcd.model.errors import Busy, InvalidImage, NoSuchJob, WrongState
from bootcd.model.job import ImageUpdate, JobKind
from tests.support.blocking import no_blocking_calls as no_blocking_calls
from tests.support.bus_front import (
    BOOTED_PATH,
    ERROR,
    JOB_NAME,
    JOB_PATH,
    MANAGER_NAME,
    OBJECT_MANAGER,
    OWN,
    PROPERTIES,
    get_all,
)
from tests.support.bus_front import bus as bus
from tests.support.bus_front import front as front
from tests.support.bus_front import peer as peer
from tests.support.bus_front import service as service
from tests.support.bus_peers import Peer, plain
from tests.support.scripted_agent import (
    START,
    ScriptedService,
)

# Wrong calls


@pytest.mark.parametrize(
    ("path", "interface", "member", "signature", "body", "error"),
    [
        (ROOT_PATH, MANAGER_NAME, "Upgrade", "", [], "InvalidArgs"),
        (ROOT_PATH, MANAGER_NAME, "Upgrade", "s", ["x"], "InvalidArgs"),
        (ROOT_PATH, MANAGER_NAME, "Upgrade", "a{sv}", [{"nonsense": Variant("b", True)}], "InvalidArgs"),
        (ROOT_PATH, MANAGER_NAME, "Upgrade", "a{sv}", [{"apply": Variant("s", "yes")}], "InvalidArgs"),
        (ROOT_PATH, MANAGER_NAME, "Check", "a{sv}", [{"apply": Variant("b", True)}], "InvalidArgs"),
        (ROOT_PATH, MANAGER_NAME, "GetHistory", "a{sv}", [{"limit": Variant("u", 0)}], "InvalidArgs"),
        (ROOT_PATH, MANAGER_NAME, "GetHistory", "a{sv}", [{"limit": Variant("u", 1001)}], "InvalidArgs"),
        (ROOT_PATH, MANAGER_NAME, "GetHistory", "a{sv}", [{"limit": Variant("i", 5)}], "InvalidArgs"),
        (ROOT_PATH, MANAGER_NAME, "NoSuch", "", [], "UnknownMethod"),
        (ROOT_PATH, "org.bootcd1.Other", "Upgrade", "a{sv}", [{}], "AccessDenied"),
        (BOOTED_PATH, MANAGER_NAME, "Upgrade", "a{sv}", [{}], "UnknownInterface"),
        ("/", MANAGER_NAME, "Upgrade", "a{sv}", [{}], "UnknownInterface"),
        ("/org/bootcd1/job/_77", JOB_NAME, "Wait", "a{sv}", [{}], "UnknownObject"),
        ("/nowhere", PROPERTIES, "GetAll", "s", [MANAGER_NAME], "UnknownObject"),
        ("/nowhere", "org.freedesktop.DBus.Introspectable", "Introspect", "", [], "UnknownObject"),
        (BOOTED_PATH, OBJECT_MANAGER, "GetManagedObjects", "", [], "UnknownInterface"),
        (ROOT_PATH, PROPERTIES, "GetAll", "s", [JOB_NAME], "UnknownInterface"),
        (ROOT_PATH, PROPERTIES, "Get", "ss", [MANAGER_NAME, "NoSuch"], "UnknownProperty"),
        (ROOT_PATH, PROPERTIES, "Get", "ss", [PROPERTIES, "Version"], "UnknownProperty"),
        (
            ROOT_PATH,
            PROPERTIES,
            "Set",
            "ssv",
            [MANAGER_NAME, "Mode", Variant("s", "off")],
            "PropertyReadOnly",
        ),
        (ROOT_PATH, PROPERTIES, "Set", "ssv", [MANAGER_NAME, "No", Variant("s", "")], "UnknownProperty"),
        (ROOT_PATH, PROPERTIES, "Get", "s", ["x"], "InvalidArgs"),
    ],
)
async def test_wrong_call_gets_a_typed_error_and_does_nothing(
    peer: Peer,
    service: ScriptedService,
    path: str,
    interface: str,
    member: str,
    signature: str,
    body: list[Any],
    error: str,
) -> None:
    answer = await peer.call(path, interface, member, signature, body)
    assert answer.error == ERROR + error
    assert answer.text
    assert service.calls == []


@pytest.mark.parametrize("image", ["a" * 1025, "quay.io/\u202eevil", "a\nb"], ids=["long", "bidi", "newline"])
async def test_switch_to_unprintable_image_is_refused_before_anything(
    peer: Peer, service: ScriptedService, image: str
) -> None:
    answer = await peer.call(ROOT_PATH, MANAGER_NAME, "Switch", "sa{sv}", [image, {}])
    assert answer.error == OWN + "InvalidImage"
    assert service.calls == []


async def test_switch_with_unprintable_transport_is_refused_before_anything(
    peer: Peer, service: ScriptedService
) -> None:
    options = {"transport": Variant("s", "oci\u202e")}
    answer = await peer.call(ROOT_PATH, MANAGER_NAME, "Switch", "sa{sv}", ["/mnt/os", options])
    assert answer.error == ERROR + "InvalidArgs"
    assert service.calls == []


async def test_standard_members_of_peer_answer_anywhere(peer: Peer) -> None:
    assert (await peer.call("/nowhere", "org.freedesktop.DBus.Peer", "Ping")).error == ""
    machine_id = (await peer.call(ROOT_PATH, "org.freedesktop.DBus.Peer", "GetMachineId")).value()
    assert len(machine_id) == 32


async def test_get_with_empty_interface_finds_the_property(peer: Peer) -> None:
    assert (await peer.call(ROOT_PATH, PROPERTIES, "Get", "ss", ["", "Version"])).value() == "9.9"


async def test_call_without_reply_is_done_and_not_answered(peer: Peer, service: ScriptedService) -> None:
    message = Message(
        destination="org.bootcd1",
        path=ROOT_PATH,
        interface=MANAGER_NAME,
        member="Check",
        signature="a{sv}",
        body=[{}],
        flags=MessageFlag.NO_REPLY_EXPECTED,
    )
    await peer.bus.send(message)
    await peer.signal(lambda m: m.member == "JobNew")
    assert service.calls == [("check", {})]


async def test_file_descriptors_nobody_asked_for_are_closed(peer: Peer) -> None:
    read_end, write_end = os.pipe()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        options = {"x-pipe": Variant("h", 0)}
        answer = await peer.call(
            ROOT_PATH, MANAGER_NAME, "GetStatus", "a{sv}", [options], unix_fds=[write_end, read_end]
        )
        assert answer.error == ""
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(read_end)
    os.close(write_end)


async def test_deeply_nested_argument_does_not_cost_the_connection(peer: Peer, front: Frontend) -> None:
    owner = front._connection
    for depth in (8, 30, 60):
        value = Variant("s", "x")
        for _ in range(depth):
            value = Variant("v", value)
        answer = await peer.call(ROOT_PATH, MANAGER_NAME, "GetStatus", "a{sv}", [{"x-deep": value}])
        assert answer.error == ""
    assert front._connection is owner


async def test_check_that_is_recent_enough_is_not_made_again(peer: Peer, service: ScriptedService) -> None:
    async def check(**options: Variant) -> object:
        named = {name.replace("_", "-"): value for name, value in options.items()}
        return (await peer.call(ROOT_PATH, MANAGER_NAME, "Check", "a{sv}", [named])).value()

    hour = 3600 * 1_000_000
    service.update(last_check=START - timedelta(minutes=30))
    assert await check(max_age=Variant("t", hour)) == "/"
    assert await check(max_age=Variant("t", 2**64 - 1)) == "/"
    assert service.calls == []
    assert await check(max_age=Variant("t", hour // 3)) != "/"
    assert await check() != "/"
    assert service.calls == [("check", {}), ("check", {})]


async def test_simulation_takes_a_time_and_surroundings(peer: Peer, service: ScriptedService) -> None:
    options = {"at": Variant("t", 1_000_000), "on-battery": Variant("b", True)}
    answer = await peer.call(ROOT_PATH, MANAGER_NAME, "Simulate", "a{sv}", [options])
    start = int(START.timestamp() * 1e6)
    gates = [["metered", "the network is metered", 0, {"actions": ["stage"]}]]
    assert plain(answer.body) == ["stage", "an update is available", start, gates]
    assert service.calls == [("simulate", datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), {"on_battery": True})]


async def test_status_of_a_generation_comes_with_it_or_after_a_while_as_it_is(
    peer: Peer, service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def status(generation: int) -> str:
        options = {"wait-generation": Variant("t", generation)}
        return str((await peer.call(ROOT_PATH, MANAGER_NAME, "GetStatus", "a{sv}", [options])).value())

    now = service.snapshot.generation
    await status(now)
    waiting = asyncio.create_task(status(now + 2))
    service.update(host_json="{}", generation=now + 1)
    await peer.call(ROOT_PATH, MANAGER_NAME, "GetStatus", "a{sv}", [{}])
    assert not waiting.done()
    service.update(host_json='{"new": true}', generation=now + 2)
    assert await waiting == '{"new": true}'
    monkeypatch.setattr(methods, "_GENERATION_SECS", 0.1)
    assert await status(now + 3) == '{"new": true}'


# Errors


@pytest.mark.parametrize(
    ("failure", "name", "text"),
    [
        (WrongState("there is nothing to apply"), OWN + "WrongState", "there is nothing to apply"),
        (InvalidImage("x is no image", hint="try y"), OWN + "InvalidImage", "x is no image\ntry y"),
        (NoSuchJob("there is no such job"), OWN + "NoSuchJob", "there is no such job"),
    ],
    ids=lambda value: value.name if isinstance(value, Exception) else "",
)
async def test_error_of_the_service_reaches_the_caller_with_name_sentence_and_hint(
    peer: Peer, service: ScriptedService, failure: Exception, name: str, text: str
) -> None:
    service.failure = failure
    answer = await peer.call(ROOT_PATH, MANAGER_NAME, "Upgrade", "a{sv}", [{}])
    assert (answer.error, answer.text) == (name, text)


async def test_busy_names_the_job_at_work(peer: Peer, service: ScriptedService) -> None:
    record = service.add(JobKind.SWITCH)
    service.failure = Busy("a switch is at work", uuid=record.request.uuid)
    answer = await peer.call(ROOT_PATH, MANAGER_NAME, "Upgrade", "a{sv}", [{}])
    assert answer.error == OWN + "Busy"
    assert answer.text == f"a switch is at work ({JOB_PATH}, {record.request.uuid})"


async def test_unknown_exception_leaves_only_a_reference_with_the_caller(
    peer: Peer, service: ScriptedService, caplog: pytest.LogCaptureFixture
) -> None:
    service.failure = KeyError("/etc/secret")
    answer = await peer.call(ROOT_PATH, MANAGER_NAME, "Upgrade", "a{sv}", [{}])
    assert answer.error == OWN + "Failed"
    sentence, reference = answer.text.rsplit(" ", 1)
    assert sentence == "internal error; the journal has the details under"
    [record] = [record for record in caplog.records if reference in record.getMessage()]
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None


async def test_text_the_bus_cannot_carry_does_not_cost_the_connection(
    peer: Peer, service: ScriptedService, front: Frontend
) -> None:
    owner = front._connection
    update = ImageUpdate(image="i", digest="d", version="nul \0 and \ud800 half", download_bytes=2**70)
    service.update(available=update, generation=2**70)
    service.failure = WrongState("bad \0 text \udfff")
    answer = await peer.call(ROOT_PATH, MANAGER_NAME, "Upgrade", "a{sv}", [{}])
    assert answer.text == "bad \ufffd text ?"
    manager = await get_all(peer, ROOT_PATH, MANAGER_NAME)
    assert manager["AvailableUpdate"]["version"] == "nul \ufffd and ? half"
    assert manager["AvailableUpdate"]["download-size"] == 2**63 - 1
    assert manager["Generation"] == 2**64 - 1
    assert front._connection is owner
