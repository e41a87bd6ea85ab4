"""The clients and the mock template that are shipped for authors of clients, each really run."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Variant

from bootcd.bus.frontend import Frontend
from bootcd.bus.interfaces import DEPLOYMENT, JOB, MANAGER, ROOT_PATH
from bootcd.model.job import ImageUpdate
from tests.support.bus import PrivateBus
from tests.support.bus_front import bus as bus
from tests.support.bus_front import front as front
from tests.support.bus_front import service as service
from tests.support.bus_peers import DBUS, Peer, connected, private_bus
from tests.support.daemon import Daemon, running
from tests.support.jobs import WorkerScript, eventually
from tests.support.machine import REPOSITORY
from tests.support.mock import mocked, run, session_bus
from tests.support.scripted_agent import ScriptedService, done
from tests.support.service import BOOTED, show_host
from tests.support.varlink import VARLINKCTL, varlinkctl

CLIENTS = REPOSITORY / "docs/clients"
CONTROL = "org.freedesktop.DBus.Mock"
COMMANDS = {
    "python": (sys.executable, "-W", "error::DeprecationWarning", str(CLIENTS / "upgrade.py")),
    "gjs": ("gjs", "-m", str(CLIENTS / "upgrade.js")),
}


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    async with session_bus(tmp_path) as address:
        yield address


@pytest.fixture(params=COMMANDS)
def command(request: pytest.FixtureRequest) -> tuple[str, ...]:
    found: tuple[str, ...] = COMMANDS[request.param]
    if shutil.which(found[0]) is None:
        pytest.skip(f"{found[0]} is not installed")
    return found


async def test_example_shows_progress_and_the_end(address: str, command: tuple[str, ...]) -> None:
    async with mocked(address, "--speed", "8"):
        status, out, errors = await run(address, *command)
    assert (status, errors) == (0, "")
    assert "fetch" in out
    assert "100%" in out
    assert out.endswith("done: 2.0 at the next boot\n")


async def test_example_tells_a_failure_and_what_to_do(address: str, command: tuple[str, ...]) -> None:
    async with mocked(address, "--scenario", "failing", "--speed", "40"):
        status, _, errors = await run(address, *command)
    assert status == 1
    assert errors.startswith("there is no room for the image")
    assert "delete what is not needed" in errors


async def test_example_tells_a_refusal(address: str, command: tuple[str, ...]) -> None:
    async with mocked(address, "--scenario", "denied"):
        status, _, errors = await run(address, *command)
    assert status == 1
    assert "AccessDenied\nthe authentication was dismissed\n" in errors


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the bus policy gives the name to root")
async def test_example_works_with_the_front_end_of_the_service(
    bus: PrivateBus, front: Frontend, service: ScriptedService, command: tuple[str, ...]
) -> None:
    async def work() -> None:
        await eventually(lambda: any(call[0] == "wait" for call in service.calls))
        [record] = service.jobs()
        service.progress(record, bytes_done=1, bytes_total=4)
        update = ImageUpdate(image="i", digest="d", version="2.0")
        service.end(record, done(changed=True, update=update))

    task = asyncio.create_task(work())
    status, out, errors = await run(bus.address, *command)
    await task
    assert (status, errors) == (0, "")
    assert "25%" in out
    assert out.endswith("done: 2.0 at the next boot\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the bus policy gives the name to root")
async def test_example_and_varlinkctl_work_with_the_daemon(tmp_path: Path) -> None:
    script = WorkerScript(tmp_path / "sysroot")
    show_host(script, BOOTED)
    update = {"image": "i", "digest": "d", "version": "2.0"}
    progress = ["progress", {"phase": "fetch", "bytes_done": 1, "bytes_total": 4}]
    end = ["outcome", {"state": "done", "changed": True, "update": update}]
    async with private_bus() as bus:
        daemon = Daemon(tmp_path, bus, scripted=True)
        with daemon.manager:
            async with running(daemon):
                script.steps(["ready"], progress, ["hold"], end)
                client = asyncio.create_task(run(bus.address, *COMMANDS["python"]))
                await eventually(lambda: bool(script.pids()))
                script.release()
                status, out, errors = await client
                assert (status, errors) == (0, "")
                assert out.endswith("done: 2.0 at the next boot\n")
                if VARLINKCTL.exists():
                    socket = str(tmp_path / "run/io.bootcd")
                    arguments = ("--json=short", "--more", "call", socket, "io.bootcd.Upgrade", "{}")
                    follows = asyncio.create_task(varlinkctl(*arguments))
                    await eventually(lambda: len(script.pids()) == 2)
                    script.release()
                    status, out, errors = await follows
                    assert (status, errors) == (0, "")
                    last = json.loads(out.replace("\x1e", "").strip().splitlines()[-1])["job"]
                    assert (last["state"], last["outcome"]["update"]["version"]) == ("done", "2.0")
    script.close()


# The template


@asynccontextmanager
async def dbusmock(address: str) -> AsyncIterator[Peer]:
    probe = await run(address, "/usr/bin/python3", "-c", "import dbusmock")
    if probe[0]:
        pytest.skip("python3-dbusmock is not installed")
    async with connected(address) as peer:
        await peer.listen()
        await peer.listen(f"type='signal',sender='{DBUS}',member='NameOwnerChanged',arg0='org.bootcd1'")
        process = await asyncio.create_subprocess_exec(
            *("/usr/bin/python3", "-m", "dbusmock", "--template", str(CLIENTS / "bootcd1.py")),
            *("--parameters", json.dumps({"interfaces": str(REPOSITORY / "dbus"), "Mode": "stage"})),
            env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": address},
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:
            await peer.signal(lambda message: message.member == "NameOwnerChanged")
            yield peer
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def control(peer: Peer, member: str, signature: str = "", *body: Any) -> Any:
    return await peer.call(ROOT_PATH, CONTROL, member, signature, [*body])


async def test_template_has_every_member_of_the_service(address: str) -> None:
    async with dbusmock(address) as peer:
        deployment = (await control(peer, "AddDeployment", "ss", "booted", "1.0")).value()
        job = (await control(peer, "StartJob", "ss", "check", "")).value()
        for path, interface in ((ROOT_PATH, MANAGER), (deployment, DEPLOYMENT), (job, JOB)):
            text = (await peer.call(path, "org.freedesktop.DBus.Introspectable", "Introspect")).value()
            for method in interface.methods:
                assert f'<method name="{method}">' in text
            answer = await peer.call(path, "org.freedesktop.DBus.Properties", "GetAll", "s", [interface.name])
            shown = answer.body[0]
            assert {name: value.signature for name, value in shown.items()} == {
                item.name: item.signature for item in interface.properties
            }


async def test_template_runs_a_job_as_the_test_says(address: str) -> None:
    async with dbusmock(address) as peer:
        job = (await peer.call(ROOT_PATH, MANAGER.name, "Upgrade", "a{sv}", [{}])).value()
        new = await peer.signal(lambda message: message.member == "JobNew")
        assert (new.body[0], new.body[2]) == (job, "upgrade")
        assert not (await control(peer, "SetJob", "oa{sv}", job, {"Progress": Variant("d", 0.5)})).error
        changed = await peer.signal(lambda message: message.path == job)
        assert changed.body[1]["Progress"].value == 0.5
        outcome = {
            "changed": Variant("b", True),
            "version": Variant("s", "2.0"),
            "reboot": Variant("b", True),
        }
        assert not (await control(peer, "EndJob", "osa{sv}ss", job, "done", outcome, "", "")).error
        removed = await peer.signal(lambda message: message.member == "JobRemoved")
        assert (removed.body[0], removed.body[3]) == (job, "done")
        told = await peer.signal(lambda message: message.member == "RebootScheduled")
        assert told.body[2]["job"].value == job
        answer = await peer.call(job, JOB.name, "Wait", "a{sv}", [{}])
        assert answer.body[0] == "done"
        assert answer.body[1]["version"].value == "2.0"


async def test_template_shows_deployments_to_bootcctl(address: str) -> None:
    async with dbusmock(address) as peer:
        await control(peer, "StartJob", "ss", "check", "")
        status, out, errors = await run(address, sys.executable, "-m", "bootcctl", "--json", "jobs")
    assert (status, errors) == (0, "")
    assert '"check"' in out
