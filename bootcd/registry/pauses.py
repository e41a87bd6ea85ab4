"""Servers that asked to be left alone for a while, remembered from job to job.

A worker ends with its job, and the next one would ask at once what the last one was told not to. So
what 429 and 503 answers say in Retry-After is kept in a file. A pause is never longer than an hour, and
one whose beginning lies in the future is none: a clock that was wrong costs a request, not an update.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, timedelta
from pathlib import Path

from bootcd.host.clock import Clock
from bootcd.host.files import read_bounded, write_atomic
from bootcd.model.errors import InvalidConfig
from bootcd.oci.strictjson import parse_object

log = logging.getLogger(__name__)

MAX_PAUSE_SECS = 3600
_MAX_BYTES = 64 << 10
_MAX_SERVERS = 64
_OVER_SECS = 1.0
"What is left of a pause that is over: a sleep of its length may end a little early."


class Pauses:
    """The pauses of servers, by `host:port`. `path` is the file that keeps them, if any does."""

    def __init__(self, path: Path | None, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._known: dict[str, tuple[float, float, int]] = {}
        "When it was asked for and until when, by the wall clock, and with which status."

    def load(self) -> None:
        """Read the file. Blocks. One that cannot be read or understood holds nothing."""
        if self._path is None:
            return
        try:
            data = read_bounded(self._path, _MAX_BYTES)
            document = parse_object(data, what="pauses", limit_bytes=_MAX_BYTES, error=InvalidConfig)
        except (OSError, InvalidConfig):
            return
        for server, entry in document.items():
            match entry:
                case [int() | float() as since, int() | float() as until, 429 | 503 as status]:
                    self._known[server] = (since, until, status)
                case _:
                    pass
        self._drop_ended()

    def remaining(self, server: str) -> tuple[int, float]:
        """Return the status a server asked with and the seconds it is still to be left alone, or 0, 0."""
        since, until, status = self._known.get(server, (0.0, 0.0, 0))
        now = self._clock.now().timestamp()
        left = until - now
        if since > now or not _OVER_SECS <= left <= MAX_PAUSE_SECS:
            return 0, 0.0
        return status, left

    def note(self, server: str, status: int, seconds: int) -> None:
        """Remember, on disk too, that a server asked to be left alone. Blocks."""
        now = self._clock.now()
        until = now + timedelta(seconds=min(seconds, MAX_PAUSE_SECS))
        self._drop_ended()
        if len(self._known) >= _MAX_SERVERS:
            return
        self._known[server] = (now.timestamp(), until.timestamp(), status)
        if self._path is None:
            return
        try:
            write_atomic(self._path, json.dumps(self._known).encode(), durable=False)
        except OSError as error:
            log.debug("the pause of %s until %s is not kept: %s", server, until.astimezone(UTC), error)

    def _drop_ended(self) -> None:
        self._known = {server: entry for server, entry in self._known.items() if self.remaining(server)[0]}
