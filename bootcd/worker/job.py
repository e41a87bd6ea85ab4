"""The life of a job in its own process.

It outlives the daemon that started it, so everything that matters passes through files (see
`bootcd.model.job`); the datagrams are for whoever happens to listen. SIGTERM cancels the job. The exit
code is 0 when an outcome was written, whatever it says.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from pathlib import Path

from pydantic import ValidationError

from bootcd.engine.protocol import Engine
from bootcd.host.clock import SystemClock
from bootcd.host.composefs import BOOTC, choose_backend
from bootcd.host.files import read_bounded, write_atomic
from bootcd.host.mounts import unshare_mounts
from bootcd.host.process import forbid_core_dumps
from bootcd.model.errors import BootcdError, Cancelled
from bootcd.model.job import JobRequest, JobState, Outcome, Progress, WorkerMessage
from bootcd.worker.defect import defect

_REQUEST_LIMIT = 1 << 20
_MIN_INTERVAL_SECS = 0.2

log = logging.getLogger("bootcd.worker")


def run(directory: Path, socket_path: Path) -> int:
    try:
        text = read_bounded(directory / "request.json", _REQUEST_LIMIT)
        request = JobRequest.model_validate_json(text)
    except OSError as error:
        log.error("the request in %s cannot be read: %s", directory, error.strerror)  # noqa: TRY400  # one line
        return 1
    except ValidationError as error:
        log.error("the request in %s has %d errors", directory, error.error_count())  # noqa: TRY400
        return 1
    # It will hold credentials.
    forbid_core_dumps()
    own_mounts = unshare_mounts()
    try:
        asyncio.run(_Worker(request, directory, socket_path, own_mounts=own_mounts).work())
    except OSError as error:
        log.error("the outcome of job %s cannot be written: %s", request.uuid, error.strerror)  # noqa: TRY400
        return 1
    return 0


class _Worker:
    """The life of one job: checks, work, outcome."""

    def __init__(self, request: JobRequest, directory: Path, socket_path: Path, *, own_mounts: bool) -> None:
        self._request = request
        self._directory = directory
        self._own_mounts = own_mounts
        self._channel = _Channel(socket_path)
        self._progress = Progress()
        self._changed = asyncio.Event()

    async def work(self) -> None:
        """Do the job and leave its outcome. Raises OSError if that cannot be written."""
        loop = asyncio.get_running_loop()
        job = asyncio.create_task(self._job())
        loop.add_signal_handler(signal.SIGTERM, self._cancel, job)
        outcome = await self._end_of(job)
        # While the signal is still handled: once the loop is closed, it would take the outcome with it.
        data = outcome.model_dump_json().encode()
        await asyncio.to_thread(write_atomic, self._directory / "outcome.json", data, durable=True)
        self._channel.send(WorkerMessage(uuid=self._request.uuid, finished=True))

    async def _end_of(self, job: asyncio.Task[Outcome]) -> Outcome:
        sender = asyncio.create_task(self._send_progress())
        try:
            return await job
        except asyncio.CancelledError:
            error = Cancelled("the job was cancelled")
            return Outcome(state=JobState.CANCELLED, error=error.info())
        except BootcdError as error:
            state = JobState.CANCELLED if isinstance(error, Cancelled) else JobState.FAILED
            return Outcome(state=state, error=error.info())
        except Exception:
            log.exception("job %s failed with an internal error", self._request.uuid)
            return Outcome(state=JobState.FAILED, error=defect().info())
        finally:
            sender.cancel()

    async def _job(self) -> Outcome:
        def open_and_prepare() -> Engine:
            engine = self._engine()
            engine.prepare(self._request)
            return engine

        engine = await asyncio.to_thread(open_and_prepare)
        self._channel.send(WorkerMessage(uuid=self._request.uuid, ready=True))
        if self._request.fleet_lock and self._request.settings.fleet_lock_url:
            from bootcd.engine.fleet import run_with_lock

            return await run_with_lock(engine, self._request, self._report)
        return await engine.run(self._request, self._report)

    def _engine(self) -> Engine:
        # Half of what a worker imports; inspecting the host needs none of it, and is frequent.
        settings = self._request.settings
        if choose_backend(settings.backend, Path(settings.sysroot)) == BOOTC:
            from bootcd.engine.bootc import BootcEngine

            return BootcEngine(settings=settings)
        from bootcd.engine.native import NativeEngine

        return NativeEngine(settings, SystemClock(), own_mounts=self._own_mounts)

    def _cancel(self, job: asyncio.Task[Outcome]) -> None:
        if self._progress.cancellable:
            job.cancel()

    def _report(self, progress: Progress) -> None:
        changed_phase = progress.phase is not self._progress.phase
        self._progress = progress
        if changed_phase:
            self._channel.send(WorkerMessage(uuid=self._request.uuid, progress=progress))
        self._changed.set()

    async def _send_progress(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._channel.send(WorkerMessage(uuid=self._request.uuid, progress=self._progress))
            await asyncio.sleep(_MIN_INTERVAL_SECS)


class _Channel:
    """Datagrams to the daemon; nobody may be listening, and that is no error."""

    def __init__(self, path: Path) -> None:
        self._path = os.fspath(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    def send(self, message: WorkerMessage) -> None:
        try:
            self._socket.sendto(message.model_dump_json().encode(), self._path)
        except OSError as error:
            log.debug("the daemon does not listen: %s", error.strerror)
