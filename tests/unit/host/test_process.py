from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.host import process
from bootcd.host.process import ProcessId, parse_start_ticks


def stat_line(name: bytes, ticks: int) -> bytes:
    return b"42 (%s) S " % name + b" ".join([b"7"] * 18 + [b"%d" % ticks] + [b"0"] * 30) + b"\n"


@given(st.binary(max_size=16), st.integers(0, 2**64))
def test_start_time_is_found_whatever_the_command_is_called(name: bytes, ticks: int) -> None:
    assert parse_start_ticks(stat_line(name, ticks)) == ticks


@pytest.mark.parametrize("text", [b"", b"42 (sh) S 1", b"42 sh S " + b"1 " * 40, b"1 (a) " + b"x " * 40])
def test_text_that_is_no_status_line_is_an_error(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the parser's or int's own words
        parse_start_ticks(text)


@given(st.binary())
def test_any_text_parses_or_is_a_value_error(text: bytes) -> None:
    try:
        parse_start_ticks(text)
    except ValueError:
        pass


def test_own_process_has_an_identity_and_a_gone_one_has_none() -> None:
    mine = process.identify(os.getpid())
    assert mine is not None
    assert mine.pid == os.getpid()
    child = subprocess.Popen(["true"])
    child.wait()
    assert process.identify(child.pid) is None


async def test_command_returns_what_it_printed() -> None:
    done = await process.run(["sh", "-c", "echo out; echo err >&2; exit 3"], deadline_secs=5, limit=100)
    assert (done.status, done.stdout, done.stderr) == (3, b"out\n", b"err\n")


async def test_command_that_prints_too_much_is_cut() -> None:
    done = await process.run(["sh", "-c", "head -c 1000 /dev/zero; echo $? >&2"], deadline_secs=5, limit=100)
    assert len(done.stdout) <= 100
    assert b"not permitted" in done.stderr


async def test_command_killed_by_a_signal_has_a_negative_status() -> None:
    done = await process.run(["sh", "-c", "kill -9 $$"], deadline_secs=5, limit=100)
    assert done.status == -signal.SIGKILL


async def test_command_that_takes_too_long_is_killed_with_its_children() -> None:
    marker = f"sleep 600.{os.getpid()}"
    with pytest.raises(TimeoutError):
        await process.run(["sh", "-c", f"{marker} & {marker}"], deadline_secs=0.2, limit=100)
    found = await asyncio.to_thread(subprocess.run, ["pgrep", "-f", f"^{marker}$"], capture_output=True)
    assert found.stdout == b""


async def test_command_that_does_not_exist_is_an_os_error() -> None:
    with pytest.raises(FileNotFoundError):
        await process.run(["/does/not/exist"], deadline_secs=5, limit=100)


async def test_command_gets_a_session_and_signals_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setenv("KEPT", "yes")
    code = (
        "import os, signal;"
        "print(os.getsid(0) == os.getpid(), signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,"
        " os.environ.get('NOTIFY_SOCKET'), os.environ['KEPT'], os.read(0, 1))"
    )
    done = await process.run([sys.executable, "-S", "-c", code], deadline_secs=5, limit=1000)
    assert done.stdout == b"True True None yes b''\n"


async def test_process_of_somebody_else_is_awaited_too() -> None:
    """As a daemon awaits the worker its predecessor started: not its child."""
    shell = ["sh", "-c", "sleep 0.2 & echo $!"]
    done = await process.run(shell, deadline_secs=5, limit=100)
    orphan = await asyncio.to_thread(process.identify, int(done.stdout))
    assert orphan is not None
    assert await process.is_alive(orphan)
    assert await process.wait(orphan) is None
    assert not await process.is_alive(orphan)


async def test_identity_with_another_start_time_is_nobody() -> None:
    mine = await asyncio.to_thread(process.identify, os.getpid())
    assert mine is not None
    other = ProcessId(mine.pid, mine.start_ticks + 1)
    assert not await process.is_alive(other)
    assert await process.wait(other) is None
    assert not await asyncio.to_thread(process.signal_process, other, signal.SIGKILL)


async def test_zombie_is_not_alive() -> None:
    child = subprocess.Popen(["true"])
    await asyncio.to_thread(os.waitid, os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    zombie = await asyncio.to_thread(process.identify, child.pid)
    assert zombie is not None
    assert not await process.is_alive(zombie)
    assert await process.wait(zombie) == 0
    child.returncode = 0


_CRASH = """
import os, resource, sys
from bootcd.host.process import forbid_core_dumps
secret = sys.stdin.read()
forbid_core_dumps()
if os.fork() == 0:
    os.abort()
_, status = os.wait()
print(os.WCOREDUMP(status), flush=True)
os.execvp("sh", ["sh", "-c", "ulimit -Hc"])
"""


def test_process_that_forbids_core_dumps_leaves_none_and_nor_do_its_programs(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_CORE)[1]
    done = subprocess.run(
        [sys.executable, "-c", _CRASH],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        input="core of the matter",
        capture_output=True,
        text=True,
        check=True,
        # As far as they are allowed here: without the call under test, this dumps its core.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (limit, limit)),
    )
    assert done.stdout == "False\n0\n"
    assert list(tmp_path.iterdir()) == []


async def test_command_that_starts_while_its_caller_is_cancelled_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, started = asyncio.get_running_loop(), []
    really_spawn = process.spawn

    def spawn(*arguments: Any, **options: Any) -> ProcessId:
        started.append(really_spawn(*arguments, **options))
        cancelled = threading.Event()
        loop.call_soon_threadsafe(lambda: (caller.cancel(), cancelled.set()))
        cancelled.wait()
        return started[0]

    monkeypatch.setattr(process, "spawn", spawn)
    caller = asyncio.ensure_future(process.run(["sleep", "600"], deadline_secs=600, limit=0))
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert process.identify(started[0].pid) is None
