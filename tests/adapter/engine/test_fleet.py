"""Reboots by leave of a FleetLock server that was written from the protocol."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web

from bootcd.engine import fleet
from bootcd.engine.fleet import release_held, run_with_lock
from bootcd.fleetlock import FleetLock, client_id
from bootcd.model.errors import (
    BackendFailed,
    BootcdError,
    FleetLockRefused,
    FleetLockUnavailable,
    InvalidConfig,
)
from bootcd.model.job import JobKind, JobRequest, JobState, Outcome, Progress, WorkerSettings
from bootcd.model.report import HostReport
from tests.support.fleet_lock import FleetLockServer

UUID = "7f2c1c0e-0000-4000-8000-000000000000"
MACHINES = ("0" * 31 + "1", "0" * 31 + "2")


class Engine:
    """A host whose reboot is a call."""

    def __init__(self, reboot: Callable[[], None] = lambda: None) -> None:
        self.reboots = 0
        self._reboot = reboot

    def read_report(self) -> HostReport:
        raise NotImplementedError

    def prepare(self, request: JobRequest) -> None:
        raise NotImplementedError

    async def run(self, request: JobRequest, report: Callable[[Progress], None]) -> Outcome:
        self._reboot()
        self.reboots += 1
        return Outcome(state=JobState.DONE, reboot=True)


class Machine:
    """What a host keeps over a reboot, and its boot."""

    def __init__(self, root: Path, machine_id: str, url: str) -> None:
        (root / "etc").mkdir(parents=True)
        (root / "etc/machine-id").write_text(f"{machine_id}\n")
        self.id = client_id(machine_id)
        self.lease = root / "fleet-lock.json"
        self.settings = WorkerSettings(
            fleet_lock_url=url, fleet_lock_file=str(self.lease), hooks_root=str(root)
        )

    async def apply(self, engine: Engine) -> Outcome:
        request = JobRequest(uuid=UUID, kind=JobKind.APPLY, fleet_lock=True, settings=self.settings)
        return await run_with_lock(engine, request, lambda _: None)


@pytest.fixture
def boot(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def boot(name: str) -> None:
        monkeypatch.setattr(fleet, "boot_id", lambda: name)

    boot("first")
    return boot


@pytest.fixture
async def server() -> AsyncIterator[FleetLockServer]:
    async with FleetLockServer() as server:
        yield server


@pytest.fixture
def machines(tmp_path: Path, server: FleetLockServer, boot: object) -> tuple[Machine, Machine]:
    one, two = (Machine(tmp_path / name, name, server.url) for name in MACHINES)
    return one, two


async def test_two_hosts_with_one_slot_never_reboot_together(
    server: FleetLockServer, machines: tuple[Machine, Machine], boot: Callable[[str], None]
) -> None:
    one, two = machines
    engines = Engine(), Engine()
    results = await asyncio.gather(
        *(machine.apply(engine) for machine, engine in zip(machines, engines, strict=True)),
        return_exceptions=True,
    )
    assert sorted(engine.reboots for engine in engines) == [0, 1]
    [refused] = [result for result in results if isinstance(result, FleetLockRefused)]
    assert "all slots are locked already" in refused.message
    assert refused.fields["kind"] == "failed_lock_semaphore_full"
    first, second = (one, two) if engines[0].reboots else (two, one)
    assert server.holders == {"default": {first.id}}

    boot("second")
    await release_held(first.lease)
    assert not first.lease.exists()
    assert (await second.apply(Engine())).reboot
    assert server.holders == {"default": {second.id}}
    assert server.most == 1


async def test_slot_is_kept_until_the_next_boot_whoever_runs(
    server: FleetLockServer, machines: tuple[Machine, Machine], boot: Callable[[str], None]
) -> None:
    machine, other = machines
    await machine.apply(Engine())

    await release_held(machine.lease)
    assert server.holders == {"default": {machine.id}}
    assert (await machine.apply(Engine())).reboot
    with pytest.raises(FleetLockRefused):
        await other.apply(Engine())

    boot("second")
    server.faults = [web.Response(status=503)]
    with pytest.raises(FleetLockUnavailable):
        await release_held(machine.lease)
    assert machine.lease.exists()
    await release_held(machine.lease)
    assert server.holders == {"default": set()}
    await release_held(machine.lease)
    assert server.asked[-1] == ("steady-state", machine.id)


async def test_slot_is_given_back_if_the_reboot_does_not_come(
    server: FleetLockServer, machines: tuple[Machine, Machine]
) -> None:
    def refuse() -> None:
        raise BackendFailed("no")

    with pytest.raises(BackendFailed):
        await machines[0].apply(Engine(refuse))

    assert server.asked == [("pre-reboot", machines[0].id), ("steady-state", machines[0].id)]
    assert server.holders == {"default": set()}
    assert not machines[0].lease.exists()


async def test_host_does_not_reboot_while_the_server_is_down(
    machines: tuple[Machine, Machine], unused_tcp_port: int
) -> None:
    machine, engine = machines[0], Engine()
    url = f"http://127.0.0.1:{unused_tcp_port}"
    machine.settings = machine.settings.model_copy(update={"fleet_lock_url": url})

    with pytest.raises(FleetLockUnavailable) as raised:
        await machine.apply(engine)

    assert raised.value.message == f"the fleet lock server {url} cannot be reached: Connection refused"
    assert engine.reboots == 0
    # An answer may have been lost, so the next boot gives back what may have been taken.
    assert machine.lease.exists()


async def test_only_one_takes_and_gives_back_at_a_time(machines: tuple[Machine, Machine]) -> None:
    machine = machines[0]
    with fleet._only_one(machine.lease), pytest.raises(FleetLockUnavailable, match="just being taken"):
        await machine.apply(Engine())


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        pytest.param(
            lambda: web.json_response({"kind": "k", "value": "not\x1b[2J\nnow" + "x" * 999}, status=500),
            FleetLockRefused,
            "refused: not?[2J nowxxx",
            id="refused with what a terminal would act on",
        ),
        pytest.param(
            lambda: web.Response(status=302, headers={"Location": "/base/v1/steady-state"}),
            FleetLockUnavailable,
            "status 302",
            id="redirected",
        ),
        pytest.param(
            lambda: web.Response(status=404, body=b"[" * (1 << 20)),
            FleetLockUnavailable,
            "status 404",
            id="long and deep",
        ),
        pytest.param(
            lambda: web.json_response(["kind"], status=400),
            FleetLockUnavailable,
            "status 400",
            id="no object",
        ),
        pytest.param(
            lambda: web.Response(status=204), FleetLockUnavailable, "status 204", id="not quite 200"
        ),
    ],
)
async def test_answer_that_is_no_leave_is_told(
    server: FleetLockServer, answer: Callable[[], web.Response], error: type[BootcdError], words: str
) -> None:
    server.faults = [answer()]

    with pytest.raises(error) as raised:
        await FleetLock(server.url, "default", "host").acquire()

    assert words in raised.value.message
    assert raised.value.message.isprintable()
    assert len(raised.value.message) < 400


async def test_server_that_says_nothing_is_not_waited_for_for_long() -> None:
    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # to the end of the connection
        writer.close()
        await writer.wait_closed()
        left.set()

    left = asyncio.Event()
    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(FleetLockUnavailable, match=r"not answered after 0\.2 s"):
            await FleetLock(url, "default", "host", deadline_secs=0.2).acquire()
        async with asyncio.timeout(30):
            await left.wait()


def test_host_has_the_id_that_systemd_and_zincati_give_it() -> None:
    command = ["systemd-id128", "machine-id", "--app-specific=de35106b6ec24688b63afddaa156679b"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    assert client_id(Path("/etc/machine-id").read_text()) == said


@pytest.mark.parametrize("text", ["", "uninitialized\n", "0" * 32, "g" * 32])
def test_host_without_a_machine_id_has_none(text: str) -> None:
    with pytest.raises(InvalidConfig):
        client_id(text)
