"""Runs of the `bootc` command: one at a time, with deadlines, stopped when their task is cancelled.

A run that pulls tells its progress on a pipe, in JSON lines that grow with the image; one that says nothing
for long is stopped. bootc may be interrupted at any moment, and keeps the layers that are finished.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
from collections.abc import Callable, Sequence

from bootcd.bootc.output import failure, parse_progress, parse_status
from bootcd.host import process
from bootcd.model.errors import BackendFailed, Stalled, Unsupported
from bootcd.model.host import Host
from bootcd.model.job import Progress

log = logging.getLogger(__name__)

SHORT_DEADLINE_SECS = 300.0
"Also of status, which waits for the lock while somebody else upgrades."
IDLE_DEADLINE_SECS = 1800.0
"Of a pull without a word; merging and writing a large image is one step."
STOP_DEADLINE_SECS = 30.0
MAX_LINE_BYTES = 4 << 20
_OUTPUT_LIMIT = 4 << 20
_LOGGED = 4000


class Bootc:
    """The command of this host."""

    def __init__(self, program: str = "bootc") -> None:
        self._program = program

    def require(self) -> None:
        """Raise Unsupported unless the command is there."""
        if shutil.which(self._program) is None:
            raise Unsupported(
                "this host is managed through the bootc command, which is not there",
                hint="install bootc, or set backend in the section [host] of the configuration",
            )

    async def status(self) -> Host:
        """Return what `bootc status` says of the host."""
        output = await self.run("read the state of the host", "status", "--format=json", "--format-version=1")
        return parse_status(output)

    async def run(self, doing: str, *arguments: str) -> bytes:
        """Run a command that does not pull to its end; returns what it printed.

        Raises: what `failure` returns, BackendFailed if it cannot be run or takes too long.
        """
        self.require()
        argv = (self._program, *arguments)
        try:
            done = await process.run(argv, deadline_secs=SHORT_DEADLINE_SECS, limit=_OUTPUT_LIMIT)
        except TimeoutError as error:
            raise BackendFailed(f"bootc did not {doing} within {SHORT_DEADLINE_SECS:g} s") from error
        except OSError as error:
            raise BackendFailed(f"bootc cannot be started: {error.strerror}") from error
        if done.status:
            log.warning("bootc %s: %s", arguments[0], done.stderr.decode(errors="replace")[-_LOGGED:])
            raise failure(doing, done.status, done.stderr)
        return done.stdout

    async def pull(self, doing: str, arguments: Sequence[str], report: Callable[[Progress], None]) -> None:
        """Run a command that pulls, reporting its progress. Cancelling the task stops it.

        Raises: as `run`; Stalled when it says nothing for too long.
        """
        self.require()
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            child = await asyncio.create_subprocess_exec(
                *(self._program, *arguments, f"--progress-fd={writer}"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=[writer],
                start_new_session=True,
            )
        except OSError as error:
            os.close(reader)
            raise BackendFailed(f"bootc cannot be started: {error.strerror}") from error
        finally:
            os.close(writer)
        assert child.stderr is not None
        words = asyncio.create_task(_last_words(child.stderr))
        try:
            await _follow(reader, report)
            async with asyncio.timeout(IDLE_DEADLINE_SECS):
                status = await child.wait()
                stderr = await words
        except TimeoutError:
            raise Stalled(f"bootc has said nothing for {IDLE_DEADLINE_SECS:g} s and was stopped") from None
        finally:
            if child.returncode is None:
                await asyncio.shield(_stop(child))
            words.cancel()
        if status:
            log.warning("bootc %s: %s", arguments[0], stderr.decode(errors="replace")[-_LOGGED:])
            raise failure(doing, status, stderr)


async def _follow(descriptor: int, report: Callable[[Progress], None]) -> None:
    """Report each line of a pipe until its end; raises TimeoutError when none comes. Closes it."""
    stream = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(descriptor, "rb", buffering=0)
    )
    try:
        while True:
            try:
                async with asyncio.timeout(IDLE_DEADLINE_SECS):
                    line = await stream.readline()
            except ValueError:  # longer than any line of use; what follows is
                continue
            if not line:
                return
            if (progress := parse_progress(line)) is not None:
                report(progress)
    finally:
        transport.close()


async def _last_words(stream: asyncio.StreamReader) -> bytes:
    """Read a stream to its end, and keep the last of it."""
    words = b""
    while chunk := await stream.read(1 << 16):
        words = (words + chunk)[-(1 << 16) :]
    return words


async def _stop(child: asyncio.subprocess.Process) -> None:
    """Ask the command to stop, and end it with all it started if it does not."""
    for number, secs in ((signal.SIGTERM, STOP_DEADLINE_SECS), (signal.SIGKILL, STOP_DEADLINE_SECS)):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            pass
        try:
            async with asyncio.timeout(secs):
                await child.wait()
        except TimeoutError:
            continue
        return
