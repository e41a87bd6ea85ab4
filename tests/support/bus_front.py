"""The front end with a scripted service on a private bus, as fixtures to import by name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from dbus_fast import Message

from bootcd.bus.frontend import Frontend
from bootcd.bus.interfaces import DEPLOYMENT, JOB, MANAGER, ROOT_PATH
from tests.support.blocking import no_blocking_calls as no_blocking_calls
from tests.support.bus import PrivateBus
from tests.support.bus_peers import Peer, connected, private_bus
from tests.support.scripted_agent import (
    BOOTED,
    ROLLBACK,
    STAGED,
    START,
    ScriptedService,
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
