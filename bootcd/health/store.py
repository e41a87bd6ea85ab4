"""The record of good and bad boots on disk: whole, durable, changed by one process at a time.

<state>/health.json     HealthRecord, for root alone
<runtime>/health.json   likewise without excerpts of the journal, for everybody
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from bootcd.host.documents import load_document
from bootcd.host.files import write_atomic
from bootcd.model.health import RECORD_LIMIT, HealthRecord

NAME = "health.json"
_LOCK = "health.lock"


class HealthStore:
    """Every method blocks; OSError where the disk refuses."""

    def __init__(self, state: Path, runtime: Path) -> None:
        self._state = state
        self._runtime = runtime

    def load(self) -> HealthRecord:
        """Read the record; an empty one if there is none or it cannot be understood."""
        return load_document(self._state / NAME, RECORD_LIMIT, HealthRecord) or HealthRecord()

    def update(self, change: Callable[[HealthRecord], HealthRecord]) -> HealthRecord:
        """Change the record; when this returns, the change survives a power cut."""
        self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._runtime.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = os.open(self._state / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            record = change(self.load())
            write_atomic(self._state / NAME, record.model_dump_json().encode())
            write_atomic(self._runtime / NAME, record.to_public(), mode=0o644, durable=False)
        finally:
            os.close(lock)
        return record
