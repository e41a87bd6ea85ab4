"""The Varlink socket, with a plain client, with another user's, and with systemd's own."""

from __future__ import annotations

import asyncio
import json
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bootcd.agent.authorisation import NotAuthorised
from bootcd.host.peers import Peer
from bootcd.model.errors import AccessDenied, BootcdError, Busy, OutOfSpace
from bootcd.model.job import ImageUpdate, JobKind, JobState, Requester
from bootcd.model.trust import TrustPolicy
from bootcd.update.facts import Action
from bootcd.update.gates import Gate
from bootcd.update.inhibit import Inhibitor, parse_wish
from bootcd.varlink import connection as connection_module
from bootcd.varlink.description import INTERFACE, description
from bootcd.varlink.frontend import CONNECTIONS_PER_USER, Frontend
from tests.support.blocking import no_blocking_calls as no_blocking_calls
from tests.support.bus_peers import NOBODY
from tests.support.jobs import eventually
from tests.support.scripted_agent import BOOTED, ROLLBACK, ScriptedService, done, failed
from tests.support.varlink import (
    VARLINKCTL,
    Definition,
    VarlinkClient,
    connected,
    user_client,
    varlinkctl,
)

IDL = Definition(description())


class Authority:
    """Answers as a test says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str, dict[str, str], bool]] = []
        self.refusal: Exception | None = None
        self.waits: asyncio.Event | None = None
        self.cancelled = 0

    async def __call__(
        self, peer: Peer, action: str, details: Mapping[str, str], *, interactive: bool
    ) -> None:
        assert peer.alive
        assert peer.start_ticks > 0
        self.asked.append((peer.uid, action, dict(details), interactive))
        if self.waits is not None:
            try:
                await self.waits.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if self.refusal is not None:
            raise self.refusal


@pytest.fixture
def service() -> ScriptedService:
    return ScriptedService()


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def front(service: ScriptedService, authority: Authority) -> AsyncIterator[Frontend]:
    # Where another user reaches it, which a directory of pytest's is not.
    directory = Path(tempfile.mkdtemp(prefix="bootcd-varlink-"))
    directory.chmod(0o755)
    front = Frontend(service, directory / "io.bootcd", authority, "9.9")
    await front.start()
    yield front
    await front.stop()
    assert list(directory.iterdir()) == []
    shutil.rmtree(directory)


@pytest.fixture
def path(front: Frontend) -> Path:
    return front._path


@pytest.fixture
async def client(path: Path) -> AsyncIterator[VarlinkClient]:
    async with connected(path) as client:
        yield client


def answered(reply: dict[str, Any], method: str) -> dict[str, Any]:
    """Return the parameters of a reply that is what the definition says."""
    assert "error" not in reply, reply
    IDL.check(reply["parameters"], IDL.methods[method][1])
    parameters: dict[str, Any] = reply["parameters"]
    return parameters


def refused(reply: dict[str, Any]) -> tuple[str, str]:
    """Return name and message of an error that is what the definition says."""
    interface, _, name = reply["error"].rpartition(".")
    assert interface == INTERFACE
    IDL.check(reply["parameters"], IDL.errors[name])
    return name, reply["parameters"]["message"]


# Reading


async def test_status_is_the_service_and_the_host(client: VarlinkClient, service: ScriptedService) -> None:
    service.update(available=ImageUpdate(image="i", digest="d"), last_check_result="available")
    status = answered(await client.call("io.bootcd.GetStatus"), "GetStatus")["status"]
    assert status["state"] == "idle"
    assert status["available"] == {"image": "i", "transport": "registry", "digest": "d", "hasNotes": False}
    assert status["host"] == json.loads(service.snapshot.host_json)


async def test_status_shows_what_works_and_what_holds_it_up(
    client: VarlinkClient, service: ScriptedService
) -> None:
    gate = Gate("window", "outside all windows", datetime(2026, 1, 1, tzinfo=UTC), (Action.APPLY,))
    service.update(backend="bootc", gates=(gate,), state="unmanaged")
    status = answered(await client.call("io.bootcd.GetStatus"), "GetStatus")["status"]
    assert "diff" not in status["features"]
    assert status["readOnlyReason"] == "the host was not booted from an image deployment"
    assert status["blockedBy"] == [
        {
            "name": "window",
            "reason": "outside all windows",
            "until": 1_767_225_600_000_000,
            "actions": ["apply"],
        }
    ]


async def test_status_with_more_follows_every_change(client: VarlinkClient, service: ScriptedService) -> None:
    client.send("io.bootcd.GetStatus", more=True)
    first = await client.reply()
    assert first["continues"] is True
    service.update(generation=7)
    assert answered(await client.reply(), "GetStatus")["status"]["generation"] == 7


async def test_reads_answer_everybody_without_a_right(path: Path, authority: Authority) -> None:
    async with user_client(path, NOBODY) as nobody:
        for method, parameters in {
            "GetStatus": {},
            "GetHistory": {"limit": 5},
            "GetNotes": {},
            "ListJobs": {},
            "ListInhibitors": {},
            "Simulate": {"at": 5, "metered": True, "batteryPercent": 7},
            "Diff": {"before": f"{BOOTED}.0", "after": f"{ROLLBACK}.0"},
        }.items():
            answered(await nobody.call(f"io.bootcd.{method}", parameters), method)
    assert authority.asked == []


async def test_inhibitors_are_listed(client: VarlinkClient, service: ScriptedService) -> None:
    until = datetime(2026, 1, 1, tzinfo=UTC)
    held = parse_wish("reboot:stage", "backup", "copying", "block", NOBODY, until)
    service.update(inhibitors=(Inhibitor(**dict(held), number=1),))
    [shown] = answered(await client.call("io.bootcd.ListInhibitors"), "ListInhibitors")["inhibitors"]
    assert shown == {
        "what": ["stage", "reboot"],
        "who": "backup",
        "why": "copying",
        "mode": "block",
        "uid": NOBODY,
        "notAfter": 1_767_225_600_000_000,
    }


async def test_history_lists_jobs_with_their_errors(client: VarlinkClient, service: ScriptedService) -> None:
    record = service.add(JobKind.UPGRADE)
    service.end(record, failed(OutOfSpace("no room on /", hint="make room", needed_bytes=5)))
    service.ended = list(service.jobs())
    [job] = answered(await client.call("io.bootcd.GetHistory"), "GetHistory")["jobs"]
    assert job["error"] == {
        "name": "OutOfSpace",
        "message": "no room on /",
        "hint": "make room",
        "details": {"needed_bytes": 5},
    }


async def test_long_document_is_handed_on_as_it_is(
    client: VarlinkClient, service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {"files": ["/usr/lib/\u00e9\u0000" + "x" * 100] * 40_000}

    async def diff(before: str, after: str) -> bytes:
        return json.dumps(document).encode() + b"\n"

    monkeypatch.setattr(service, "diff", diff)
    reply = await client.call("io.bootcd.Diff", {"before": f"{BOOTED}.0", "after": f"{ROLLBACK}.0"})
    assert answered(reply, "Diff")["document"] == document


async def test_deployment_that_is_not_there_reaches_no_worker(
    client: VarlinkClient, service: ScriptedService
) -> None:
    reply = await client.call("io.bootcd.Diff", {"before": "--help", "after": f"{BOOTED}.0"})
    assert refused(reply)[0] == "NoSuchDeployment"
    assert service.calls == []


# Jobs


async def test_verb_answers_with_its_job(client: VarlinkClient, service: ScriptedService) -> None:
    reply = await client.call("io.bootcd.Switch", {"image": "registry.test/os:2", "retain": True})
    job = answered(reply, "Switch")["job"]
    assert (job["kind"], job["image"], job["state"]) == ("switch", "registry.test/os:2", "running")
    assert service.calls == [("switch", {"image": "registry.test/os:2", "retain": True})]


async def test_verb_with_more_follows_the_job_to_its_end(
    client: VarlinkClient, service: ScriptedService
) -> None:
    client.send("io.bootcd.Upgrade", more=True)
    reply = await client.reply()
    assert reply["continues"] is True
    assert "progress" not in answered(reply, "Upgrade")["job"]
    [record] = service.jobs()
    service.progress(record, eta_secs=2, bytes_done=1, bytes_total=4)
    job = answered(await client.reply(), "Upgrade")["job"]
    assert (job["progress"], job["etaUsec"]) == (0.25, 2_000_000)
    update = ImageUpdate(image="i", digest="d", version="2")
    service.end(record, done(changed=True, update=update, bytes_fetched=9))
    last = await client.reply()
    assert "continues" not in last
    job = answered(last, "Upgrade")["job"]
    assert (job["state"], job["outcome"]["update"]["version"]) == ("done", "2")


async def test_caller_that_leaves_takes_no_job_along(path: Path, service: ScriptedService) -> None:
    async with connected(path) as client:
        client.send("io.bootcd.Check", more=True)
        await client.reply()
    [record] = service.jobs()
    service.progress(record, bytes_done=1, bytes_total=2)
    assert service.jobs()[0].state is JobState.RUNNING
    assert not [call for call in service.calls if call[0] == "cancel"]
    await eventually(lambda: service._observers == [])


async def test_wait_answers_at_the_end(client: VarlinkClient, service: ScriptedService) -> None:
    record = service.add()
    client.send("io.bootcd.Wait", {"uuid": record.request.uuid})
    await eventually(lambda: ("wait", record.request.uuid) in service.calls)
    service.end(record, done())
    assert answered(await client.reply(), "Wait")["job"]["state"] == "done"
    assert refused(await client.call("io.bootcd.Wait", {"uuid": "none"}))[0] == "NoSuchJob"


# Rights


async def test_every_change_asks_for_its_right(
    path: Path, service: ScriptedService, authority: Authority
) -> None:
    service.update(trust=TrustPolicy(verifies=False))
    other = service.add(requester=Requester(uid=5)).request.uuid
    calls: dict[str, tuple[dict[str, Any], list[str]]] = {
        "Check": ({}, ["check"]),
        "Upgrade": ({"tag": "2", "apply": True}, ["upgrade-unverified", "switch", "apply"]),
        "Switch": ({"image": "/x", "transport": "oci"}, ["switch"]),
        "Rollback": ({"apply": False}, ["rollback"]),
        "Apply": ({"ignoreInhibitors": True}, ["apply", "ignore-inhibitors"]),
        "SetKernelArguments": ({"append": ["quiet"]}, ["kernel-arguments"]),
        "Pin": ({"deployment": "booted"}, ["pin"]),
        "Unpin": ({"deployment": "booted"}, ["pin"]),
        "Drop": ({"deployment": "rollback"}, ["drop"]),
        "OverlayUsr": ({}, ["usr-overlay"]),
        "Cancel": ({"uuid": other}, ["cancel"]),
        "GetLog": ({"uuid": other}, ["job-log"]),
        "ConfigDiff": ({}, ["config-diff"]),
        "ScheduleApply": (
            {"when": 1_800_000_000_000_000, "ignoreInhibitors": True},
            ["apply", "ignore-inhibitors"],
        ),
        "ClearFailures": ({"digest": "sha256:b"}, ["clear-failures"]),
        "CancelApply": ({}, ["apply"]),
        "Pause": ({"until": 1_800_000_000_000_000}, ["pause"]),
        "Resume": ({}, ["pause"]),
        "Reload": ({}, ["reload"]),
    }
    reads = {"GetStatus", "GetHistory", "GetNotes", "ListJobs", "ListInhibitors", "Simulate", "Wait", "Diff"}
    assert calls.keys() | reads == IDL.methods.keys()
    async with user_client(path, NOBODY) as nobody:
        for method, (parameters, actions) in calls.items():
            authority.asked.clear()
            answered(await nobody.call(f"io.bootcd.{method}", parameters), method)
            assert [(uid, action) for uid, action, _, _ in authority.asked] == [
                (NOBODY, action) for action in actions
            ]
            service.calls.clear()
            authority.refusal = AccessDenied("no")
            assert refused(await nobody.call(f"io.bootcd.{method}", parameters)) == ("AccessDenied", "no")
            assert service.calls == []
            authority.refusal = None
    switch = [requester for requester in service.requesters if requester.uid == NOBODY]
    assert switch
    assert switch[0].name


async def test_prompt_is_allowed_only_where_the_caller_says_so(path: Path, authority: Authority) -> None:
    authority.refusal = NotAuthorised("InteractiveAuthorizationRequired", "somebody has to\nbe there")
    async with user_client(path, NOBODY) as nobody:
        reply = await nobody.call("io.bootcd.Check")
        assert refused(reply) == ("InteractiveAuthorizationRequired", "somebody has to")
        assert reply["parameters"]["hint"] == "be there"
        await nobody.call("io.bootcd.Check", {"allowInteractiveAuthentication": True})
    assert [interactive for *_, interactive in authority.asked] == [False, True]


async def test_details_name_what_is_asked_for(path: Path, authority: Authority) -> None:
    async with user_client(path, NOBODY) as nobody:
        await nobody.call("io.bootcd.Switch", {"image": "/x", "transport": "oci"})
        await nobody.call("io.bootcd.Upgrade", {"allowDowngrade": True})
    asked = [(action, details) for _, action, details, _ in authority.asked]
    assert asked == [
        ("switch", {"verb": "switch", "image": "oci:/x"}),
        ("upgrade-unverified", {"verb": "upgrade", "allow-downgrade": "true"}),
        ("rollback", {"verb": "upgrade", "allow-downgrade": "true"}),
    ]


async def test_upgrade_by_a_verified_right_takes_nothing_unverified(
    path: Path, service: ScriptedService, authority: Authority
) -> None:
    service.update(trust=TrustPolicy(verifies=True))
    async with user_client(path, NOBODY) as nobody:
        await nobody.call("io.bootcd.Upgrade")
    assert authority.asked[0][1] == "upgrade"
    assert service.calls == [("upgrade", {"verified_only": True})]


async def test_own_job_is_cancelled_without_a_right_and_root_needs_none(
    path: Path, client: VarlinkClient, service: ScriptedService, authority: Authority
) -> None:
    record = service.add(requester=Requester(uid=NOBODY))
    async with user_client(path, NOBODY) as nobody:
        answered(await nobody.call("io.bootcd.Cancel", {"uuid": record.request.uuid}), "Cancel")
    answered(await client.call("io.bootcd.Reload"), "Reload")
    assert authority.asked == []


async def test_caller_that_leaves_takes_its_prompt_along(
    path: Path, service: ScriptedService, authority: Authority
) -> None:
    authority.waits = asyncio.Event()
    async with user_client(path, NOBODY) as nobody:
        nobody.send("io.bootcd.Check", {"allowInteractiveAuthentication": True})
        await eventually(lambda: bool(authority.asked))
        nobody.process.kill()
        await eventually(lambda: authority.cancelled == 1)
    assert service.calls == []


# What goes wrong


async def test_refusal_of_the_service_is_a_typed_error(
    client: VarlinkClient, service: ScriptedService
) -> None:
    service.failure = Busy("another job is at work", hint="wait", uuid="u")
    reply = await client.call("io.bootcd.Check")
    assert refused(reply) == ("Busy", "another job is at work")
    assert reply["parameters"]["details"] == {"uuid": "u"}


async def test_defect_shows_a_reference_and_nothing_of_itself(
    client: VarlinkClient, service: ScriptedService
) -> None:
    service.failure = RuntimeError("secret of /usr/lib/python3")
    name, message = refused(await client.call("io.bootcd.Check"))
    assert name == "Failed"
    assert "secret" not in message
    service.failure = None
    answered(await client.call("io.bootcd.GetStatus"), "GetStatus")


@pytest.mark.parametrize(
    ("method", "parameters", "error", "facts"),
    [
        ("io.bootcd.Check", {"a": 1}, "InvalidParameter", {"parameter": "a"}),
        ("io.bootcd.Switch", {}, "InvalidParameter", {"parameter": "image"}),
        ("io.bootcd.GetHistory", {"limit": 0}, "InvalidParameter", {"parameter": "limit"}),
        ("io.bootcd.Dance", {}, "MethodNotFound", {"method": "io.bootcd.Dance"}),
        ("io.other.Check", {}, "InterfaceNotFound", {"interface": "io.other"}),
        ("org.varlink.service.Dance", {}, "MethodNotFound", {"method": "org.varlink.service.Dance"}),
        (
            "org.varlink.service.GetInterfaceDescription",
            {"interface": "x.y"},
            "InterfaceNotFound",
            {"interface": "x.y"},
        ),
    ],
)
async def test_call_that_fits_nothing_gets_the_error_of_the_protocol(
    client: VarlinkClient, method: str, parameters: dict[str, Any], error: str, facts: dict[str, str]
) -> None:
    assert await client.call(method, parameters) == {
        "error": f"org.varlink.service.{error}",
        "parameters": facts,
    }


async def test_upgrade_of_the_protocol_is_refused(client: VarlinkClient) -> None:
    client.send("io.bootcd.GetStatus", upgrade=True)
    assert (await client.reply())["error"] == "org.varlink.service.MethodNotImplemented"


async def test_oneway_call_is_served_without_a_word(client: VarlinkClient, service: ScriptedService) -> None:
    client.send("io.bootcd.Check", oneway=True)
    client.send("io.bootcd.Dance", oneway=True)
    answered(await client.call("io.bootcd.GetNotes"), "GetNotes")
    assert [call[0] for call in service.calls] == ["check", "notes"]


async def test_calls_sent_ahead_are_answered_in_order(client: VarlinkClient) -> None:
    for number in range(40):
        client.send(f"io.bootcd.No{number}")
    names = [(await client.reply())["parameters"]["method"] for _ in range(40)]
    assert names == [f"io.bootcd.No{number}" for number in range(40)]


@pytest.mark.parametrize("data", [b"hello\0", b"x" * 70_000, b'{"method":"' + b"x" * 70_000 + b'"}\0'])
async def test_who_speaks_no_varlink_is_hung_up_on(client: VarlinkClient, data: bytes) -> None:
    client.send_raw(data)
    assert await client.closed()


async def test_message_that_is_never_completed_ends_the_connection(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "SECS", 0.2)
    async with connected(path) as client:
        client.send_raw(b'{"method":')
        assert await client.closed()


async def test_who_takes_no_reply_loses_the_connection_and_others_do_not(
    front: Frontend,
    path: Path,
    client: VarlinkClient,
    service: ScriptedService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_module, "SECS", 0.2)
    service.release_notes = "n" * 60_000
    async with connected(path) as deaf:
        deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(100):
            deaf.send("io.bootcd.GetNotes")
        answered(await client.call("io.bootcd.GetStatus"), "GetStatus")
        await eventually(lambda: len(front._peers) == 1)
    assert 0 < service.calls.count(("notes",)) < 100
    answered(await client.call("io.bootcd.GetStatus"), "GetStatus")


async def test_one_user_has_few_connections_and_leaves_the_others_theirs(path: Path) -> None:
    async with user_client(path, NOBODY) as nobody:
        clients = [await asyncio.open_unix_connection(str(path)) for _ in range(CONNECTIONS_PER_USER)]
        async with connected(path) as extra:
            assert await extra.closed()
        answered(await nobody.call("io.bootcd.GetStatus"), "GetStatus")
        clients[0][1].close()
        await clients[0][1].wait_closed()

        async def again() -> bool:
            async with connected(path) as client:
                client.send("io.bootcd.GetNotes")
                try:
                    return "error" not in await client.reply()
                except (asyncio.IncompleteReadError, ConnectionError):
                    return False

        async with asyncio.timeout(20):
            while not await again():
                pass
        for _, writer in clients[1:]:
            writer.close()


async def test_callers_that_come_and_go_leave_no_descriptor(path: Path, client: VarlinkClient) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    answered(await client.call("io.bootcd.GetNotes"), "GetNotes")
    before = descriptors()
    for number in range(60):
        async with connected(path) as other:
            other.send("io.bootcd.GetStatus", more=bool(number % 2))
            if number % 3:
                await other.reply()
    await eventually(lambda: descriptors() <= before)


async def test_every_user_may_connect(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o666


# systemd's client

needs_varlinkctl = pytest.mark.skipif(
    not VARLINKCTL.exists(), reason="varlinkctl was not fetched, see tests/varlink-tools.sh"
)


@needs_varlinkctl
async def test_varlinkctl_finds_interfaces_and_reads_their_definition(path: Path) -> None:
    status, out, err = await varlinkctl("info", str(path))
    assert (status, err) == (0, "")
    assert "io.bootcd" in out
    status, out, err = await varlinkctl("introspect", str(path), "io.bootcd")
    assert (status, err) == (0, "")
    shown = Definition(out)
    assert (shown.methods, shown.types, shown.errors) == (IDL.methods, IDL.types, IDL.errors)
    status, out, err = await varlinkctl("introspect", str(path), "org.varlink.service")
    assert (status, err) == (0, "")


@needs_varlinkctl
async def test_varlinkctl_calls_and_follows(path: Path, service: ScriptedService) -> None:
    status, out, _ = await varlinkctl("-j", "call", str(path), "io.bootcd.GetStatus", "{}")
    assert status == 0
    assert json.loads(out)["status"]["version"] == "9.9"
    follows = asyncio.create_task(
        varlinkctl("--json=short", "--more", "call", str(path), "io.bootcd.Upgrade", '{"downloadOnly":true}')
    )
    await eventually(lambda: bool(service.jobs()))
    [record] = service.jobs()
    await eventually(lambda: bool(service._observers))
    service.progress(record, bytes_done=1, bytes_total=2)
    await asyncio.sleep(0)
    service.end(record, done())
    status, out, err = await follows
    assert (status, err) == (0, "")
    states = [json.loads(text)["job"]["state"] for text in out.replace("\x1e", "").splitlines() if text]
    assert (states[0], states[-1]) == ("running", "done")


@needs_varlinkctl
async def test_varlinkctl_shows_the_error_by_its_name(path: Path, service: ScriptedService) -> None:
    service.failure = Busy("another job is at work")
    status, out, err = await varlinkctl("call", str(path), "io.bootcd.Check", "{}")
    assert status != 0
    assert "io.bootcd.Busy" in err
    assert "another job is at work" in out + err


def test_every_error_of_the_product_is_in_the_definition() -> None:
    def subclasses(cls: type[BootcdError]) -> set[str]:
        return {cls.name, *(name for below in cls.__subclasses__() for name in subclasses(below))}

    assert subclasses(BootcdError) - {"RegistryFailed"} <= IDL.errors.keys()
