"""How much is logged, as systemctl reads and changes it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from dbus_fast import Variant

from bootcd.bus.frontend import Frontend
from bootcd.bus.interfaces import ROOT_PATH
from bootcd.bus.logcontrol import LOG_CONTROL, LOG_PATH
from tests.support.blocking import no_blocking_calls as no_blocking_calls
from tests.support.bus import PrivateBus
from tests.support.bus_front import OBJECT_MANAGER, PROPERTIES, get_all
from tests.support.bus_front import bus as bus
from tests.support.bus_front import front as front
from tests.support.bus_front import peer as peer
from tests.support.bus_front import service as service
from tests.support.bus_peers import Peer, user
from tests.support.scripted_agent import ScriptedService
from tests.support.user_manager import pass_under_user_manager

ERROR = "org.freedesktop.DBus.Error."


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.INFO)
    yield
    root.setLevel(before)


async def set_property(peer: Peer, name: str, value: Variant) -> str:
    body = [LOG_CONTROL.name, name, value]
    return (await peer.call(LOG_PATH, PROPERTIES, "Set", "ssv", body)).error


async def test_log_level_is_changed_by_root_and_read_by_everybody(
    bus: PrivateBus, peer: Peer, service: ScriptedService
) -> None:
    shown = await get_all(peer, LOG_PATH, LOG_CONTROL.name)
    assert shown == {"LogLevel": "info", "LogTarget": "console", "SyslogIdentifier": "bootcd"}
    assert await set_property(peer, "LogLevel", Variant("s", "debug")) == ""
    assert logging.getLogger("bootcd.agent").isEnabledFor(logging.DEBUG)
    async with user(bus.address) as nobody:
        body = [LOG_CONTROL.name, "LogLevel"]
        answer = await nobody.call(LOG_PATH, PROPERTIES, "Get", "ss", body)
        assert answer.error == ""
        answer = await nobody.call(LOG_PATH, PROPERTIES, "Set", "ssv", [*body, Variant("s", "emerg")])
        assert answer.error == ERROR + "AccessDenied"
    assert logging.getLogger("bootcd.agent").isEnabledFor(logging.DEBUG)


@pytest.mark.parametrize("name", ["emerg", "err", "warning", "notice", "info", "debug"])
async def test_log_level_that_was_set_is_read_back(peer: Peer, name: str) -> None:
    assert await set_property(peer, "LogLevel", Variant("s", name)) == ""
    assert (await get_all(peer, LOG_PATH, LOG_CONTROL.name))["LogLevel"] == name


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("LogLevel", Variant("s", "loud"), "InvalidArgs"),
        ("LogLevel", Variant("u", 7), "InvalidArgs"),
        ("LogTarget", Variant("s", "console"), ""),
        ("LogTarget", Variant("s", "kmsg"), "NotSupported"),
        ("SyslogIdentifier", Variant("s", "other"), "PropertyReadOnly"),
        ("Other", Variant("s", "other"), "UnknownProperty"),
    ],
    ids=["level", "type", "same-target", "other-target", "identifier", "unknown"],
)
async def test_what_cannot_be_set_is_refused(peer: Peer, name: str, value: Variant, error: str) -> None:
    assert await set_property(peer, name, value) == (ERROR + error if error else "")
    assert logging.getLogger().level == logging.INFO


async def test_log_control_is_found_and_is_none_of_the_managed_objects(peer: Peer, front: Frontend) -> None:
    introspect = "org.freedesktop.DBus.Introspectable"
    text = (await peer.call(LOG_PATH, introspect, "Introspect")).value()
    assert '<property name="LogLevel" type="s" access="readwrite">' in text
    assert '<node name="freedesktop"/>' in (await peer.call("/org", introspect, "Introspect")).value()
    managed = (await peer.call(ROOT_PATH, OBJECT_MANAGER, "GetManagedObjects")).value()
    assert managed
    assert all(path.startswith(ROOT_PATH + "/") for path in managed)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a service manager of its own needs namespaces")
def test_level_of_the_log_under_a_real_service_manager() -> None:
    pass_under_user_manager(Path(__file__).with_name("under_user_manager.py"))
