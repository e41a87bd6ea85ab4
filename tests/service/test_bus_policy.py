"""Who may do what: the bus policy and the polkit actions, with the real daemons and real other users."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Variant

from bootcd.bus import polkit as polkit_module
from bootcd.bus.frontend import Frontend
from bootcd.bus.interfaces import DEPLOYMENT, JOB, MANAGER, ROOT_PATH
from bootcd.bus.schema import INTROSPECTABLE, OBJECT_MANAGER, PEER, PROPERTIES, Interface, Method
from bootcd.model.job import Requester
from bootcd.model.trust import TrustPolicy
from tests.support.blocking import no_blocking_calls as no_blocking_calls
from tests.support.bus import PrivateBus
from tests.support.bus_front import bus as bus
from tests.support.bus_front import front as front
from tests.support.bus_front import service as service
from tests.support.bus_peers import (
    DBUS,
    DBUS_PATH,
    NOBODY,
    Peer,
    UserProcess,
    connected,
    polkit,
    user,
)
from tests.support.scripted_agent import BOOTED, ScriptedService, done

ERROR = "org.freedesktop.DBus.Error."
NEEDS_PROMPT = ERROR + "InteractiveAuthorizationRequired"
DENIED = ERROR + "AccessDenied"
JOB_PATH = f"{ROOT_PATH}/job/_1"
READS_OF_SERVICE = {"history", "notes", "wait", "host_ready", "diff", "simulate"}


@pytest.fixture
async def root(bus: PrivateBus, front: Frontend) -> AsyncIterator[Peer]:
    async with connected(bus.address) as peer:
        yield peer


@pytest.fixture
async def nobody(bus: PrivateBus, front: Frontend) -> AsyncIterator[UserProcess]:
    async with user(bus.address) as process:
        yield process


@pytest.fixture
async def strict(bus: PrivateBus, tmp_path: Path) -> AsyncIterator[None]:
    """Polkit with our actions and no rules: the defaults of the policy file."""
    async with polkit(bus, tmp_path):
        yield


def members() -> list[Any]:
    """Return every method of every interface, where it is found and with arguments that fit."""
    places: list[tuple[str, Interface]] = [
        (ROOT_PATH, MANAGER),
        (JOB_PATH, JOB),
        *(
            (path, interface)
            for path in (ROOT_PATH, JOB_PATH, f"{ROOT_PATH}/deployment/_{BOOTED}_0")
            for interface in (PEER, INTROSPECTABLE, PROPERTIES)
        ),
        (ROOT_PATH, OBJECT_MANAGER),
    ]
    return [
        pytest.param(path, interface, method, id=f"{path.split('/')[3:4]}-{interface.name}.{method.name}")
        for path, interface in places
        for method in interface.methods.values()
    ]


def arguments(path: str, method: Method) -> list[Any]:
    own = {ROOT_PATH: MANAGER, JOB_PATH: JOB}.get(path, DEPLOYMENT)
    values = {
        "options": {},
        "image": "registry.test/os:2",
        "from": f"{ROOT_PATH}/deployment/_{BOOTED}_0",
        "to": f"{ROOT_PATH}/deployment/_{BOOTED}_0",
        "deployment": "rollback",
        "what": "stage",
        "who": "test",
        "why": "testing",
        "mode": "block",
        "until": 0,
        "digest": "",
        "when": 1,
        "interface_name": own.name,
        "property_name": own.properties[0].name,
        "value": Variant("s", "x"),
    }
    return [values[argument.name] for argument in method.inputs]


@pytest.mark.usefixtures("strict")
async def test_every_member_called_by_a_user_answers_and_changes_nothing(
    nobody: UserProcess, service: ScriptedService
) -> None:
    record = service.add()
    service.end(record, done())  # so that Wait does not wait
    for path, interface, method in (parameter.values for parameter in members()):
        answer = await nobody.call(
            path, interface.name, method.name, method.signature, arguments(path, method)
        )
        where = f"{interface.name}.{method.name} at {path}"
        if method.right:
            # Who does not sit at the machine may not inhibit at all.
            assert answer.error == (DENIED if method.name == "Inhibit" else NEEDS_PROMPT), where
        elif method.name == "Set":
            assert answer.error == ERROR + "PropertyReadOnly", where
        else:
            assert answer.error == "", f"{where}: {answer.error}"
    assert {call[0] for call in service.calls} <= READS_OF_SERVICE
    assert len(service.jobs()) == 1


@pytest.mark.parametrize("interface", [MANAGER, DEPLOYMENT, JOB], ids=lambda interface: interface.name)
def test_methods_that_need_no_action_are_the_reading_ones(interface: Interface) -> None:
    free = {method.name for method in interface.methods.values() if not method.right}
    assert free <= {
        "GetStatus",
        "GetHistory",
        "GetNotes",
        "Diff",
        "ListInhibitors",
        "OpenProgress",
        "Simulate",
        "Wait",
    }


async def test_without_polkit_users_are_refused_and_root_is_served(
    root: Peer, nobody: UserProcess, service: ScriptedService
) -> None:
    for method in MANAGER.methods.values():
        if method.right:
            answer = await nobody.call(
                ROOT_PATH, MANAGER.name, method.name, method.signature, arguments(ROOT_PATH, method)
            )
            assert answer.error == DENIED
            assert answer.text.startswith("the authorisation service cannot be reached")
    assert service.calls == []
    assert (await root.call(ROOT_PATH, MANAGER.name, "Check", "a{sv}", [{}])).value() == JOB_PATH


async def test_unprivileged_process_cannot_own_the_name(bus: PrivateBus) -> None:
    async with user(bus.address) as process:
        answer = await process.call(
            DBUS_PATH, DBUS, "RequestName", "su", ["org.bootcd1", 0], destination=DBUS
        )
        assert answer.error == DENIED


@pytest.mark.parametrize("interface", ["org.bootcd1.Secret", "org.freedesktop.LogControl1", None])
async def test_interface_not_listed_is_stopped_by_the_bus(
    nobody: UserProcess, front: Frontend, monkeypatch: pytest.MonkeyPatch, interface: str | None
) -> None:
    assert front._dispatcher is not None
    seen: list[object] = []
    monkeypatch.setattr(front._dispatcher, "_accept", seen.append)
    answer = await nobody.call(ROOT_PATH, interface, "Check", "a{sv}", [{}])
    assert answer.error == DENIED
    assert seen == []


@pytest.mark.usefixtures("strict")
async def test_user_cancels_own_job_without_polkit_and_not_that_of_another(
    nobody: UserProcess, service: ScriptedService
) -> None:
    own = service.add(requester=Requester(uid=NOBODY))
    others = service.add(requester=Requester(uid=1))
    agents = service.add()
    for record, allowed in ((own, True), (others, False), (agents, False)):
        answer = await nobody.call(f"{ROOT_PATH}/job/_{record.number}", JOB.name, "Cancel", "a{sv}", [{}])
        assert answer.error == ("" if allowed else NEEDS_PROMPT)
    assert service.calls == [("cancel", own.request.uuid)]


RULES = """
polkit.addRule(function(action, subject) {
    if (subject.user != "nobody") return;
    if (action.id == "org.bootcd1.upgrade-unverified") return polkit.Result.YES;
    if (action.id == "org.bootcd1.switch" && action.lookup("verb") == "switch"
        && action.lookup("image") == "registry.test/allowed:1") return polkit.Result.YES;
    if (action.id == "org.bootcd1.switch" && action.lookup("image") == "oci:/mnt/allowed:1")
        return polkit.Result.YES;
    if (action.id == "org.bootcd1.cancel" && action.lookup("job") == "/org/bootcd1/job/_1")
        return polkit.Result.YES;
    if (action.id == "org.bootcd1.rollback") return polkit.Result.NO;
});
"""


async def test_rules_decide_by_action_and_details(
    bus: PrivateBus, nobody: UserProcess, service: ScriptedService, tmp_path: Path
) -> None:
    service.add()
    async with polkit(bus, tmp_path, RULES):
        for member, body, error in (
            ("Upgrade", [{}], ""),
            ("Upgrade", [{"apply": Variant("b", True)}], NEEDS_PROMPT),
            ("Switch", ["registry.test/allowed:1", {}], ""),
            ("Switch", ["registry.test/allowed:1", {"apply": Variant("b", True)}], NEEDS_PROMPT),
            ("Switch", ["registry.test/other:1", {}], NEEDS_PROMPT),
            ("Switch", ["/mnt/allowed:1", {"transport": Variant("s", "oci")}], ""),
            ("Switch", ["registry.test/allowed:1", {"transport": Variant("s", "oci")}], NEEDS_PROMPT),
            ("Rollback", [{}], DENIED),
        ):
            answer = await nobody.call(
                ROOT_PATH, MANAGER.name, member, MANAGER.methods[member].signature, body
            )
            assert answer.error == error, f"{member} {body}"
        assert (await nobody.call(JOB_PATH, JOB.name, "Cancel", "a{sv}", [{}])).error == ""
    assert [call[0] for call in service.calls] == ["upgrade", "switch", "switch", "cancel"]
    assert {requester.uid for requester in service.requesters} == {NOBODY}


@pytest.mark.usefixtures("strict")
async def test_open_prompt_delays_nobody_and_is_taken_down_when_its_caller_goes(
    bus: PrivateBus, root: Peer, nobody: UserProcess, service: ScriptedService
) -> None:
    async with user(bus.address) as asking, user(bus.address, agent_of=asking) as agent:
        prompted = asyncio.create_task(
            asking.call(ROOT_PATH, MANAGER.name, "Upgrade", "a{sv}", [{}], interactive=True)
        )
        assert await agent.event() == "BeginAuthentication"
        async with asyncio.timeout(5):
            other = await nobody.call(ROOT_PATH, MANAGER.name, "Upgrade", "a{sv}", [{}])
            assert other.error == NEEDS_PROMPT
            assert (await root.call(ROOT_PATH, MANAGER.name, "Check", "a{sv}", [{}])).value() == JOB_PATH
        assert not prompted.done()
        await asking.kill()
        assert await agent.event() == "CancelAuthentication"
        prompted.cancel()
    assert [call[0] for call in service.calls] == ["check"]


@pytest.mark.usefixtures("strict")
async def test_prompts_of_one_user_leave_polkit_to_the_others(
    bus: PrivateBus, front: Frontend, service: ScriptedService
) -> None:
    """The bus lets a connection wait for 128 answers; the daemon has one connection for everybody."""
    async with (
        user(bus.address) as asking,
        user(bus.address, agent_of=asking) as agent,
        user(bus.address, uid=1) as other,
    ):
        prompts = {
            asyncio.create_task(
                asking.call(ROOT_PATH, MANAGER.name, "Upgrade", "a{sv}", [{}], interactive=True)
            )
            for _ in range(polkit_module.PROMPTS_PER_USER + 1)
        }
        [refused], waiting = await asyncio.wait(prompts, return_when=asyncio.FIRST_COMPLETED)
        assert refused.result().error == ERROR + "LimitsExceeded"
        assert await agent.event() == "BeginAuthentication"
        answer = await other.call(ROOT_PATH, MANAGER.name, "Upgrade", "a{sv}", [{}])
        assert answer.error == NEEDS_PROMPT
        for prompt in waiting:
            prompt.cancel()
    assert service.calls == []


@pytest.mark.usefixtures("strict")
async def test_prompt_nobody_answers_ends_at_its_deadline(
    bus: PrivateBus, front: Frontend, service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polkit_module, "_INTERACTIVE_SECS", 0.5)
    async with user(bus.address) as asking, user(bus.address, agent_of=asking) as agent:
        answer = await asking.call(ROOT_PATH, MANAGER.name, "Upgrade", "a{sv}", [{}], interactive=True)
        assert answer.error == DENIED
        assert answer.text == "nobody authorised org.bootcd1.upgrade-unverified in time"
        assert [await agent.event(), await agent.event()] == ["BeginAuthentication", "CancelAuthentication"]
    assert service.calls == []


@pytest.mark.usefixtures("strict")
async def test_prompt_without_an_agent_is_refused_with_a_hint(
    nobody: UserProcess, service: ScriptedService
) -> None:
    answer = await nobody.call(ROOT_PATH, MANAGER.name, "Upgrade", "a{sv}", [{}], interactive=True)
    assert answer.error == DENIED
    assert answer.text.startswith("not authorised for org.bootcd1.upgrade-unverified\n")
    assert service.calls == []


SIGNED_ONLY = """
polkit.addRule(function(action, subject) {
    if (action.id == "org.bootcd1.upgrade") return polkit.Result.YES;
});
"""


async def test_right_to_verified_upgrades_ends_where_the_policy_takes_unsigned_images(
    bus: PrivateBus, root: Peer, nobody: UserProcess, service: ScriptedService, tmp_path: Path
) -> None:
    async def upgrade(who: Peer | UserProcess) -> str:
        return str((await who.call(ROOT_PATH, MANAGER.name, "Upgrade", "a{sv}", [{}])).error)

    async with polkit(bus, tmp_path, SIGNED_ONLY):
        assert await upgrade(nobody) == NEEDS_PROMPT
        service.update(trust=TrustPolicy(problem="the signature policy is malformed"))
        assert await upgrade(nobody) == NEEDS_PROMPT
        assert service.calls == []
        service.update(trust=TrustPolicy(scope="docker registry.test", verifies=True))
        assert await upgrade(nobody) == ""
        assert await upgrade(root) == ""
    # What the worker has to hold the caller to, should the policy change under way.
    assert service.calls == [("upgrade", {"verified_only": True}), ("upgrade", {})]


async def test_caller_that_goes_after_authorisation_does_not_stop_the_work(
    bus: PrivateBus, root: Peer, service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, checked = asyncio.Event(), asyncio.Event()
    real = service.begin

    async def begin(*arguments: Any) -> Any:
        reached.set()
        await checked.wait()
        return await real(*arguments)

    monkeypatch.setattr(service, "begin", begin)
    async with connected(bus.address) as leaving:
        call = asyncio.create_task(leaving.call(ROOT_PATH, MANAGER.name, "Upgrade", "a{sv}", [{}]))
        await reached.wait()
    await asyncio.gather(call, return_exceptions=True)
    await root.listen()
    checked.set()
    await root.signal(lambda m: m.member == "JobNew")
