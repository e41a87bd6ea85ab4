"""The exported objects on a real bus: what clients read and hear."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from dbus_fast import Variant

from bootcd.agent.snapshot import NextAction
from bootcd.bus.interfaces import ROOT_PATH
from bootcd.model.errors import OutOfSpace
from bootcd.model.job import ImageUpdate, JobKind, JobState, Requester
from bootcd.update.features import features
from tests.support.blocking import no_blocking_calls as no_blocking_calls
from tests.support.bus_front import (
    BOOTED_PATH,
    DEPLOYMENT_NAME,
    JOB_NAME,
    JOB_PATH,
    MANAGER_NAME,
    OBJECT_MANAGER,
    OWN,
    PROPERTIES,
    ROLLBACK_PATH,
    STAGED_PATH,
    START_USEC,
    changed,
    get_all,
)
from tests.support.bus_front import bus as bus
from tests.support.bus_front import front as front
from tests.support.bus_front import peer as peer
from tests.support.bus_front import service as service
from tests.support.bus_peers import Peer, plain
from tests.support.machine import REPOSITORY
from tests.support.scripted_agent import (
    BOOTED,
    ROLLBACK,
    STAGED,
    START,
    ScriptedService,
    deployment,
    failed,
    host,
)

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
        "Features": list(features("ostree")),
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
            "transport": "registry",
            "digest": "sha256:1",
            "version": "2",
            "created": START_USEC,
            "download-size": -1,
            "has-notes": False,
        },
        "Mode": "stage",
        "NextAction": ["check", "the interval is over", START_USEC],
        "ReadOnlyReason": "",
        "BootHealth": {},
        "FailedVersions": [],
        "ScheduledApply": {},
        "Paused": {},
        "BlockedBy": [],
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
        "Health": "unknown",
        "KernelArguments": ["quiet", "root=LABEL=root"],
        "Signature": {
            "scope": "docker registry.test",
            "verified": True,
            "method": "gpg",
            "key": "ABCD",
            "signer": "",
            "identity": "registry.test/os:1",
            "time": START_USEC,
        },
    }
    assert (await get_all(peer, BOOTED_PATH, DEPLOYMENT_NAME))["Signature"] == {}


async def test_deployment_tells_whether_its_version_booted_well(peer: Peer, service: ScriptedService) -> None:
    service.update(good=("sha256:" + BOOTED,), failed=("sha256:" + ROLLBACK,))
    for path, health in ((BOOTED_PATH, "good"), (ROLLBACK_PATH, "bad")):
        assert (await get_all(peer, path, DEPLOYMENT_NAME))["Health"] == health


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


async def test_status_is_answered_in_its_turn_and_not_after_a_question_to_the_bus(peer: Peer) -> None:
    order: list[str] = []

    async def ask(name: str, *call: Any) -> None:
        await peer.call(ROOT_PATH, *call)
        order.append(name)

    async with asyncio.TaskGroup() as calls:
        calls.create_task(ask("status", MANAGER_NAME, "GetStatus", "a{sv}", [{}]))
        calls.create_task(ask("property", PROPERTIES, "Get", "ss", [MANAGER_NAME, "Version"]))
    assert order == ["status", "property"]


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


async def test_get_notes_gives_the_text_as_it_is(peer: Peer, service: ScriptedService) -> None:
    service.release_notes = "# 2\n\n- größer\n"
    answer = await peer.call(ROOT_PATH, MANAGER_NAME, "GetNotes", "a{sv}", [{}])
    assert answer.value() == "# 2\n\n- größer\n"


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
        "transport": "registry",
        "summary": "",
        "state": "failed",
        "created": START_USEC,
        "finished": START_USEC,
        "uid": 1000,
        "requester": "test",
        "changed": False,
        "digest": "",
        "version": "",
        "dropped": "",
        "reason": "",
        "bytes-fetched": 0,
        "bytes-reused": 0,
        "warnings": [],
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
