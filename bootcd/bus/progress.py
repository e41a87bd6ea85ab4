"""Progress of a job as JSON lines in a pipe, for programs that read bootc's `--progress-fd`.

The lines are those of `bootcctl upgrade --progress-fd` (docs/progress-v0.schema.json), made in one place
for both. A reader is never waited for: one that does not keep up loses lines, but not the last.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from dbus_fast import unpack_variants

from bootcctl.documents import job_document
from bootcctl.progressevents import ProgressEvents, end_event, start_event
from bootcd.agent.interface import UpdateService
from bootcd.agent.snapshot import Change, JobChanged
from bootcd.bus.interfaces import JOB, JobView, job_path
from bootcd.model.errors import LimitsExceeded
from bootcd.model.job import JobRecord

PER_USER = 10
IN_ALL = 100
_INTERVAL_SECS = 0.2
_WAITING = 64
"Lines, beside the 64 KiB in the pipe; later ones are left out."


class ProgressPipes:
    """All pipes of one bus connection's callers."""

    def __init__(self, service: UpdateService) -> None:
        self._service = service
        self._open: dict[_Pipe, int] = {}
        "The user of each."

    def open(self, record: JobRecord, uid: int) -> int:
        """Return the end to read from of a new pipe. Raises LimitsExceeded and OSError."""
        own = Counter(self._open.values())[uid]
        if own >= PER_USER or len(self._open) >= IN_ALL:
            raise LimitsExceeded(
                f"{own} pipes with progress are open for this user and {len(self._open)} in all",
                hint="close one first",
            )
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        pipe = _Pipe(writer, record.request.uuid, self._closed)
        self._open[pipe] = uid
        pipe.unsubscribe = self._service.subscribe(pipe.observe)
        pipe.show(record, 0.0)
        return reader

    def close(self) -> None:
        """End all, without a last line."""
        for pipe in [*self._open]:
            pipe.close()

    def _closed(self, pipe: _Pipe) -> None:
        self._open.pop(pipe, None)


class _Pipe:
    def __init__(self, writer: int, uuid: str, on_closed: Callable[[_Pipe], None]) -> None:
        self.unsubscribe: Callable[[], None] = lambda: None
        self._writer = writer
        self._uuid = uuid
        self._on_closed = on_closed
        self._events = ProgressEvents()
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[bytes] = deque()
        self._told_at = -_INTERVAL_SECS
        self._started = self._ended = self._closed = False
        # Nothing can be read here: it is called for the error that says that the reader has gone.
        self._loop.add_reader(writer, self.close)

    def observe(self, change: Change) -> None:
        if isinstance(change, JobChanged) and change.record.request.uuid == self._uuid:
            self.show(change.record, change.eta_secs)

    def show(self, record: JobRecord, eta_secs: float) -> None:
        """Write what is new of the job, and at its end the last line."""
        if self._ended or self._closed:
            return
        shown = unpack_variants(JOB.render(JobView(record, eta_secs)))
        job = job_document(job_path(record), shown)
        for event, optional in self._events.update(job):
            self._line(event, optional=optional and self._started)
        if record.state.ended:
            self._ended = True
            self._waiting.append(_encoded(end_event(job)))
        self._flush()

    def _line(self, event: dict[str, Any], *, optional: bool = False) -> None:
        now = self._loop.time()
        if optional and (self._waiting or now - self._told_at < _INTERVAL_SECS):
            return
        if len(self._waiting) >= _WAITING:
            return
        if not self._started:
            self._started = True
            self._waiting.append(_encoded(start_event()))
        self._waiting.append(_encoded(event))
        self._told_at = now

    def _flush(self) -> None:
        """Write what the pipe takes now, and the rest when it takes more."""
        try:
            while self._waiting:
                written = os.write(self._writer, self._waiting[0])
                rest = self._waiting.popleft()[written:]
                if rest:
                    self._waiting.appendleft(rest)
        except BlockingIOError:
            self._loop.add_writer(self._writer, self._flush)
            return
        except BrokenPipeError:
            self.close()
            return
        self._loop.remove_writer(self._writer)
        if self._ended:
            self.close()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.unsubscribe()
        self._loop.remove_reader(self._writer)
        self._loop.remove_writer(self._writer)
        os.close(self._writer)
        self._on_closed(self)


def _encoded(event: dict[str, Any]) -> bytes:
    text = json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode(errors="replace") + b"\n"
