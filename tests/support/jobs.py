"""A job manager over real worker processes that do what a test says."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from bootcd.jobs.events import JobEvent
from bootcd.jobs.history import History
from bootcd.jobs.manager import JobManager, Limits
from bootcd.jobs.records import JobStore
from bootcd.jobs.runner import Runner, SubprocessRunner
from bootcd.model.job import JobKind, JobRecord, JobRequest, JobState, Requester, WorkerSettings

SCRIPTED_WORKER = (sys.executable, "-I", "-S", str(Path(__file__).with_name("scripted_worker.py")))
SOMEBODY = Requester(uid=1000, pid=1, name="somebody")
DONE = ["outcome", {"state": "done"}]


class SetClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.time = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def boottime(self) -> float:
        return self.time.timestamp()

    def move(self, **span: float) -> None:
        self.time += timedelta(**span)


class WorkerScript:
    """What workers on one system root do; see tests/support/scripted_worker.py for the steps."""

    def __init__(self, sysroot: Path) -> None:
        self.sysroot = sysroot
        sysroot.mkdir()
        os.mkfifo(sysroot / "gate")
        # Held open for both directions, so that neither side ever waits to open it.
        self._gate = os.open(sysroot / "gate", os.O_RDWR | os.O_CLOEXEC)
        self.steps(["ready"], DONE)

    def close(self) -> None:
        """End the workers a failed test left holding."""
        os.close(self._gate)
        for pid in self.pids():
            command = Path(f"/proc/{pid}/cmdline")
            if command.exists() and os.fsencode(self.sysroot.parent) in command.read_bytes():
                os.kill(pid, signal.SIGKILL)

    def steps(self, *steps: list[Any]) -> None:
        (self.sysroot / "script.json").write_text(json.dumps(steps))

    def release(self) -> None:
        """Let one worker that holds go on."""
        os.write(self._gate, b"\n")

    def pids(self) -> list[int]:
        """Process ids of all workers ever started, in order."""
        path = self.sysroot / "runs"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def request(self, kind: JobKind = JobKind.CHECK, **fields: Any) -> JobRequest:
        settings = WorkerSettings(sysroot=str(self.sysroot))
        return JobRequest(uuid=str(uuid4()), kind=kind, settings=settings, **fields)


class JobBench:
    """One daemon's life over a state directory; make another for the next life."""

    def __init__(
        self,
        root: Path,
        *,
        clock: SetClock | None = None,
        limits: Limits | None = None,
        runner: Callable[[JobStore], Runner] = lambda store: SubprocessRunner(store.open_log),
    ) -> None:
        self.clock = clock or SetClock()
        self.store = JobStore(root / "jobs")
        self.history = History(root / "history.sqlite")
        self.manager = JobManager(
            store=self.store,
            history=self.history,
            runner=runner(self.store),
            socket_path=root / "worker.sock",
            worker=SCRIPTED_WORKER,
            clock=self.clock,
            limits=limits,
        )
        self.events: list[JobEvent] = []
        self.settled: list[JobRecord] = []
        self._happened = asyncio.Event()

    async def __aenter__(self) -> JobBench:
        async def settle(record: JobRecord) -> None:
            self.settled.append(record)

        await self.manager.start(on_event=self._note, settle=settle)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.manager.stop()

    def _note(self, event: JobEvent) -> None:
        self.events.append(event)
        self._happened.set()

    async def until(self, wanted: Callable[[JobEvent], bool]) -> JobEvent:
        """Return the first event that is wanted, past or to come."""
        seen = 0
        while True:
            for event in self.events[seen:]:
                if wanted(event):
                    return event
            seen = len(self.events)
            self._happened.clear()
            await self._happened.wait()

    async def stored(self) -> list[JobRecord]:
        """The jobs on disk, by number."""
        return await asyncio.to_thread(self.store.load_all)

    async def remembered(self) -> list[JobRecord]:
        """The jobs in the history, newest first."""
        return await asyncio.to_thread(self.history.recent, 1000)

    def record(self, uuid: str) -> JobRecord:
        return next(record for record in self.manager.jobs() if record.request.uuid == uuid)


class Changes:
    """Is called at each change, and has a test wait until something holds."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def __call__(self) -> None:
        self._changed.set()

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not true():
                self._changed.clear()
                await self._changed.wait()


async def eventually(holds: Callable[[], bool]) -> None:
    """Return once something holds that nobody tells of, such as the end of a process."""
    while not holds():  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)


def ended_record(number: int, request: JobRequest | None = None, **fields: Any) -> JobRecord:
    """Make the record of a job that ended."""
    values: dict[str, Any] = {
        "number": number,
        "request": request or JobRequest(uuid=str(uuid4()), kind=JobKind.CHECK),
        "requester": SOMEBODY,
        "state": JobState.DONE,
        "created": datetime(2026, 3, 1, 11, 59, tzinfo=UTC),
        "finished": datetime(2026, 3, 1, 12, tzinfo=UTC),
    }
    return JobRecord(**(values | fields))
