"""JSON lines on a descriptor that was handed to the command: `--progress-fd`.

As with bootc: canonical JSON, a flush per line, at most five lines a second where they may be left out.
A reader who has gone, or does not read, ends the report and not the work.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import stat
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from bootcctl.exitcodes import Failure
from bootcctl.progressevents import ProgressEvents, end_event, failure_event, start_event

INTERVAL_SECS = 0.2
PATIENCE_SECS = 2.0
"With a reader who does not take what may not be left out."


class ProgressReport:
    """A context that ends the report in any case; without a descriptor it does nothing."""

    def __init__(self, descriptor: int | None, note: Callable[[str], None]) -> None:
        """`note` tells a person why there is no more to read.

        Raises:
            Failure: the descriptor is none that progress can be written to.
        """
        self._descriptor = descriptor
        self._note = note
        self._events = ProgressEvents()
        self._started = self._ended = False
        self._written_at = -INTERVAL_SECS
        if descriptor is not None:
            _require_pipe(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, Failure):
            self._end(failure_event(error.document()))
        elif error is not None:
            self._end(failure_event(Failure("Failed", "the command was ended").document()))

    def show(self, job: dict[str, Any]) -> None:
        """Write what is new of a job."""
        for event, optional in self._events.update(job):
            if not self._started:
                self._started = True
                self._write(start_event(), optional=False)
            self._write(event, optional=optional)

    def end(self, job: dict[str, Any]) -> None:
        """Write what is missing of a job that has ended, and its end."""
        self.show(job)
        self._end(end_event(job))

    def _end(self, event: dict[str, Any]) -> None:
        if not self._ended:
            self._ended = True
            self._write(event, optional=False)

    def _write(self, event: dict[str, Any], *, optional: bool) -> None:
        if self._descriptor is None:
            return
        now = time.monotonic()
        if optional and now - self._written_at < INTERVAL_SECS:
            return
        line = json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
        try:
            if not _takes(self._descriptor, 0.0 if optional else PATIENCE_SECS):
                if not optional:
                    self._give_up("its reader does not read")
                return
            os.write(self._descriptor, line.encode())
        except OSError as error:
            self._give_up(error.strerror or "it cannot be written")
            return
        self._written_at = now

    def _give_up(self, why: str) -> None:
        self._note(f"Progress is not written to descriptor {self._descriptor} any more: {why}")
        self._descriptor = None


def _require_pipe(descriptor: int) -> None:
    try:
        mode = os.fstat(descriptor).st_mode
        writable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    except OSError:
        raise Failure("InvalidArguments", f"descriptor {descriptor} of --progress-fd is not open") from None
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)) or not writable:
        raise Failure(
            "InvalidArguments",
            f"descriptor {descriptor} of --progress-fd is no writing end of a pipe or socket",
        )


def _takes(descriptor: int, patience_secs: float) -> bool:
    """Whether a line can be written without waiting: of a pipe that is ready, PIPE_BUF bytes (pipe(7))."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(patience_secs * 1000))
