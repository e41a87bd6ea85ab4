"""The stand-in on a session bus: what a client sees of it is what it sees of the service."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from dbus_fast import Variant

from bootcctl import exitcodes
from bootcctl.mock.interfaces import load_interfaces
from bootcctl.mock.world import KINDS
from bootcd.bus.interfaces import DEPLOYMENT, JOB, MANAGER, ROOT_PATH
from bootcd.bus.methods import _JOBS
from bootcd.bus.schema import Interface
from bootcd.model.comparison import ConfigDiff, DeploymentDiff
from bootcd.model.host import Host
from tests.support.bus_peers import Peer, connected, plain
from tests.support.mock import mocked, run, session_bus

ERROR = "org.freedesktop.DBus.Error."
PROPERTIES = "org.freedesktop.DBus.Properties"


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    async with session_bus(tmp_path) as address:
        yield address


async def bootcctl(address: str, *arguments: str) -> tuple[int, str, str]:
    return await run(address, sys.executable, "-m", "bootcctl", *arguments)


def members(text: str, name: str) -> set[tuple[Any, ...]]:
    """Return every member of an interface in an introspection document, with types and annotations."""
    [interface] = [node for node in ET.fromstring(text).iter("interface") if node.get("name") == name]
    return {
        (
            member.tag,
            member.get("name"),
            member.get("type"),
            tuple((arg.get("name"), arg.get("type"), arg.get("direction")) for arg in member.findall("arg")),
            tuple((note.get("name"), note.get("value")) for note in member.findall("annotation")),
        )
        for member in interface
        if isinstance(member.tag, str)
    }


def real(interface: Interface) -> set[tuple[Any, ...]]:
    return members(f"<node>{interface.to_xml()}</node>", interface.name)


async def objects(peer: Peer) -> Any:
    return plain(
        (await peer.call(ROOT_PATH, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects")).value()
    )


async def get_all(peer: Peer, path: str, interface: str) -> Any:
    return (await peer.call(path, PROPERTIES, "GetAll", "s", [interface])).value()


async def test_introspection_is_that_of_the_service(address: str) -> None:
    async with mocked(address, "--scenario", "busy"), connected(address) as peer:
        paths = {ROOT_PATH: MANAGER}
        paths |= {
            path: JOB if JOB.name in interfaces else DEPLOYMENT
            for path, interfaces in (await objects(peer)).items()
        }
        assert set(map(id, paths.values())) == {id(MANAGER), id(JOB), id(DEPLOYMENT)}
        for path, interface in paths.items():
            text = (await peer.call(path, "org.freedesktop.DBus.Introspectable", "Introspect")).value()
            assert members(text, interface.name) == real(interface)
            shown = await get_all(peer, path, interface.name)
            assert shown.keys() == {item.name for item in interface.properties}


async def test_inhibitor_is_listed_while_its_command_runs_and_a_pause_until_its_end(address: str) -> None:
    listing = (sys.executable, "-m", "bootcctl", "inhibit", "--list")
    async with mocked(address, "--scenario", "idle"):
        code, out, _ = await bootcctl(address, "inhibit", "--who", "film", "--why", "to be watched", *listing)
        assert code == exitcodes.DONE
        assert out.endswith("blocks download:stage:reboot: to be watched\n")
        _, out, _ = await bootcctl(address, "inhibit", "--list")
        assert out == "Nobody inhibits anything\n"
        await bootcctl(address, "pause", "indefinitely")
        _, out, _ = await bootcctl(address, "why")
        assert "Check held up by paused: user 0 has paused updates" in out
        await bootcctl(address, "resume")
        _, out, _ = await bootcctl(address, "why")
        assert "paused" not in out


async def test_every_method_has_an_answer_of_its_types(address: str) -> None:
    arguments: dict[str, Any] = {"s": "booted", "o": ROOT_PATH, "a{sv}": {}, "t": 0, "b": True, "u": 1}
    async with mocked(address, "--scenario", "idle", "--speed", "1000"), connected(address) as peer:
        # Apply takes the service off the bus for a moment, as a reboot does.
        for method in (method for method in MANAGER.methods.values() if method.name != "Apply"):
            given = [arguments[argument.signature] for argument in method.inputs]
            answer = await peer.call(ROOT_PATH, MANAGER.name, method.name, method.signature, given)
            assert not answer.error or answer.error.startswith("org.bootcd1.Error."), method.name
            if method.outputs == (MANAGER.methods["Check"].outputs) and not answer.error:
                await peer.call(answer.body[0], JOB.name, "Wait", "a{sv}", [{}])
    assert {name: kind.value for name, kind in _JOBS.items()} == KINDS


async def test_documents_are_what_the_service_gives(address: str) -> None:
    async with mocked(address, "--scenario", "staged"), connected(address) as peer:
        status = (await peer.call(ROOT_PATH, MANAGER.name, "GetStatus", "a{sv}", [{}])).value()
        assert Host.model_validate_json(status).status.staged is not None
        for verb, model in (("config-diff", ConfigDiff), ("diff", DeploymentDiff)):
            code, out, errors = await bootcctl(address, "--json", verb)
            assert code == 0, errors
            model.model_validate(json.loads(out))


async def test_client_goes_from_check_to_the_next_boot(address: str) -> None:
    async with mocked(address, "--speed", "40"):
        assert (await bootcctl(address, "check"))[0] == exitcodes.DONE
        status, out, _ = await bootcctl(address, "upgrade")
        assert status == exitcodes.DONE
        assert "Staged registry.example/os:stable 2.0" in out
        assert (await bootcctl(address, "apply"))[0] == exitcodes.DONE
        async with asyncio.timeout(20):
            while True:
                status, out, _ = await bootcctl(address, "status", "--json")
                if status == 0 and json.loads(out)["status"]["booted"]["image"]["version"] == "2.0":
                    break
        status, out, _ = await bootcctl(address, "--json", "history")
        assert [entry["kind"] for entry in json.loads(out)["entries"]] == ["apply", "upgrade", "check"]


async def test_reboot_is_told_before_the_service_leaves(address: str) -> None:
    async with mocked(address, "--scenario", "staged", "--speed", "20"), connected(address) as peer:
        await peer.listen()
        path = (await peer.call(ROOT_PATH, MANAGER.name, "Apply", "a{sv}", [{}])).value()
        told = await peer.signal(lambda message: message.member == "RebootScheduled")
        assert told.body[2]["job"].value == path


async def test_progress_is_read_from_a_pipe_to_its_end(address: str) -> None:
    async with mocked(address, "--speed", "8"), connected(address) as peer:
        path = (await peer.call(ROOT_PATH, MANAGER.name, "Upgrade", "a{sv}", [{}])).value()
        reply = await peer.reply(path, JOB.name, "OpenProgress")
        with open(reply.unix_fds[0]) as lines:  # noqa: PTH123
            await peer.call(path, JOB.name, "Wait", "a{sv}", [{}])
            events = [json.loads(line) for line in lines]
    assert events[0]["type"] == "Start"
    assert events[-1] == {"type": "End", "result": "done", "changed": True, "error": None}


async def test_progress_and_the_end_come_as_signals(address: str) -> None:
    async with mocked(address, "--speed", "8"), connected(address) as peer:
        await peer.listen()
        path = (await peer.call(ROOT_PATH, MANAGER.name, "Upgrade", "a{sv}", [{}])).value()
        removed = await peer.signal(lambda message: message.member == "JobRemoved")
        assert removed.body[3] == "done"
        changes = [
            plain(message.body[1])
            for message in peer.signals
            if message.path == path and message.member == "PropertiesChanged"
        ]
        fractions = [change["Progress"] for change in changes if "Progress" in change]
        assert fractions == sorted(fractions)
        assert len(fractions) > 2
        # State, error and outcome come together.
        assert {"State", "Finished", "Outcome"} <= changes[-1].keys()


async def test_failure_refusal_busy_and_cancel(address: str, tmp_path: Path) -> None:
    script = tmp_path / "script.toml"
    script.write_text(
        'available = true\n[jobs.check]\nfail = "NotFound"\nmessage = "there is no such tag"\nseconds = 0.1\n'
        '[jobs.rollback]\nrefuse = "Busy"\n[jobs.switch]\nseconds = 600\n'
    )
    async with mocked(address, "--script", str(script)), connected(address) as peer:
        code, _, errors = await bootcctl(address, "check")
        assert (code, "there is no such tag" in errors) == (exitcodes.NOT_FOUND, True)
        answer = await peer.call(ROOT_PATH, MANAGER.name, "Rollback", "a{sv}", [{}])
        assert answer.error == "org.bootcd1.Error.Busy"
        path = (await peer.call(ROOT_PATH, MANAGER.name, "Switch", "sa{sv}", ["a.test/b", {}])).value()
        again = await peer.call(ROOT_PATH, MANAGER.name, "Switch", "sa{sv}", ["a.test/b", {}])
        assert again.value() == path
        answer = await peer.call(ROOT_PATH, MANAGER.name, "Upgrade", "a{sv}", [{}])
        assert answer.error == "org.bootcd1.Error.Busy"
        assert path in answer.text
        assert not (await peer.call(path, JOB.name, "Cancel", "a{sv}", [{}])).error
        answer = await peer.call(path, JOB.name, "Wait", "a{sv}", [{}])
        assert answer.body[0] == "cancelled"
        answer = await peer.call(path, JOB.name, "Cancel", "a{sv}", [{}])
        assert answer.error == "org.bootcd1.Error.NotCancellable"


async def test_older_version_is_refused_until_it_is_allowed(address: str) -> None:
    async with mocked(address, "--scenario", "older", "--speed", "100"):
        code, _, errors = await bootcctl(address, "upgrade")
        assert (code, "--allow-downgrade" in errors) == (exitcodes.CONTENT, True)
        code, out, errors = await bootcctl(address, "upgrade", "--allow-downgrade")
        assert (code, "0.8" in out) == (exitcodes.DONE, True), errors


async def test_what_is_wrong_gets_the_errors_of_the_bus(address: str) -> None:
    async with mocked(address), connected(address) as peer:
        for path, interface, member, signature, body, error in (
            ("/none", MANAGER.name, "Check", "a{sv}", [{}], "UnknownObject"),
            (ROOT_PATH, MANAGER.name, "Dance", "", [], "UnknownMethod"),
            (ROOT_PATH, MANAGER.name, "Check", "s", ["x"], "InvalidArgs"),
            (ROOT_PATH, PROPERTIES, "Get", "ss", [MANAGER.name, "None"], "UnknownProperty"),
            (
                ROOT_PATH,
                PROPERTIES,
                "Set",
                "ssv",
                [MANAGER.name, "Mode", Variant("s", "off")],
                "PropertyReadOnly",
            ),
        ):
            answer = await peer.call(path, interface, member, signature, body)
            assert answer.error == ERROR + error


async def test_options_are_those_of_the_service(address: str) -> None:
    for interface in load_interfaces().values():
        schema = {item.name: item for item in (MANAGER, JOB, DEPLOYMENT)}.get(interface.name)
        for name, method in (schema.methods if schema else {}).items():
            assert (method.options or {}).items() <= interface.options[name].items()
    async with mocked(address, "--speed", "100"), connected(address) as peer:
        for options, error in (
            ({"download-onli": Variant("b", True)}, ERROR + "InvalidArgs"),
            ({"download-only": Variant("s", "yes")}, ERROR + "InvalidArgs"),
            ({"download-only": Variant("b", True), "x-mine": Variant("s", "")}, ""),
        ):
            answer = await peer.call(ROOT_PATH, MANAGER.name, "Upgrade", "a{sv}", [options])
            assert answer.error == error


async def test_password_is_asked_for_only_where_the_caller_lets_it(address: str) -> None:
    async with mocked(address, "--scenario", "denied"), connected(address) as peer:
        for interactive, error in ((False, "InteractiveAuthorizationRequired"), (True, "AccessDenied")):
            answer = await peer.call(ROOT_PATH, MANAGER.name, "Check", "a{sv}", [{}], interactive=interactive)
            assert answer.error == ERROR + error


async def test_second_stand_in_refuses_and_a_signal_ends_the_first(address: str) -> None:
    async with mocked(address) as first:
        status, _, errors = await run(address, sys.executable, "-m", "bootcctl", "mock")
        assert (status, "is on this bus already" in errors) == (exitcodes.WRONG_STATE, True)
        first.send_signal(signal.SIGINT)
        async with asyncio.timeout(20):
            assert await first.wait() == exitcodes.DONE


async def test_list_names_the_scenarios_without_a_bus() -> None:
    status, out, errors = await run("unix:path=/none", sys.executable, "-m", "bootcctl", "mock", "--list")
    assert (status, errors) == (0, "")
    assert out.startswith("idle ")
    status, _, errors = await run("unix:path=/none", sys.executable, "-m", "bootcctl", "mock")
    assert status == exitcodes.UNREACHABLE
    assert "Traceback" not in errors
