"""Inhibitors as clients take and see them: over the bus, with polkit, and by bootcctl."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from dbus_fast import Variant

from bootcd.bus.frontend import Frontend
from bootcd.bus.interfaces import MANAGER, ROOT_PATH
from bootcd.model.errors import Inhibited, LimitsExceeded
from bootcd.update.inhibit import Inhibitor, parse_wish
from tests.support.blocking import no_blocking_calls as no_blocking_calls
from tests.support.bootcctl import start_bootcctl
from tests.support.bus import PrivateBus
from tests.support.bus_front import bus as bus
from tests.support.bus_front import changed, get_all
from tests.support.bus_front import front as front
from tests.support.bus_front import peer as peer
from tests.support.bus_front import service as service
from tests.support.bus_peers import NOBODY, Peer, polkit, user
from tests.support.scripted_agent import ScriptedService
from tests.support.scripted_service import ScriptedService as ClientService
from tests.support.scripted_service import open_bus, shown_on

ERROR = "org.freedesktop.DBus.Error."
ASKED = ["stage:reboot", "backup", "copying /etc", "block"]


def is_open(descriptor: int) -> bool:
    """Tell whether anybody holds the other end of a pipe to write to."""
    try:
        os.write(descriptor, b"x")
    except BrokenPipeError:
        return False
    return True


async def test_inhibit_hands_out_a_descriptor_and_shows_who_holds_it(
    peer: Peer, service: ScriptedService
) -> None:
    until = 1_900_000_000_000_000
    body = [*ASKED, {"not-after": Variant("t", until)}]
    answer = await peer.call(ROOT_PATH, MANAGER.name, "Inhibit", "ssssa{sv}", body)
    assert answer.error == ""
    signal = await peer.signal(changed(ROOT_PATH, "BlockedBy"))
    [(gate, text, end, facts)] = signal.body[1]["BlockedBy"].value
    assert (gate, text, end) == ("inhibitor", "backup inhibits stage:reboot: copying /etc", until)
    assert facts["uid"].value == os.getuid()
    listed = (await peer.call(ROOT_PATH, MANAGER.name, "ListInhibitors")).value()
    assert listed == [[*ASKED, os.getuid(), until]]
    assert (await get_all(peer, ROOT_PATH, MANAGER.name))["BlockedBy"][0][0] == "inhibitor"
    [writer] = service.inhibited
    assert is_open(writer)


@pytest.mark.parametrize(
    "body",
    [
        ["sleep", "w", "y", "block", {}],
        ["stage", "", "y", "block", {}],
        ["stage", "w", "y", "maybe", {}],
        ["stage", "w\x07", "y", "block", {}],
        ["stage", "w", "y" * 2000, "block", {}],
        ["stage", "w", "y", "block", {"not-after": Variant("t", 2**64 - 1)}],
        ["stage", "w", "y", "block", {"until": Variant("t", 1)}],
    ],
    ids=["what", "who", "mode", "bell", "long", "far", "option"],
)
async def test_inhibit_with_arguments_that_make_no_sense_is_refused(
    peer: Peer, service: ScriptedService, body: list[object]
) -> None:
    answer = await peer.call(ROOT_PATH, MANAGER.name, "Inhibit", "ssssa{sv}", body)
    assert answer.error == ERROR + "InvalidArgs"
    assert service.calls == []


async def test_limit_has_the_name_d_bus_has_for_it(peer: Peer, service: ScriptedService) -> None:
    service.failure = LimitsExceeded("there are 10 inhibitors of this user")
    answer = await peer.call(ROOT_PATH, MANAGER.name, "Inhibit", "ssssa{sv}", [*ASKED, {}])
    assert answer.error == ERROR + "LimitsExceeded"


RULES = """
polkit.addRule(function(action, subject) {
    if (action.id == "org.bootcd1.inhibit-delay" && action.lookup("who") == "backup")
        return polkit.Result.YES;
    if (action.id == "org.bootcd1.apply") return polkit.Result.YES;
});
"""


async def test_mode_and_override_are_rights_of_their_own(
    bus: PrivateBus, front: Frontend, service: ScriptedService, tmp_path: Path
) -> None:
    async with polkit(bus, tmp_path, RULES), user(bus.address) as nobody:

        async def inhibit(who: str, mode: str) -> str:
            body = ["stage", who, "why", mode, {}]
            return (await nobody.call(ROOT_PATH, MANAGER.name, "Inhibit", "ssssa{sv}", body)).error

        assert await inhibit("backup", "block") == ERROR + "AccessDenied"
        assert await inhibit("other", "delay") == ERROR + "AccessDenied"
        assert await inhibit("backup", "delay") == ""
        assert service.snapshot.inhibitors[0].uid == NOBODY
        ignoring = {"ignore-inhibitors": Variant("b", True)}
        for options, error in (({}, ""), (ignoring, ERROR + "InteractiveAuthorizationRequired")):
            answer = await nobody.call(ROOT_PATH, MANAGER.name, "Apply", "a{sv}", [options])
            assert answer.error == error


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    async with open_bus(tmp_path) as address:
        yield address


@pytest.fixture
async def shown(address: str) -> AsyncIterator[ClientService]:
    scripted = ClientService()
    async with shown_on(address, scripted):
        yield scripted


async def test_bootcctl_inhibit_holds_while_the_command_runs_and_returns_its_code(
    address: str, shown: ClientService, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "gate")
    gate = os.open(tmp_path / "gate", os.O_RDWR)
    script = f"echo begun; read line < {tmp_path}/gate; exit 7"
    command = await start_bootcctl(
        address, "inhibit", "--what", "reboot", "--why", "a film", "sh", "-c", script
    )
    await command.prints("begun")
    assert shown.requests == [
        (
            "inhibit",
            {
                "what": ["reboot"],
                "who": "sh",
                "why": "a film",
                "how": "block",
                "uid": os.getuid(),
                "not_after": None,
            },
        )
    ]
    [writer] = shown.inhibited
    assert is_open(writer)
    command.send_signal(signal.SIGINT)  # to it alone: it is the command's to end
    listed = await start_bootcctl(address, "inhibit", "--list")
    await listed.ended()
    assert listed.out == f"sh (user {os.getuid()}) blocks reboot: a film\n"
    os.write(gate, b"\n")
    assert await command.ended() == 7
    os.close(gate)
    assert not is_open(writer)


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["sh", "-c", "kill -TERM $$"], 143, ""),
        (["--", "no-such-command"], 127, "there is no command no-such-command"),
        (["/etc/passwd"], 126, "cannot be run"),
        ([], 2, "there is no command to run"),
        (["--list", "true"], 2, "--list runs no command"),
    ],
    ids=["signal", "missing", "not-executable", "none", "both"],
)
async def test_bootcctl_inhibit_that_ends_otherwise_says_how(
    address: str, shown: ClientService, argv: list[str], code: int, text: str
) -> None:
    command = await start_bootcctl(address, "inhibit", *argv)
    assert await command.ended() == code
    assert text in command.err
    assert not any(map(is_open, shown.inhibited))


async def test_bootcctl_says_who_inhibits_and_can_ignore_it(address: str, shown: ClientService) -> None:
    held = Inhibitor(**dict(parse_wish("reboot", "backup", "copying", "block", 0, None)), number=1)
    shown.refusals["apply"] = Inhibited(held.sentence, hint="see: bootcctl inhibit --list")
    command = await start_bootcctl(address, "apply")
    assert await command.ended() == 3
    assert "backup inhibits reboot: copying" in command.err
    del shown.refusals["apply"]
    command = await start_bootcctl(address, "apply", "--no-wait", "--ignore-inhibitors")
    assert await command.ended() == 0
    assert shown.requests[-1] == ("apply", {"ignore_inhibitors": True})


async def test_bootcctl_runs_nothing_if_it_may_not_inhibit(address: str, shown: ClientService) -> None:
    shown.refusals["inhibit"] = LimitsExceeded("there are 10 inhibitors of this user")
    command = await start_bootcctl(address, "inhibit", "echo", "ran")
    assert await command.ended() == 3
    assert command.out == ""
