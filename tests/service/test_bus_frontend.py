"""The front end on a real bus: what clients read, hear and get as answers."""

from __future__ import annotations

import asyncio
import logging
import os
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from dbus_fast import Message, MessageFlag, Variant

from bootcd.agent.snapshot import NextAction
from bootcd.bus import connection, frontend
from bootcd.bus.frontend import Frontend
from bootcd.bus.interfaces import DEPLOYMENT, JOB, MANAGER, ROOT_PATH
from bootcd.model.errors import Busy, InvalidImage, NoSuchJob, OutOfSpace, WrongState
from bootcd.model.job import ImageUpdate, JobKind, JobState, Outcome, Phase, Requester
from tests.support.blocking import no_blocking_calls as no_blocking_calls
from tests.support.bus import PrivateBus
from tests.support.bus_peers import Peer, connected, pause, plain, private_bus, restart, resume
from tests.support.machine import REPOSITORY
from tests.support.scripted_agent import (
    BOOTED,
    ROLLBACK,
    STAGED,
    START,
    ScriptedService,
    deployment,
    done,
    failed,
    host,
)

MANAGER_NAME, JOB_NAME, DEPLOYMENT_NAME = MANAGER.name, JOB.name, DEPLOYMENT.name
PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"
ERROR = "org.freedesktop.DBus.Error."
OWN = "org.bootcd1.Error."
START_USEC = int(START.timestamp()) * 1_000_000
JOB_PATH = f"{ROOT_PATH}/job/_1"
BOOTED_PATH = f"{ROOT_PATH}/deployment/_{BOOTED}_0"
STAGED_PATH = f"{ROOT_PATH}/deployment/_{STAGED}_0"
ROLLBACK_PATH = f"{ROOT_PATH}/deployment/_{ROLLBACK}_0"


@pytest.fixture
async def bus() -> AsyncIterator[PrivateBus]:
    async with private_bus() as running:
        yield running


@pytest.fixture
def service() -> ScriptedService:
    return ScriptedService()


@pytest.fixture
async def front(bus: PrivateBus, service: ScriptedService) -> AsyncIterator[Frontend]:
    front = Frontend(service, bus.address)
    await front.start()
    yield front
    await front.stop()


@pytest.fixture
async def peer(bus: PrivateBus, front: Frontend) -> AsyncIterator[Peer]:
    async with connected(bus.address) as peer:
        await peer.listen()
        yield peer


async def get_all(peer: Peer, path: str, interface: str) -> Any:
    return (await peer.call(path, PROPERTIES, "GetAll", "s", [interface])).value()


def changed(path: str, name: str) -> Callable[[Message], bool]:
    return lambda m: m.member == "PropertiesChanged" and m.path == path and name in m.body[1]


# Reading


async def test_get_all_of_manager_shows_the_snapshot(peer: Peer, service: ScriptedService) -> None:
    service.update(
        host=host(booted=deployment(BOOTED), staged=deployment(STAGED), rollback=deployment(ROLLBACK)),
        generation=3,
        reboot_required=True,
        last_check=START,
        last_check_result="RegistryUnavailable",
        available=ImageUpdate(image="registry.test/os:1", digest="sha256:1", version="2", created=START),
        mode="stage",
        next_action=NextAction("check", "the interval is over", START),
    )
    assert await get_all(peer, ROOT_PATH, MANAGER_NAME) == {
        "Version": "9.9",
        "ApiLevel": 1,
        "Backend": "ostree",
        "State": "idle",
        "StateSince": START_USEC,
        "Generation": 3,
        "Booted": BOOTED_PATH,
        "Staged": STAGED_PATH,
        "Rollback": ROLLBACK_PATH,
        "ActiveJob": "/",
        "RebootRequired": True,
        "LastCheck": START_USEC,
        "LastCheckResult": OWN + "RegistryUnavailable",
        "AvailableUpdate": {
            "image": "registry.test/os:1",
            "digest": "sha256:1",
            "version": "2",
            "created": START_USEC,
            "download-size": -1,
        },
        "Mode": "stage",
        "NextAction": ["check", "the interval is over", START_USEC],
    }


async def test_get_all_of_deployment_shows_it(peer: Peer) -> None:
    assert await get_all(peer, ROLLBACK_PATH, DEPLOYMENT_NAME) == {
        "Id": f"{ROLLBACK}.0",
        "Role": "rollback",
        "Image": "registry.test/os:1",
        "Transport": "registry",
        "Digest": "sha256:" + ROLLBACK,
        "Version": "1.0",
        "Timestamp": 1_767_225_600_000_000,
        "Stateroot": "default",
        "Pinned": False,
        "Incompatible": False,
        "DownloadOnly": False,
        "SoftRebootCapable": False,
    }


async def test_get_managed_objects_lists_every_object_below_the_root(
    peer: Peer, service: ScriptedService
) -> None:
    service.add()
    managed = (await peer.call(ROOT_PATH, OBJECT_MANAGER, "GetManagedObjects")).value()
    assert {path: set(interfaces) for path, interfaces in managed.items()} == {
        BOOTED_PATH: {DEPLOYMENT_NAME},
        ROLLBACK_PATH: {DEPLOYMENT_NAME},
        JOB_PATH: {JOB_NAME},
    }
    assert managed[JOB_PATH][JOB_NAME] == await get_all(peer, JOB_PATH, JOB_NAME)


async def test_get_status_is_the_document_of_the_snapshot(peer: Peer, service: ScriptedService) -> None:
    answer = await peer.call(ROOT_PATH, MANAGER_NAME, "GetStatus", "a{sv}", [{}])
    assert answer.value() == service.snapshot.host_json


async def test_get_status_before_the_host_was_seen_waits_for_it(peer: Peer, service: ScriptedService) -> None:
    document = service.snapshot.host_json
    service.update(host_json="")
    asking = asyncio.create_task(peer.call(ROOT_PATH, MANAGER_NAME, "GetStatus", "a{sv}", [{}]))
    assert (await get_all(peer, ROOT_PATH, MANAGER_NAME))["State"] == "idle"
    assert not asking.done()
    service.update(host_json=document)
    assert (await asking).value() == document


async def test_get_history_lists_ended_jobs_up_to_the_limit(peer: Peer, service: ScriptedService) -> None:
    record = service.add(
        JobKind.SWITCH, requester=Requester(uid=1000, name="test"), image="registry.test/other:2"
    )
    error = OutOfSpace("no space on /sysroot", hint="free some", needed_bytes=5)
    outcome = failed(error)
    service.ended = [
        record.model_copy(update={"state": JobState.FAILED, "finished": START, "outcome": outcome})
    ] * 3
    answer = await peer.call(ROOT_PATH, MANAGER_NAME, "GetHistory", "a{sv}", [{"limit": Variant("u", 2)}])
    entries = answer.value()
    assert len(entries) == 2
    assert entries[0] == {
        "uuid": record.request.uuid,
        "kind": "switch",
        "image": "registry.test/other:2",
        "state": "failed",
        "created": START_USEC,
        "finished": START_USEC,
        "uid": 1000,
        "requester": "test",
        "changed": False,
        "digest": "",
        "version": "",
        "bytes-fetched": 0,
        "error-name": OWN + "OutOfSpace",
        "error-message": "no space on /sysroot",
        "hint": "free some",
    }


# Introspection


@pytest.mark.parametrize(
    ("path", "name"),
    [(ROOT_PATH, MANAGER_NAME), (BOOTED_PATH, DEPLOYMENT_NAME), (JOB_PATH, JOB_NAME)],
    ids=["manager", "deployment", "job"],
)
async def test_introspect_equals_the_contract(
    peer: Peer, service: ScriptedService, path: str, name: str
) -> None:
    service.add()
    live = ET.fromstring((await peer.call(path, "org.freedesktop.DBus.Introspectable", "Introspect")).value())
    contract = ET.parse(REPOSITORY / f"dbus/{name}.xml").getroot()
    assert canonical(live, name) == canonical(contract, name)


def canonical(node: ET.Element, name: str) -> Any:
    """Return an interface as nested lists: members in any order, arguments in theirs."""

    def element(item: ET.Element) -> Any:
        inside = [element(child) for child in item]
        attributes = sorted(item.attrib.items())
        return [item.tag, attributes, inside if item.tag in ("method", "signal") else sorted(inside)]

    [interface] = [item for item in node.iter("interface") if item.get("name") == name]
    return element(interface)


async def test_introspect_leads_from_the_top_to_every_object(peer: Peer, service: ScriptedService) -> None:
    service.add()
    found, pending = set(), ["/"]
    while pending:
        path = pending.pop()
        answer = await peer.call(path, "org.freedesktop.DBus.Introspectable", "Introspect")
        node = ET.fromstring(answer.value())
        found |= {(path, item.get("name")) for item in node.iter("interface")}
        pending += [f"{path.rstrip('/')}/{child.get('name')}" for child in node.findall("node")]
    ours = {(path, name) for path, name in found if name and name.startswith("org.bootcd1")}
    assert ours == {
        (ROOT_PATH, MANAGER_NAME),
        (BOOTED_PATH, DEPLOYMENT_NAME),
        (ROLLBACK_PATH, DEPLOYMENT_NAME),
        (JOB_PATH, JOB_NAME),
    }
    assert (ROOT_PATH, OBJECT_MANAGER) in found


# Jobs


async def test_upgrade_answers_with_a_job_that_exists(peer: Peer, service: ScriptedService) -> None:
    options = {"download-only": Variant("b", True), "x-anything": Variant("s", "ignored")}
    path = (await peer.call(ROOT_PATH, MANAGER_NAME, "Upgrade", "a{sv}", [options])).value()
    assert path == JOB_PATH
    job = await get_all(peer, path, JOB_NAME)
    assert (job["Kind"], job["State"], job["Progress"], job["Cancellable"]) == (
        "upgrade",
        "running",
        -1,
        True,
    )
    assert job["Requester"] == {"uid": 0, "pid": os.getpid(), "name": service.requesters[0].name}
    assert job["Requester"]["name"]
    assert service.calls == [("upgrade", {"download_only": True, "apply": False})]
    assert (await get_all(peer, ROOT_PATH, MANAGER_NAME))["ActiveJob"] == path


@pytest.mark.parametrize(
    ("member", "signature", "body", "expected"),
    [
        ("Check", "a{sv}", [{}], ("check", {})),
        (
            "Upgrade",
            "a{sv}",
            [{"apply": Variant("b", True)}],
            ("upgrade", {"download_only": False, "apply": True}),
        ),
        (
            "Switch",
            "sa{sv}",
            ["r.test/os:2", {"download-only": Variant("b", True)}],
            ("switch", {"image": "r.test/os:2", "download_only": True, "apply": False}),
        ),
        ("Rollback", "a{sv}", [{}], ("rollback", {"apply": False})),
        ("Apply", "a{sv}", [{}], ("apply", {})),
        ("Reload", "", [], ("reload",)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_method_of_manager_reaches_the_service_with_its_options(
    peer: Peer, service: ScriptedService, member: str, signature: str, body: list[Any], expected: object
) -> None:
    answer = await peer.call(ROOT_PATH, MANAGER_NAME, member, signature, body)
    assert answer.error == ""
    assert service.calls == [expected]


async def test_job_announces_progress_and_end_in_order_and_each_once(
    peer: Peer, service: ScriptedService
) -> None:
    record = service.add()
    service.progress(record, 2.5, phase=Phase.FETCH, bytes_done=25, bytes_total=100, steps_total=4)
    service.progress(record, 2.5, phase=Phase.FETCH, bytes_done=25, bytes_total=100, steps_total=4)
    service.end(record, done(changed=True, bytes_fetched=100, update=ImageUpdate(image="i", digest="d")))
    service.forget(record)
    await peer.signal(lambda m: m.member == "InterfacesRemoved")
    told = [
        (m.member, m.path, plain(m.body))
        for m in peer.signals
        if m.path == JOB_PATH or "Job" in str(m.member)
    ]
    outcome = {
        "changed": True,
        "reboot": False,
        "bytes-fetched": 100,
        "image": "i",
        "digest": "d",
        "version": "",
        "created": 0,
        "download-size": -1,
    }
    uuid = record.request.uuid
    assert told == [
        ("JobNew", ROOT_PATH, [JOB_PATH, uuid, "upgrade"]),
        (
            "PropertiesChanged",
            JOB_PATH,
            [
                JOB_NAME,
                {
                    "Phase": "fetch",
                    "Progress": 0.25,
                    "BytesDone": 25,
                    "BytesTotal": 100,
                    "StepsTotal": 4,
                    "EtaUsec": 2_500_000,
                },
                [],
            ],
        ),
        (
            "PropertiesChanged",
            JOB_PATH,
            [
                JOB_NAME,
                {
                    "Finished": START_USEC,
                    "State": "done",
                    "Progress": 1.0,
                    "EtaUsec": 0,
                    "Cancellable": False,
                    "Outcome": outcome,
                },
                [],
            ],
        ),
        ("JobRemoved", ROOT_PATH, [JOB_PATH, uuid, "upgrade", "done", outcome]),
    ]
    everything = [m.member for m in peer.signals]
    assert everything.index("InterfacesAdded") < everything.index("JobNew")


async def test_failed_job_tells_error_and_its_facts_in_one_change(
    peer: Peer, service: ScriptedService
) -> None:
    record = service.add()
    error = OutOfSpace("no space on /sysroot", hint="free 5 bytes", needed_bytes=5, path="/sysroot")
    service.end(record, failed(error))
    change = plain((await peer.signal(changed(JOB_PATH, "State"))).body[1])
    assert (change["State"], change["ErrorName"]) == ("failed", OWN + "OutOfSpace")
    assert (change["ErrorMessage"], change["ErrorHint"]) == ("no space on /sysroot", "free 5 bytes")
    assert change["Outcome"]["error-needed_bytes"] == 5
    assert change["Outcome"]["error-path"] == "/sysroot"


async def test_wait_on_running_job_answers_at_its_end(peer: Peer, service: ScriptedService) -> None:
    record = service.add()
    waiting = asyncio.create_task(peer.call(JOB_PATH, JOB_NAME, "Wait", "a{sv}", [{}]))
    await get_all(peer, JOB_PATH, JOB_NAME)
    assert not waiting.done()
    service.end(record, done(changed=True))
    result, outcome = (await waiting).body
    assert (result, plain(outcome)["changed"]) == ("done", True)


async def test_wait_on_ended_job_answers_at_once(peer: Peer, service: ScriptedService) -> None:
    record = service.add()
    service.end(record, Outcome(state=JobState.CANCELLED))
    assert (await peer.call(JOB_PATH, JOB_NAME, "Wait", "a{sv}", [{}])).body[0] == "cancelled"


async def test_call_on_forgotten_job_is_unknown_object(peer: Peer, service: ScriptedService) -> None:
    record = service.add()
    service.end(record, done())
    service.forget(record)
    answer = await peer.call(JOB_PATH, JOB_NAME, "Wait", "a{sv}", [{}])
    assert answer.error == ERROR + "UnknownObject"


async def test_jobs_known_at_start_are_there_without_being_announced(
    bus: PrivateBus, service: ScriptedService
) -> None:
    service.add()
    async with connected(bus.address) as peer:
        await peer.listen()
        front = Frontend(service, bus.address)
        await front.start()
        assert (await get_all(peer, JOB_PATH, JOB_NAME))["State"] == "running"
        assert (await get_all(peer, ROOT_PATH, MANAGER_NAME))["ActiveJob"] == JOB_PATH
        assert not [m for m in peer.signals if m.member == "JobNew"]
        await front.stop()


# Deployments


async def test_staged_deployment_appears_before_the_manager_points_at_it_and_goes_after(
    peer: Peer, service: ScriptedService
) -> None:
    before = service.snapshot.host
    staged = host(booted=deployment(BOOTED), staged=deployment(STAGED), rollback=deployment(ROLLBACK))
    service.update(host=staged, generation=1, reboot_required=True)
    service.update(host=before, generation=2, reboot_required=False)
    await peer.signal(lambda m: m.member == "InterfacesRemoved")
    assert [(m.member, m.path) for m in peer.signals] == [
        ("InterfacesAdded", ROOT_PATH),
        ("PropertiesChanged", ROOT_PATH),
        ("PropertiesChanged", ROOT_PATH),
        ("InterfacesRemoved", ROOT_PATH),
    ]
    added, first, _, removed = (plain(m.body) for m in peer.signals)
    assert added[0] == removed[0] == STAGED_PATH
    assert added[1][DEPLOYMENT_NAME]["Role"] == "staged"
    assert first == [MANAGER_NAME, {"Generation": 1, "RebootRequired": True, "Staged": STAGED_PATH}, []]


async def test_deployment_that_changes_its_role_tells_it(peer: Peer, service: ScriptedService) -> None:
    service.update(host=host(booted=deployment(ROLLBACK), rollback=deployment(BOOTED)))
    assert plain((await peer.signal(changed(BOOTED_PATH, "Role"))).body) == [
        DEPLOYMENT_NAME,
        {"Role": "rollback"},
        [],
    ]


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


# Limits and the bus itself


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
