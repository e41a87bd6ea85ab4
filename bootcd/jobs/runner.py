"""Where worker processes live: transient systemd units, or sessions of their own.

A worker is found again by its `WorkerHandle` alone, which is journaled before the worker may run: so
no worker is ever at work that the journal does not know, wherever the daemon is killed.

Units: systemd-run(1), systemd.exec(5). A unit has resource limits and a cgroup of its own and survives
`systemctl restart bootcd`; a session survives a crash of the daemon where no such manager runs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol

from bootcd.host import process
from bootcd.host.files import write_atomic
from bootcd.host.process import ProcessId
from bootcd.model.errors import BackendFailed
from bootcd.model.job import WorkerHandle

log = logging.getLogger(__name__)

Journal = Callable[[WorkerHandle], Awaitable[None]]


class Runner(Protocol):
    async def start(self, uuid: str, argv: Sequence[str], journal: Journal) -> WorkerHandle:
        """Start a worker; `journal` has returned before its first instruction.

        Raises BackendFailed, with nothing left running.
        """

    async def alive(self, handle: WorkerHandle) -> bool:
        """Tell whether the worker is still at work."""

    async def wait(self, handle: WorkerHandle) -> None:
        """Return when the worker has ended, whoever started it. May be cancelled."""

    async def terminate(self, handle: WorkerHandle) -> None:
        """Ask the worker to stop; nothing if it has ended."""

    async def kill(self, handle: WorkerHandle) -> None:
        """End the worker and all it started; nothing if it has ended."""

    async def log(self, handle: WorkerHandle) -> bytes:
        """Return the end of what the worker has printed; nothing where its job has a file for that."""


class SubprocessRunner:
    """Workers as processes in sessions of their own.

    `open_log` gives the descriptor to which the worker of a job prints; it is closed here.
    """

    # The worker is executed once a line comes; if the daemon dies before, end of file comes instead.
    _GATE = ("/bin/sh", "-c", 'read -r line && exec "$@" </dev/null', "bootcd-worker")

    def __init__(self, open_log: Callable[[str], int]) -> None:
        self._open_log = open_log

    async def start(self, uuid: str, argv: Sequence[str], journal: Journal) -> WorkerHandle:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(writer, False)
        started: ProcessId | None = None
        try:
            started = await asyncio.to_thread(self._spawn, uuid, argv, reader)
            handle = WorkerHandle(pid=started.pid, start_ticks=started.start_ticks)
            await journal(handle)
            os.write(writer, b"go\n")
        except BaseException as error:
            os.close(writer)
            writer = -1
            if started is not None:
                await process.wait(started)
            if isinstance(error, OSError):
                raise BackendFailed(f"the worker cannot be started: {error.strerror}") from error
            raise
        finally:
            os.close(reader)
            if writer >= 0:
                os.close(writer)
        return handle

    def _spawn(self, uuid: str, argv: Sequence[str], gate: int) -> ProcessId:
        output = self._open_log(uuid)
        try:
            return process.spawn((*self._GATE, *argv), stdin=gate, stdout=output, stderr=output)
        finally:
            os.close(output)

    async def alive(self, handle: WorkerHandle) -> bool:
        return await process.is_alive(_identity(handle))

    async def wait(self, handle: WorkerHandle) -> None:
        await process.wait(_identity(handle))

    async def terminate(self, handle: WorkerHandle) -> None:
        await asyncio.to_thread(process.signal_process, _identity(handle), signal.SIGTERM)

    async def kill(self, handle: WorkerHandle) -> None:
        await asyncio.to_thread(process.signal_process, _identity(handle), signal.SIGKILL, group=True)

    async def log(self, handle: WorkerHandle) -> bytes:
        return b""


_COMMON_PROPERTIES = (
    "Type=exec",
    "KillMode=mixed",  # SIGTERM to the worker, and at its end SIGKILL to what it left behind
    "TimeoutStopSec=30",
    "Nice=5",
    "IOSchedulingClass=best-effort",
    "IOSchedulingPriority=7",  # not idle: on a busy host an update would then never end
    "MemoryHigh=512M",
    "LimitCORE=0",  # it holds credentials
    "OOMScoreAdjust=200",
    "UMask=0022",
)
_SYSTEM_PROPERTIES = (
    "PrivateMounts=yes",  # the worker makes its own /sysroot and /boot writable, nobody else's
    "PrivateTmp=yes",
    "ProtectHome=read-only",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectKernelTunables=yes",
    "RestrictRealtime=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    "LockPersonality=yes",
)
"""What a worker can be denied although it deploys a system: never capabilities, devices, /etc, /boot
or new privileges, which libostree and boot loader tools may need. A user manager refuses most of it."""

_PASSED_ENVIRONMENT = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
# EnvironmentFile= of systemd.exec(5): in double quotes a backslash makes these mean themselves.
_QUOTED, _ESCAPE = re.compile(r'(["\\$`])'), r"\\\1"
_COMMAND_SECS = 20.0
_RETRY_SECS = 2.0
_OUTPUT_LIMIT = 16 << 10
_LOG_LINES = 2000
LOG_LIMIT = 1 << 20
"Bytes of a journal's lines; a line of a worker's log has some hundred."


class SystemdRunner:
    """Workers as transient units `bootcd-job-<uuid>.service`; their output goes to the journal."""

    def __init__(self, environment_file: Path, scope: Literal["system", "user"] = "system") -> None:
        """`environment_file` is written anew for every worker that has to be told of web proxies."""
        self._environment_file = environment_file
        self._scope = f"--{scope}"
        self._properties = _COMMON_PROPERTIES + (_SYSTEM_PROPERTIES if scope == "system" else ())

    async def start(self, uuid: str, argv: Sequence[str], journal: Journal) -> WorkerHandle:
        handle = WorkerHandle(unit=f"bootcd-job-{uuid}.service")
        await journal(handle)
        environment = await asyncio.to_thread(self._pass_environment)
        command = (
            "systemd-run",
            self._scope,
            "--quiet",
            "--collect",
            "--no-ask-password",
            f"--unit={handle.unit}",
            f"--description=Update job {uuid}",
            *(f"--property={entry}" for entry in self._properties),
            *(f"--property=EnvironmentFile={path}" for path in environment),
            "--",
            *argv,
        )
        try:
            await _command(*command)
        except BackendFailed:
            await self._call_off(handle)
            raise
        return handle

    async def _call_off(self, handle: WorkerHandle) -> None:
        """Stop what the manager, slow to answer, may have started or be about to start."""
        try:
            await _command("systemctl", self._scope, "--no-block", "stop", handle.unit)
        except BackendFailed as error:
            log.debug("%s was not started: %s", handle.unit, error)

    def _pass_environment(self) -> list[Path]:
        """Write what the worker is to know of our environment; nothing if there is nothing.

        To a file, as a proxy's address may hold a password, and a unit's properties are for everybody.
        """
        lines = [
            f'{name}="{_QUOTED.sub(_ESCAPE, value)}"\n'
            for name in _PASSED_ENVIRONMENT
            if (value := os.environ.get(name)) and value.isprintable()
        ]
        if not lines:
            return []
        try:
            write_atomic(self._environment_file, "".join(lines).encode(), durable=False)
        except OSError as error:
            raise BackendFailed(f"{self._environment_file} cannot be written: {error.strerror}") from error
        return [self._environment_file]

    async def alive(self, handle: WorkerHandle) -> bool:
        state, pid = await self._show(handle)
        return pid != 0 or state == "activating"

    async def wait(self, handle: WorkerHandle) -> None:
        while True:
            try:
                state, pid = await self._show(handle)
                if pid:
                    identity = await asyncio.to_thread(process.identify, pid)
                    # Asked again, so that the identity is of the unit's process and of no later one.
                    if identity is not None and await self._show(handle) == (state, pid):
                        await process.wait(identity)
                        return
                elif state != "activating":
                    return
            except BackendFailed as error:
                log.warning("cannot watch %s, trying again: %s", handle.unit, error)
            await asyncio.sleep(_RETRY_SECS)

    async def terminate(self, handle: WorkerHandle) -> None:
        await self._signal(handle, "--kill-who=main", "--signal=SIGTERM")

    async def kill(self, handle: WorkerHandle) -> None:
        await self._signal(handle, "--kill-who=all", "--signal=SIGKILL")

    async def _signal(self, handle: WorkerHandle, *options: str) -> None:
        try:
            await _command("systemctl", self._scope, "kill", *options, handle.unit)
        except BackendFailed:
            if await self.alive(handle):
                raise

    async def _show(self, handle: WorkerHandle) -> tuple[str, int]:
        properties = ("--property=ActiveState", "--property=MainPID")
        output = await _command("systemctl", self._scope, "show", *properties, handle.unit)
        values = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
        pid = values.get("MainPID", "")
        return values.get("ActiveState", ""), int(pid) if pid.isascii() and pid.isdigit() else 0

    async def log(self, handle: WorkerHandle) -> bytes:
        unit = "--unit" if self._scope == "--system" else "--user-unit"
        options = ("--quiet", "--no-pager", "--output=short-iso", f"--lines={_LOG_LINES}")
        return await _output("journalctl", *options, f"{unit}={handle.unit}", limit=LOG_LIMIT)


class HandleRunner:
    """Starts workers one way and keeps track of those that were started the other way before."""

    def __init__(self, starter: Runner, *, units: Runner, processes: Runner) -> None:
        self._starter = starter
        self._units = units
        self._processes = processes

    async def start(self, uuid: str, argv: Sequence[str], journal: Journal) -> WorkerHandle:
        return await self._starter.start(uuid, argv, journal)

    async def alive(self, handle: WorkerHandle) -> bool:
        return await self._of(handle).alive(handle)

    async def wait(self, handle: WorkerHandle) -> None:
        await self._of(handle).wait(handle)

    async def terminate(self, handle: WorkerHandle) -> None:
        await self._of(handle).terminate(handle)

    async def kill(self, handle: WorkerHandle) -> None:
        await self._of(handle).kill(handle)

    async def log(self, handle: WorkerHandle) -> bytes:
        return await self._of(handle).log(handle)

    def _of(self, handle: WorkerHandle) -> Runner:
        return self._units if handle.unit else self._processes


def choose_runner(
    setting: Literal["auto", "systemd", "subprocess"], open_log: Callable[[str], int], environment_file: Path
) -> Runner:
    """Return the runner a host is to use; "auto" is systemd where it is the system manager and we are root.

    That directory is what sd_booted(3) looks for. Blocks.
    """
    units, processes = SystemdRunner(environment_file), SubprocessRunner(open_log)
    return HandleRunner(units if _by_units(setting) else processes, units=units, processes=processes)


def _by_units(setting: Literal["auto", "systemd", "subprocess"]) -> bool:
    if setting == "auto":
        return Path("/run/systemd/system").is_dir() and os.geteuid() == 0
    return setting == "systemd"


def unconfined(
    argv: Sequence[str],
    setting: Literal["auto", "systemd", "subprocess"],
    *,
    scope: Literal["system", "user"] = "system",
    limit_secs: float,
) -> tuple[str, ...]:
    """Return a command that runs another outside of what this process may do, with its output and exit code.

    As a unit of its own, ended after `limit_secs`; where jobs are no units, as it is. Blocks.
    """
    if not _by_units(setting):
        return tuple(argv)
    options = ("--quiet", "--collect", "--no-ask-password", "--pipe", "--wait", "--service-type=exec")
    limit = f"--property=RuntimeMaxSec={limit_secs:g}"
    return ("systemd-run", f"--{scope}", *options, limit, "--description=Look at the host", "--", *argv)


def _identity(handle: WorkerHandle) -> ProcessId:
    return ProcessId(handle.pid, handle.start_ticks)


async def _command(*argv: str) -> str:
    return (await _output(*argv, limit=_OUTPUT_LIMIT)).decode(errors="replace")


async def _output(*argv: str, limit: int) -> bytes:
    try:
        done = await process.run(argv, deadline_secs=_COMMAND_SECS, limit=limit)
    except TimeoutError as error:
        raise BackendFailed(f"{argv[0]} did not answer within {_COMMAND_SECS:g} s") from error
    except OSError as error:
        raise BackendFailed(f"{argv[0]} cannot be run: {error.strerror}") from error
    if done.status != 0:
        words = " ".join(done.stderr.decode(errors="replace").split())
        raise BackendFailed(f"{argv[0]} failed: {words or f'exit status {done.status}'}")
    return done.stdout
