"""The worker as a process: what comes out of it however its job ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bootcd.model.job import JobKind, JobState, Outcome, WorkerMessage
from tests.support.host import prepare_job, worker_command

WAIT_SECS = 30


class Daemon(asyncio.DatagramProtocol):
    """The end of the socket that the daemon would hold."""

    def __init__(self) -> None:
        self.messages: list[WorkerMessage] = []
        self.ready = asyncio.Event()

    def datagram_received(self, data: bytes, addr: object) -> None:
        message = WorkerMessage.model_validate_json(data)
        self.messages.append(message)
        if message.ready:
            self.ready.set()


@asynccontextmanager
async def listening(job: Path) -> AsyncIterator[Daemon]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind(str(job / "socket"))
    transport, daemon = await asyncio.get_running_loop().create_datagram_endpoint(Daemon, sock=sock)
    try:
        yield daemon
    finally:
        transport.close()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of a short name: a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="w") as name:
        yield Path(name)


@pytest.fixture
def sysroot(tmp_path: Path) -> Path:
    """A system root nothing was deployed on yet."""
    root = tmp_path / "sysroot"
    root.mkdir()
    subprocess.run(["ostree", "admin", "init-fs", "--modern", str(root)], check=True)
    subprocess.run(["ostree", "admin", f"--sysroot={root}", "os-init", "default"], check=True)
    return root


@pytest.fixture
async def silent_registry() -> AsyncIterator[str]:
    """Somebody who accepts connections and never says a word."""
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield f"127.0.0.1:{port}"


async def start(command: list[str], *, env: dict[str, str] | None = None) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE, env=env)


async def ended(process: asyncio.subprocess.Process) -> str:
    async with asyncio.timeout(WAIT_SECS):
        _, errors = await process.communicate()
    return errors.decode()


def outcome(job: Path) -> Outcome:
    return Outcome.model_validate_json((job / "outcome.json").read_bytes())


async def test_failing_check_says_why_and_never_that_it_is_ready(place: Path) -> None:
    job, _ = prepare_job(place, JobKind.CHECK, sysroot=place / "nothing", registry="localhost:1")
    async with listening(job) as daemon:
        process = await start(worker_command(job))
        assert "Traceback" not in await ended(process)
        assert process.returncode == 0
        left = outcome(job)
        assert left.state is JobState.FAILED
        assert left.error is not None
        assert left.error.name.endswith("NotBootcSystem")
        assert not daemon.ready.is_set()
        assert daemon.messages[-1].finished


async def test_failing_job_says_ready_first_and_finished_last(place: Path, sysroot: Path) -> None:
    job, request = prepare_job(
        place, JobKind.SWITCH, image="localhost:1/os:1", sysroot=sysroot, registry="localhost:1"
    )
    retries = request.model_copy(update={"settings": request.settings.model_copy(update={"retries": 0})})
    (job / "request.json").write_text(retries.model_dump_json())
    async with listening(job) as daemon:
        process = await start(worker_command(job))
        await ended(process)
        assert process.returncode == 0
        assert outcome(job).state is JobState.FAILED
        assert daemon.messages[0].ready
        assert [message for message in daemon.messages if message.finished] == daemon.messages[-1:]
        assert {message.uuid for message in daemon.messages} == {request.uuid}


async def test_nobody_listening_is_no_error(place: Path) -> None:
    job, _ = prepare_job(place, JobKind.CHECK, sysroot=place / "nothing")
    process = await start(worker_command(job))
    await ended(process)
    assert process.returncode == 0
    assert outcome(job).state is JobState.FAILED


async def test_term_cancels_a_job_that_waits_for_the_network(
    place: Path, sysroot: Path, silent_registry: str
) -> None:
    job, _ = prepare_job(
        place,
        JobKind.SWITCH,
        image=f"{silent_registry}/os:1",
        sysroot=sysroot,
        registry=silent_registry,
    )
    async with listening(job) as daemon:
        process = await start(worker_command(job))
        async with asyncio.timeout(WAIT_SECS):
            await daemon.ready.wait()
        process.terminate()
        process.terminate()
        assert "Traceback" not in await ended(process)
        assert process.returncode == 0
        left = outcome(job)
        assert left.state is JobState.CANCELLED
        assert left.error is not None
        assert left.error.name.endswith("Cancelled")


STOPPED_AT_ITS_END = """
import os, signal, sys
from bootcd.worker import __main__ as worker, job

write = job.write_atomic

def stopped(*arguments, **options):
    os.kill(os.getpid(), signal.SIGTERM)
    write(*arguments, **options)

job.write_atomic = stopped
sys.exit(worker.main())
"""


async def test_term_at_the_very_end_does_not_lose_the_outcome(place: Path) -> None:
    job, _ = prepare_job(place, JobKind.CHECK, sysroot=place / "nothing")
    arguments = worker_command(job)
    command = [sys.executable, "-c", STOPPED_AT_ITS_END, *arguments[arguments.index("run") :]]
    process = await start(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    await ended(process)
    assert outcome(job).state is JobState.FAILED


async def test_outcome_that_cannot_be_written_is_told_in_one_line(place: Path) -> None:
    job, _ = prepare_job(place, JobKind.CHECK, sysroot=place / "nothing")
    process = await start(["prlimit", "--fsize=0", *worker_command(job)])
    errors = await ended(process)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert "outcome" in errors
    assert [path.name for path in job.iterdir()] == ["request.json"]


@pytest.mark.parametrize("text", [None, "", "{}", '{"uuid": "x"}'], ids=["missing", "empty", "bare", "wrong"])
async def test_request_that_cannot_be_read_is_told_in_one_line(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "request.json").write_text(text)
    process = await start(worker_command(tmp_path))
    errors = await ended(process)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert "request" in errors


async def test_killed_worker_leaves_no_half_outcome(place: Path, sysroot: Path, silent_registry: str) -> None:
    job, _ = prepare_job(
        place,
        JobKind.SWITCH,
        image=f"{silent_registry}/os:1",
        sysroot=sysroot,
        registry=silent_registry,
    )
    async with listening(job) as daemon:
        process = await start(worker_command(job))
        async with asyncio.timeout(WAIT_SECS):
            await daemon.ready.wait()
        process.send_signal(signal.SIGKILL)
        await ended(process)
        assert not (job / "outcome.json").exists()
