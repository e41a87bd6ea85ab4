"""The surroundings of a host as the daemon learns them, from services that python-dbusmock plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from dbus_fast import Message, Variant

from bootcd.bus import surroundings as module
from bootcd.bus.connection import Connection
from bootcd.bus.surroundings import SurroundingsWatch
from bootcd.update.surroundings import ShutdownBlock, Source, Surroundings
from tests.support.blocking import no_blocking_calls as no_blocking_calls
from tests.support.bus import PrivateBus
from tests.support.bus_peers import DBUS, DBUS_PATH, connected
from tests.support.dbusmock import dbusmock, mock_policy

NETWORK = ("networkmanager", "org.freedesktop.NetworkManager", "/org/freedesktop/NetworkManager")
POWER = ("upower", "org.freedesktop.UPower", "/org/freedesktop/UPower")
PROFILES = ("power_profiles_daemon", "net.hadess.PowerProfiles", "/net/hadess/PowerProfiles")
LOGIN = ("logind", "org.freedesktop.login1", "/org/freedesktop/login1")
SYSTEMD = ("", "org.freedesktop.systemd1", "/org/freedesktop/systemd1")
LOGIN_MANAGER, LOGIN_SESSION = "org.freedesktop.login1.Manager", "org.freedesktop.login1.Session"
DISPLAY_DEVICE, DEVICE = "/org/freedesktop/UPower/devices/DisplayDevice", "org.freedesktop.UPower.Device"
NOTHING = Surroundings()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE_SECS", 0.01)
    monkeypatch.setattr(module, "_GONE_SECS", 0.01)


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[PrivateBus]:
    policy = mock_policy(tmp_path, *(service[1] for service in (NETWORK, POWER, PROFILES, LOGIN, SYSTEMD)))
    async with await PrivateBus.start(tmp_path, policies=(policy,)) as running:
        yield running


class Watching:
    def __init__(self) -> None:
        self.watch = SurroundingsWatch()
        self.seen = [NOTHING]
        self._news = asyncio.Event()

    def want(self, *sources: Source) -> None:
        self.watch.watch(frozenset(sources), self._see)

    async def until(self, holds: Callable[[Surroundings], bool]) -> None:
        async with asyncio.timeout(30):
            while not holds(self.seen[-1]):
                self._news.clear()
                await self._news.wait()

    def _see(self, surroundings: Surroundings) -> None:
        self.seen.append(surroundings)
        self._news.set()


@asynccontextmanager
async def watching(bus: PrivateBus, *sources: Source) -> AsyncIterator[Watching]:
    made = Watching()

    def receive(message: Message) -> bool:
        made.watch.handle(message)
        return False

    connection = await Connection.open(bus.address, on_message=receive, on_drained=lambda: None)
    made.want(*sources)
    made.watch.connected(connection)
    try:
        yield made
    finally:
        made.watch.disconnected()
        await connection.close()


async def test_nothing_is_taken_for_known_before_all_have_answered(bus: PrivateBus) -> None:
    async with dbusmock(bus.address, *LOGIN):
        made = Watching()
        made.want(Source.SESSIONS, Source.NETWORK)
        assert made.seen[-1] == Surroundings(unread=frozenset({Source.SESSIONS, Source.NETWORK}))
        async with watching(bus, Source.SESSIONS, Source.NETWORK) as host:
            await host.until(lambda known: known == Surroundings(people=()))
            people = {Source.SESSIONS in known.unread: known.people for known in host.seen[1:]}
            assert people == {True: None, False: ()}


async def test_service_that_starts_again_is_not_taken_for_gone(
    bus: PrivateBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_GONE_SECS", 60)
    async with watching(bus, Source.PROFILE) as host:
        async with dbusmock(bus.address, *PROFILES, ActiveProfile="power-saver"):
            await host.until(lambda known: known.power_saver is True)
        async with dbusmock(bus.address, *PROFILES, ActiveProfile="balanced"):
            await host.until(lambda known: known.power_saver is False)
        assert [known.power_saver for known in host.seen[-2:]] == [True, False]


async def test_network_is_followed_through_changes_and_a_restart_of_its_service(bus: PrivateBus) -> None:
    async with watching(bus, Source.NETWORK) as host:
        for first, then in ((1, 2), (4, 3)):
            async with dbusmock(bus.address, *NETWORK) as mock:
                await mock.control("AddProperty", "ssv", mock.name, "Metered", Variant("u", first))
                await mock.change(mock.name, Metered=Variant("u", first))
                await host.until(lambda known, first=first: known.metered is (first == 1))
                await mock.change(mock.name, Metered=Variant("u", then))
                await host.until(lambda known, then=then: known.metered is (then == 3))
            await host.until(lambda known: known == NOTHING)
        values = [known.metered for known in host.seen if not known.unread]
        assert values == [None, None, True, False, None, False, True, None]


async def test_battery_is_that_of_the_host_and_no_other(bus: PrivateBus) -> None:
    async with dbusmock(bus.address, *POWER, OnBattery=True) as mock:
        await mock.control("AddDischargingBattery", "ssdx", "headset", "Headset", 3.0, 60)
        async with watching(bus, Source.POWER) as host:
            await host.until(lambda known: known == Surroundings(on_battery=True))
            display = {
                "Type": Variant("u", 2),
                "IsPresent": Variant("b", True),
                "Percentage": Variant("d", 41.7),
            }
            await mock.change(DEVICE, DISPLAY_DEVICE, **display)
            await host.until(lambda known: known == Surroundings(on_battery=True, battery_percent=41))
            await mock.change(mock.name, OnBattery=Variant("b", False))
            await host.until(lambda known: known.on_battery is False)


async def test_values_of_the_wrong_kind_are_not_known(bus: PrivateBus) -> None:
    async with dbusmock(bus.address, *POWER) as mock:
        wrong = {"Type": Variant("u", 2), "IsPresent": Variant("b", True), "Percentage": Variant("d", 1e300)}
        await mock.change(DEVICE, DISPLAY_DEVICE, **wrong)
        async with watching(bus, Source.POWER) as host:
            await host.until(lambda known: known == Surroundings(on_battery=False))
            await mock.change(mock.name, OnBattery=Variant("s", "no"))
            await host.until(lambda known: known == NOTHING)


async def test_power_profile_is_known_while_it_is_wanted(bus: PrivateBus) -> None:
    async with (
        dbusmock(bus.address, *PROFILES, ActiveProfile="power-saver") as mock,
        watching(bus, Source.PROFILE, Source.NETWORK) as host,
    ):
        await host.until(lambda known: known == Surroundings(power_saver=True))
        host.want(Source.NETWORK)
        assert host.seen[-1] == NOTHING
        await host.until(lambda known: not known.unread)
        host.want(Source.PROFILE)
        await host.until(lambda known: known.power_saver is True)
        await mock.change(mock.name, ActiveProfile=Variant("s", "balanced"))
        await host.until(lambda known: known.power_saver is False)


async def test_people_are_those_with_a_terminal_or_a_desktop(
    bus: PrivateBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module._TELLERS, Source.SESSIONS, _settling_soon())
    async with dbusmock(bus.address, *LOGIN) as mock, watching(bus, Source.SESSIONS) as host:
        await host.until(lambda known: known.people == ())

        async def log_in(number: str, name: str, **properties: str) -> str:
            path = await mock.control("AddSession", "ssusb", number, "seat0", 1000 + int(number), name, True)
            for key, value in properties.items():
                await mock.peer.call(
                    path,
                    "org.freedesktop.DBus.Properties",
                    "Set",
                    "ssv",
                    [LOGIN_SESSION, key, Variant("s", value)],
                    destination=mock.name,
                )
            return str(path)

        transfer = await log_in("1", "rsync", Type="tty")
        await log_in("2", "gdm", Type="wayland", Class="greeter")
        await log_in("3", "cron", Type="unspecified", Class="background")
        await log_in("4", "gone", Type="x11", State="closing")
        desktop = await log_in("5", "ann", Type="wayland")
        await log_in("6", "bob", Type="tty", TTY="pts/3")
        await mock.control("EmitSignal", "sssav", LOGIN_MANAGER, "SessionNew", "s", [Variant("s", "6")])
        await host.until(lambda known: known.people == ("ann", "bob"))
        # Nobody tells that utmp has named a terminal; it is seen all the same.
        await mock.control("EmitSignal", "sssav", LOGIN_MANAGER, "SessionRemoved", "s", [Variant("s", "0")])
        await mock.peer.call(
            transfer,
            "org.freedesktop.DBus.Properties",
            "Set",
            "ssv",
            [LOGIN_SESSION, "TTY", Variant("s", "pts/4")],
            destination=mock.name,
        )
        await host.until(lambda known: known.people == ("rsync", "ann", "bob"))
        await mock.change(LOGIN_SESSION, desktop, State=Variant("s", "closing"))
        await host.until(lambda known: known.people == ("rsync", "bob"))


def _settling_soon() -> module._Teller:
    teller = module._TELLERS[Source.SESSIONS]
    return module._Teller(teller.name, teller.rules, teller.nothing, teller.read, settles_secs=0.2)


async def test_inhibitors_of_logind_count_if_they_block_a_shutdown(bus: PrivateBus) -> None:
    async with dbusmock(bus.address, *LOGIN) as mock, watching(bus, Source.SHUTDOWN) as host:
        await host.until(lambda known: known.shutdown_blocks == ())
        for wish in (
            ("sleep", "player", "a film", "block"),
            ("shutdown", "editor", "saving", "delay"),
            ("sleep:shutdown", "back\x1bup", "copying", "block"),
        ):
            reply = await mock.peer.reply(
                mock.path, LOGIN_MANAGER, "Inhibit", "ssss", [*wish], destination=mock.name
            )
            assert not reply.error_name
        await mock.control("AddProperty", "ssv", LOGIN_MANAGER, "BlockInhibited", Variant("s", ""))
        await mock.change(LOGIN_MANAGER, BlockInhibited=Variant("s", "shutdown:sleep"))
        await host.until(lambda known: known.shutdown_blocks == (ShutdownBlock("back?up", "copying"),))


async def test_boot_is_undecided_while_its_target_is_still_to_be_reached(bus: PrivateBus) -> None:
    manager, unit = f"{SYSTEMD[1]}.Manager", f"{SYSTEMD[1]}.Unit"
    path = f"{SYSTEMD[2]}/unit/boot_2dcomplete_2etarget"
    async with dbusmock(bus.address, *SYSTEMD) as mock:
        await mock.control("AddMethod", "sssss", manager, "Subscribe", "", "", "")
        job = Variant("(uo)", [7, f"{SYSTEMD[2]}/job/7"])
        await mock.control("AddObject", "ssa{sv}a(ssss)", path, unit, {"Job": job}, [])
        async with watching(bus, Source.BOOT) as host:
            await host.until(lambda known: known.boot_undecided is True)
            assert await mock.calls("Subscribe") == [[]]
            none = [unit, "Job", Variant("(uo)", [0, "/"])]
            properties = "org.freedesktop.DBus.Properties"
            answer = await mock.peer.call(path, properties, "Set", "ssv", none, destination=mock.name)
            assert not answer.error
            names = (Variant("s", "boot-complete.target"), Variant("s", "done"))
            told = [Variant("u", 7), Variant("o", f"{SYSTEMD[2]}/job/7"), *names]
            signal = (manager, "JobRemoved", "uoss", told)
            await mock.control("EmitSignal", "sssav", *signal)
            await host.until(lambda known: known.boot_undecided is False)


async def test_signals_of_strangers_make_nobody_ask(bus: PrivateBus) -> None:
    async with (
        dbusmock(bus.address, *PROFILES, ActiveProfile="balanced") as mock,
        watching(bus, Source.PROFILE) as host,
        connected(bus.address) as stranger,
    ):
        await host.until(lambda known: known.power_saver is False)
        task = host.watch._tasks.get(Source.PROFILE)
        if task is not None:
            await task
        assert host.watch._connection is not None
        change = Message.new_signal(
            mock.path,
            "org.freedesktop.DBus.Properties",
            "PropertiesChanged",
            "sa{sv}as",
            [mock.name, {"ActiveProfile": Variant("s", "power-saver")}, []],
        )
        change.destination = host.watch._connection._bus.unique_name
        await stranger.bus.send(change)
        # An answer to the stranger comes after its signal was delivered.
        await stranger.call(DBUS_PATH, DBUS, "GetId", destination=DBUS)
        await host.watch._connection.call(DBUS, DBUS_PATH, DBUS, "GetId")
        assert not host.watch._tasks
        assert host.seen[-1] == Surroundings(power_saver=False)
