"""Jobs on a real bus: started by a call, followed by signals, waited for."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from typing import Any

import pytest
from dbus_fast import Variant

from bootcd.bus.frontend import Frontend
from bootcd.bus.interfaces import ROOT_PATH
from bootcd.model.errors import OutOfSpace
from bootcd.model.job import ImageUpdate, JobOptions, JobState, Outcome, Phase, SoftReboot
from tests.support.blocking import no_blocking_calls as no_blocking_calls
from tests.support.bus import PrivateBus
from tests.support.bus_front import (
    ERROR,
    JOB_NAME,
    JOB_PATH,
    MANAGER_NAME,
    OWN,
    START_USEC,
    changed,
    get_all,
)
from tests.support.bus_front import bus as bus
from tests.support.bus_front import front as front
from tests.support.bus_front import peer as peer
from tests.support.bus_front import service as service
from tests.support.bus_peers import Peer, connected, plain
from tests.support.scripted_agent import (
    ScriptedService,
    done,
    failed,
)


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
    assert service.calls == [("upgrade", {"download_only": True})]
    assert (await get_all(peer, ROOT_PATH, MANAGER_NAME))["ActiveJob"] == path


@pytest.mark.parametrize(
    ("member", "signature", "body", "expected"),
    [
        ("Check", "a{sv}", [{}], ("check", {})),
        (
            "Upgrade",
            "a{sv}",
            [{"apply": Variant("b", True)}],
            ("upgrade", {"apply": True}),
        ),
        (
            "Switch",
            "sa{sv}",
            ["r.test/os:2", {"download-only": Variant("b", True)}],
            ("switch", {"image": "r.test/os:2", "download_only": True}),
        ),
        ("Rollback", "a{sv}", [{}], ("rollback", {})),
        ("Apply", "a{sv}", [{}], ("apply", {})),
        ("Pause", "ta{sv}", [0, {}], ("pause", None)),
        ("Pause", "ta{sv}", [1_000_000, {}], ("pause", datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))),
        (
            "ScheduleApply",
            "ta{sv}",
            [1_000_000, {"soft-reboot": Variant("s", "auto")}],
            (
                "schedule-apply",
                datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC),
                JobOptions(soft_reboot=SoftReboot.AUTO),
            ),
        ),
        ("ClearFailures", "sa{sv}", ["sha256:b", {}], ("clear-failures", "sha256:b")),
        ("CancelApply", "a{sv}", [{}], ("cancel-apply",)),
        ("Resume", "a{sv}", [{}], ("resume",)),
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
    service.end(
        record,
        done(changed=True, bytes_fetched=100, update=ImageUpdate(image="i", digest="d"), warnings=("w",)),
    )
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
        "soft-reboot": False,
        "bytes-fetched": 100,
        "bytes-reused": 0,
        "image": "i",
        "transport": "registry",
        "digest": "d",
        "version": "",
        "created": 0,
        "download-size": -1,
        "has-notes": False,
        "warnings": ["w"],
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


async def test_job_that_reboots_the_host_says_so_when_it_has_ended(
    peer: Peer, service: ScriptedService
) -> None:
    service.end(service.add(), done(changed=True))
    path = (await peer.call(ROOT_PATH, MANAGER_NAME, "Apply", "a{sv}", [{}])).value()
    [_, record] = service.jobs()
    service.end(record, done(reboot=True, soft_reboot=True))
    told = await peer.signal(lambda m: m.member == "RebootScheduled")
    when, reason, details = told.body
    assert when == START_USEC
    assert reason == f"apply, asked for by {record.requester.name}"
    assert plain(details) == {
        "job": path,
        "uuid": record.request.uuid,
        "soft-reboot": True,
        "uid": os.getuid(),
    }
    members = [m.member for m in peer.signals]
    assert members.count("RebootScheduled") == 1
    assert members[-2:] == ["JobRemoved", "RebootScheduled"]


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
