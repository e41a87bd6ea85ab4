"""Many callers at once, and a daemon that is killed at any moment: one worker, one truth.

BOOTCD_KILLS says how often it is killed.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from dbus_fast import Variant

from bootcd.bus.interfaces import JOB, MANAGER, ROOT_PATH
from tests.support.bus_peers import connected, plain, private_bus
from tests.support.daemon import Daemon, errors_of, running
from tests.support.jobs import DONE, WorkerScript, eventually
from tests.support.service import STAGED, show_host

KILLS = int(os.environ.get("BOOTCD_KILLS", "10"))
CLIENTS = 50

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the bus policy gives the name to root"),
    pytest.mark.timeout(120 + 4 * KILLS),
]


@pytest.fixture
async def script(tmp_path: Path) -> AsyncIterator[WorkerScript]:
    script = WorkerScript(tmp_path / "sysroot")
    show_host(script, STAGED)
    yield script
    script.close()


@pytest.fixture
async def daemon(tmp_path: Path, script: WorkerScript) -> AsyncIterator[Daemon]:
    async with private_bus() as bus:
        made = Daemon(tmp_path, bus, scripted=True)
        with made.manager:
            yield made


async def test_fifty_clients_with_mixed_verbs_start_one_worker_and_each_gets_a_typed_answer(
    daemon: Daemon, script: WorkerScript
) -> None:
    script.steps(["ready"], ["hold"], DONE)
    verbs = (("Check", "a{sv}", [{}]), ("Upgrade", "a{sv}", [{}]), ("Apply", "a{sv}", [{}]))
    others = (("GetStatus", "a{sv}", [{}]), ("Reload", "", []))

    async def call(number: int) -> str:
        member, signature, body = (*verbs, *others)[number % 5]
        async with connected(daemon.bus.address) as peer:
            async with asyncio.timeout(15):
                answer = await peer.call(ROOT_PATH, MANAGER.name, member, signature, body)
        return f"{'read' if number % 5 > 2 else 'verb'} {answer.error or 'ok'}"

    async with running(daemon) as process:
        seen = Counter(await asyncio.gather(*(call(number) for number in range(CLIENTS))))
        assert set(seen) == {"verb ok", "verb org.bootcd1.Error.Busy", "read ok"}
        assert seen["verb ok"] == CLIENTS // 5
        assert seen["read ok"] == CLIENTS * 2 // 5
        assert len(script.pids()) == 1
        script.release()
        process.terminate()
        errors = await errors_of(process)
    assert "Traceback" not in errors


async def test_daemon_killed_at_any_moment_finds_its_job_again(daemon: Daemon, script: WorkerScript) -> None:
    """Each life ends somewhere between its start, the start of a job and the job's end."""
    chance = random.Random(7)
    script.steps(
        ["ready"], ["progress", {"phase": "fetch", "bytes_done": 1, "bytes_total": 2}], ["hold"], DONE
    )
    accepted: dict[str, str] = {}
    for life in range(KILLS):
        async with running(daemon) as process:
            call = asyncio.create_task(start_job(daemon))
            if chance.random() < 0.3:
                script.release()
            await asyncio.wait([call], timeout=chance.choice((0.0, 0.02, 0.05, 0.1, 0.3, 1.0)))
            if call.done() and (uuid := call.result()):
                accepted.setdefault(uuid, f"life {life}")
            process.kill()
            await process.wait()
            await asyncio.gather(call, return_exceptions=True)

    async with running(daemon) as process:
        for _ in range(3):  # what may have been released before, and the one at work
            script.release()
        await eventually(lambda: daemon.read("service.json").get("active-job", 0) is None)
        reply = await daemon.call("GetHistory", "a{sv}", {"limit": Variant("u", 1000)})
        history = {entry["uuid"]: entry for entry in plain(reply.body[0])}
        assert set(accepted) <= set(history), accepted
        assert {entry["state"] for entry in history.values()} <= {"done", "interrupted"}
        numbers = [record["created"] for record in history.values()]
        assert numbers == sorted(numbers, reverse=True)
        # Nothing is left at work, and the next job is.
        assert not [pid for pid in script.pids() if at_work(pid, script)]
        script.release()
        assert await start_job(daemon)
        process.terminate()
        assert "Traceback" not in await errors_of(process)


async def start_job(daemon: Daemon) -> str:
    """Return the uuid of the job that was started or joined; empty if the daemon went before."""
    async with connected(daemon.bus.address) as peer:
        answer = await peer.call(ROOT_PATH, MANAGER.name, "Check", "a{sv}", [{}])
        if answer.error:
            assert answer.error.startswith(("org.freedesktop.DBus.Error.", "org.bootcd1.Error.")), answer.text
            assert "internal error" not in answer.text
            return ""
        properties = "org.freedesktop.DBus.Properties"
        uuid = await peer.call(answer.body[0], properties, "Get", "ss", [JOB.name, "Uuid"])
        return "" if uuid.error else str(plain(uuid.body[0]))


def at_work(pid: int, script: WorkerScript) -> bool:
    try:
        return os.fsencode(script.sysroot.parent) in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False
