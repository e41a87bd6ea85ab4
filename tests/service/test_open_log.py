"""The log of a job, read by who may."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

import pytest
from dbus_fast import Message

from bootcd.bus.frontend import Frontend
from bootcd.jobs.records import LOG_LIMIT
from bootcd.jobs.runner import SystemdRunner
from bootcd.model.errors import BackendFailed
from bootcd.model.job import Requester, WorkerHandle
from tests.support.blocking import no_blocking_calls as no_blocking_calls
from tests.support.bus import PrivateBus
from tests.support.bus_front import ERROR, JOB_NAME, JOB_PATH
from tests.support.bus_front import bus as bus
from tests.support.bus_front import front as front
from tests.support.bus_front import peer as peer
from tests.support.bus_front import service as service
from tests.support.bus_peers import NOBODY, Peer, connected, private_bus, user
from tests.support.daemon import Daemon, running
from tests.support.jobs import DONE, SOMEBODY, JobBench, WorkerScript
from tests.support.scripted_agent import ScriptedService
from tests.support.service import STAGED, show_host

SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


def read(reply: Message) -> bytes:
    assert reply.error_name is None, reply.body
    with open(reply.unix_fds[0], "rb") as file:  # noqa: PTH123
        assert fcntl.fcntl(file.fileno(), fcntl.F_GET_SEALS) & SEALS == SEALS
        return file.read()


async def test_log_is_a_sealed_file_for_root_and_for_who_started_the_job(
    bus: PrivateBus, peer: Peer, front: Frontend, service: ScriptedService
) -> None:
    service.add(requester=Requester(uid=NOBODY))
    others = service.add(requester=Requester(uid=1))
    assert read(await peer.reply(JOB_PATH, JOB_NAME, "OpenLog")) == b"what it printed\n"
    async with user(bus.address) as nobody:
        assert (await nobody.call(JOB_PATH, JOB_NAME, "OpenLog")).error == ""
        path = f"/org/bootcd1/job/_{others.number}"
        assert (await nobody.call(path, JOB_NAME, "OpenLog")).error == ERROR + "AccessDenied"
    assert [call[0] for call in service.calls] == ["log", "log"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the bus policy gives the name to root")
async def test_log_of_a_job_is_what_its_worker_printed(tmp_path: Path) -> None:
    script = WorkerScript(tmp_path / "sysroot")
    show_host(script, STAGED)
    script.steps(["ready"], ["print", 1], DONE)
    async with private_bus() as bus:
        made = Daemon(tmp_path, bus, scripted=True)
        with made.manager:
            async with running(made):
                path = (await made.call("Check", "a{sv}", {})).body[0]
                await made.call("Wait", "a{sv}", {}, path=path, interface="Job")
                async with connected(bus.address) as root:
                    assert read(await root.reply(path, JOB_NAME, "OpenLog")) == b"x" * 999 + b"\n"
    script.close()


async def test_log_that_is_long_is_read_from_its_end(tmp_path: Path) -> None:
    script = WorkerScript(tmp_path / "sysroot")
    script.steps(["ready"], DONE)
    async with JobBench(tmp_path) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        await bench.manager.wait(record.request.uuid)
        path = bench.store.directory(record.request.uuid) / "log"
        await asyncio.to_thread(path.write_bytes, b"x" * LOG_LIMIT + b"end")
        log = await bench.manager.log(record.request.uuid)
    script.close()
    assert len(log) == LOG_LIMIT
    assert log.endswith(b"xend")


async def test_log_of_a_unit_is_asked_of_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No journal runs where the tests do, so that a stand-in shows what it would be asked."""
    stand_in = tmp_path / "journalctl"
    stand_in.write_text('#!/bin/sh\n[ "$1" = --quiet ] && echo "$@" || exit 1\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    runner = SystemdRunner(tmp_path / "worker.env")
    asked = (await runner.log(WorkerHandle(unit="bootcd-job-x.service"))).decode()
    assert asked.endswith("--output=short-iso --lines=2000 --unit=bootcd-job-x.service\n")
    stand_in.write_text('#!/bin/sh\necho "no journal here" >&2; exit 1\n')
    with pytest.raises(BackendFailed, match="journalctl failed: no journal here"):
        await runner.log(WorkerHandle(unit="bootcd-job-x.service"))
