"""`bootcd-worker`: one process for one job.

It outlives the daemon that started it, so everything that matters passes through files (see
`bootcd.model.job`); the datagrams are for whoever happens to listen. SIGTERM cancels the job. The exit
code is 0 when an outcome was written, whatever it says.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from bootcd.engine.protocol import Engine
from bootcd.engine.scope import tracked_policy
from bootcd.host.clock import SystemClock
from bootcd.host.composefs import AUTO, BOOTC, OSTREE, choose_backend
from bootcd.host.files import read_bounded, write_atomic
from bootcd.host.mounts import unshare_mounts
from bootcd.host.process import forbid_core_dumps
from bootcd.model.errors import BootcdError, Cancelled, InternalError
from bootcd.model.job import JobRequest, JobState, Outcome, Progress, WorkerMessage
from bootcd.model.report import HostReport
from bootcd.ostree.status import read_report
from bootcd.ostree.sysroot import Sysroot

_REQUEST_LIMIT = 1 << 20
_MIN_INTERVAL_SECS = 0.2

log = logging.getLogger("bootcd.worker")


def main() -> int:
    parser = argparse.ArgumentParser(prog="bootcd-worker", description="Run one job of the bootcd service.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="do the job a directory describes")
    run.add_argument("directory", type=Path)
    run.add_argument("--socket", type=Path, required=True, help="datagram socket that takes progress")
    inspect = verbs.add_parser("inspect", help="print what is on the host")
    diff = verbs.add_parser("diff", help="print what differs between two deployments")
    diff.add_argument("before", metavar="ID")
    diff.add_argument("after", metavar="ID")
    config = verbs.add_parser("config-diff", help="print what differs between /etc and the image's")
    for verb in (inspect, diff, config):
        verb.add_argument("--sysroot", type=Path, default=Path("/"))
    inspect.add_argument("--backend", choices=(AUTO, OSTREE, BOOTC), default=AUTO)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    match arguments.verb:
        case "inspect":
            return _answer(lambda: _inspect(arguments.sysroot, arguments.backend))
        case "diff":
            return _answer(lambda: _diff(arguments.sysroot, arguments.before, arguments.after))
        case "config-diff":
            return _answer(lambda: _config_diff(arguments.sysroot))
        case _:
            return _run(arguments.directory, arguments.socket)


class _Document(Protocol):
    def to_json(self) -> str: ...


def _inspect(sysroot: Path, backend: str) -> _Document:
    if choose_backend(backend, sysroot) == BOOTC:
        from bootcd.engine.bootc import BootcEngine

        return BootcEngine().read_report()
    return _report(sysroot)


def _diff(sysroot: Path, before: str, after: str) -> _Document:
    from bootcd.ostree.diff import diff_deployments

    return diff_deployments(Sysroot(sysroot), before, after)


def _config_diff(sysroot: Path) -> _Document:
    from bootcd.ostree.config_diff import diff_config

    return diff_config(Sysroot(sysroot))


def _answer(question: Callable[[], _Document]) -> int:
    """Print a document, or the error there was instead."""
    try:
        document = question().to_json()
    except BootcdError as error:
        sys.stdout.write(error.info().model_dump_json())
        return 1
    except Exception:
        log.exception("the question could not be answered")
        sys.stdout.write(_internal().info().model_dump_json())
        return 1
    sys.stdout.write(document)
    return 0


def _report(sysroot: Path) -> HostReport:
    opened = Sysroot(sysroot)
    try:
        tracked = opened.tracked_image()
    except BootcdError:
        tracked = None
    return read_report(opened).model_copy(update={"trust": tracked_policy(Path("/"), tracked)})


def _run(directory: Path, socket_path: Path) -> int:
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
            return Outcome(state=JobState.FAILED, error=_internal().info())
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


def _internal() -> InternalError:
    return InternalError("internal error in the worker", hint="its log in the journal has the details")


if __name__ == "__main__":
    sys.exit(main())
