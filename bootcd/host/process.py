"""Processes told apart by pid and start time, and awaited through pidfds.

A pid alone may be another process tomorrow; with the start time it names one process for as long as
the system is up, also across a restart of the daemon. A process is awaited the same way whether this
daemon started it or found it at work: pidfd_open(2), and the descriptor becomes readable at its end.

Start time: field 22 of proc_pid_stat(5), in clock ticks since boot.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import resource
import select
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PR_SET_DUMPABLE = 4
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_MEANT_FOR_US = frozenset(
    ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "JOURNAL_STREAM")
)
"What a service manager tells one process by environment (systemd.exec(5)); never passed on."


@dataclass(frozen=True, slots=True)
class ProcessId:
    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class Completed:
    """How a command ended. `status` is its exit code, negative for a signal."""

    status: int
    stdout: bytes
    stderr: bytes


def forbid_core_dumps() -> None:
    """Keep this process's memory out of core dumps, and out of the reach of other processes of its user.

    The limit is for the programs it starts, which do not inherit the rest. prctl(2), PR_SET_DUMPABLE.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "core dumps cannot be forbidden")


def return_memory() -> None:
    """Give back to the system what is free between things in use. malloc_trim(3), of glibc only."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def parse_start_ticks(stat: bytes) -> int:
    """Return the start time from the content of /proc/<pid>/stat; ValueError if it is none.

    The second field is the command name in parentheses and may itself hold blanks and parentheses, so
    fields are counted from the last closing one.
    """
    _, separator, rest = stat.rpartition(b")")
    fields = rest.split()
    if not separator or len(fields) < 20:
        raise ValueError("not a process status line")
    return int(fields[19])


def identify(pid: int) -> ProcessId | None:
    """Return the identity of the process that has this pid now, None if there is none. Blocks."""
    try:
        return ProcessId(pid, parse_start_ticks(Path(f"/proc/{pid}/stat").read_bytes()))
    except (FileNotFoundError, ProcessLookupError):
        return None


def spawn(
    argv: Sequence[str],
    *,
    stdout: int,
    stderr: int,
    stdin: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> ProcessId:
    """Start a command in a session of its own and return at once.

    Standard input is the descriptor given or nothing, the environment what is given or ours. The caller
    awaits the process with `wait`, which also reaps it. Blocks until the command is executed;
    OSError if it cannot be.
    """
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        if stdin is None
        else (os.POSIX_SPAWN_DUP2, stdin, 0),
        (os.POSIX_SPAWN_DUP2, stdout, 1),
        (os.POSIX_SPAWN_DUP2, stderr, 2),
    ]
    pid = os.posix_spawnp(
        argv[0],
        list(argv),
        {name: value for name, value in os.environ.items() if name not in _MEANT_FOR_US}
        if environment is None
        else dict(environment),
        file_actions=actions,
        setsid=True,
        setsigmask=(),
        setsigdef=_IGNORED_BY_PYTHON,
    )
    identity = identify(pid)
    assert identity is not None, "a child keeps its pid until it is reaped"
    return identity


def signal_process(process: ProcessId, number: signal.Signals, *, group: bool = False) -> bool:
    """Send a signal to the process, or to its whole process group; False if it has ended. Blocks."""
    descriptor = _open(process)
    if descriptor is None:
        return False
    try:
        if group:
            os.killpg(process.pid, number)
        else:
            signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


async def is_alive(process: ProcessId) -> bool:
    """Tell whether this very process runs; one that has ended and was not reaped does not."""
    descriptor = await asyncio.to_thread(_open, process)
    if descriptor is None:
        return False
    try:
        return not _ended(descriptor)
    finally:
        os.close(descriptor)


async def wait(process: ProcessId) -> int | None:
    """Return when the process has ended: its exit code if it is a child of ours, None otherwise.

    At once if it has ended already. One waiter per child, as the first one reaps it. Raises OSError if
    it cannot be watched now, which says nothing about it.
    """
    descriptor = await asyncio.to_thread(_open, process)
    if descriptor is None:
        return None
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return _reap(process.pid)


async def run(
    argv: Sequence[str],
    *,
    deadline_secs: float,
    limit: int,
    text: bytes | None = None,
    output: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Completed:
    """Run a command to its end and return what it printed, at most `limit` bytes of each stream.

    It reads `text`, or nothing, from standard input; none of the three touches a disk. Where there is an
    `output`, standard output goes there instead, however long it is.
    A command that prints more gets EPERM from its write. Raises TimeoutError, with the command and
    its process group killed, when it takes longer than `deadline_secs`; OSError if it cannot start.
    """
    stdout, stderr = _bounded_memory("stdout", limit), _bounded_memory("stderr", limit)
    stdin = None if text is None else _memory_of(text)
    try:
        starting = asyncio.ensure_future(
            asyncio.to_thread(
                spawn,
                argv,
                stdout=stdout if output is None else output,
                stderr=stderr,
                stdin=stdin,
                environment=environment,
            )
        )
        try:
            process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The thread starts it all the same.
            with contextlib.suppress(OSError):
                process = await asyncio.shield(starting)
                await _killed(process, asyncio.ensure_future(wait(process)))
            raise
        waiting = asyncio.ensure_future(wait(process))
        try:
            async with asyncio.timeout(deadline_secs):
                status = await asyncio.shield(waiting)
        except BaseException:
            await _killed(process, waiting)
            raise
        assert status is not None, "nobody else reaps a child of ours"
        return Completed(status, _written(stdout), _written(stderr))
    finally:
        for descriptor in (stdout, stderr, stdin):
            if descriptor is not None:
                os.close(descriptor)


async def _killed(process: ProcessId, waiting: asyncio.Future[int | None]) -> None:
    await asyncio.to_thread(signal_process, process, signal.SIGKILL, group=True)
    await asyncio.shield(waiting)


def _open(process: ProcessId) -> int | None:
    """Open a pidfd of this very process: opened first and compared then, so that it cannot be another."""
    if process.pid <= 0:
        return None
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    try:
        same = identify(process.pid) == process
    except BaseException:
        os.close(descriptor)
        raise
    if not same:
        os.close(descriptor)
        return None
    return descriptor


def _ended(descriptor: int) -> bool:
    """A pidfd is readable from the end of its process on, reaped or not."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _reap(pid: int) -> int | None:
    try:
        _, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status)


def _bounded_memory(name: str, limit: int) -> int:
    """Make a memory file that takes `limit` bytes and no more (memfd_create(2), F_SEAL_GROW)."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, limit)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
    return descriptor


def _memory_of(text: bytes) -> int:
    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC)
    os.pwrite(descriptor, text, 0)
    return descriptor


def _written(descriptor: int) -> bytes:
    return os.pread(descriptor, os.lseek(descriptor, 0, os.SEEK_CUR), 0)
