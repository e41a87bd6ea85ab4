"""What `bootcd-health` has found, as the daemon follows it: read at start and at every change of the file.

The daemon only reads; what has to be forgotten, `bootcd-health` forgets. A version that failed is not taken
again unasked, and a host that went back by itself says so in its job history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from bootcd.host import process
from bootcd.host.documents import load_document
from bootcd.host.watch import DirectoryWatch
from bootcd.model.errors import BackendFailed, InvalidArguments
from bootcd.model.health import RECORD_LIMIT, FailedBoot, HealthRecord
from bootcd.model.job import REASON_LIMIT, JobKind, JobRecord, JobRequest, JobState, Outcome, Requester

_CLEAR_SECS = 20.0
_OUTPUT_LIMIT = 4096
_UNKNOWN = 2
"Of `bootcd-health clear`: that version has not failed."
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
        await self.look()

    def stop(self) -> None:
        self._watch.stop()
        for task in self._tasks:
            task.cancel()

    def _changed(self) -> None:
        task = asyncio.get_running_loop().create_task(self.look())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def look(self) -> None:
        """Read it now, and return when `seen` has."""
        async with self._turn:
            record = await asyncio.to_thread(load_document, self._path, RECORD_LIMIT, HealthRecord)
            # Others write into the directory too.
            if record is not None and record != self._last:
                self._last = record
                await self._seen(record)


async def clear_failures(command: Sequence[str], state: Path, runtime: Path, digest: str) -> tuple[str, ...]:
    """Let versions that failed be taken again, all or the one of a digest; return which ones those are.

    Raises InvalidArguments if that one has not failed, and BackendFailed.
    """
    places = (f"--state-dir={state}", f"--runtime-dir={runtime}")
    argv = (*command, *places, "clear", *([digest] if digest else []))
    try:
        done = await process.run(argv, deadline_secs=_CLEAR_SECS, limit=_OUTPUT_LIMIT)
    except (OSError, TimeoutError) as error:
        raise BackendFailed("bootcd-health could not be run") from error
    if done.status == _UNKNOWN:
        raise InvalidArguments("no version of this digest has failed here", hint="see: bootcctl health")
    if done.status != 0:
        raise BackendFailed(
            "the record of failed versions cannot be changed", hint="see: journalctl -t bootcd"
        )
    return tuple(done.stdout.decode(errors="replace").split())


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
