"""What `bootcd-health` has found, as the daemon follows it: read at start and at every change of the file.

The daemon only reads. A version that failed is not taken again unasked, and a host that went back by
itself says so in its job history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from bootcd.host.documents import load_document
from bootcd.host.watch import DirectoryWatch
from bootcd.model.health import RECORD_LIMIT, FailedBoot, HealthRecord
from bootcd.model.job import REASON_LIMIT, JobKind, JobRecord, JobRequest, JobState, Outcome, Requester

REQUESTER = Requester(name="health")


class HealthFile:
    """Awaits `seen` with the record at the start, and after every change of the file."""

    def __init__(self, path: Path, seen: Callable[[HealthRecord], Awaitable[None]]) -> None:
        self._path = path
        self._seen = seen
        self._last = HealthRecord()
        self._watch = DirectoryWatch((path.parent,), self._changed)
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._watch.start()
        await self._look()

    def stop(self) -> None:
        self._watch.stop()
        for task in self._tasks:
            task.cancel()

    def _changed(self) -> None:
        task = asyncio.get_running_loop().create_task(self._look())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(self) -> None:
        async with self._turn:
            record = await asyncio.to_thread(load_document, self._path, RECORD_LIMIT, HealthRecord)
            # Others write into the directory too.
            if record is not None and record != self._last:
                self._last = record
                await self._seen(record)


def history_entry(failure: FailedBoot) -> JobRecord:
    """Return the entry of a host that went back by itself."""
    name = failure.version or failure.digest
    return JobRecord(
        number=0,
        request=JobRequest(uuid=failure.uuid, kind=JobKind.ROLLBACK),
        requester=REQUESTER,
        state=JobState.DONE,
        created=failure.time,
        finished=failure.time,
        outcome=Outcome(
            state=JobState.DONE,
            changed=True,
            reboot=True,
            reason=f"the first boot of {name} was bad: {'; '.join(failure.reasons)}"[:REASON_LIMIT],
        ),
    )
