"""Ended jobs for good: one SQLite file, capped, readable by every later version.

    jobs(uuid PRIMARY KEY, number, kind, state, created, finished, record)

`record` is the JobRecord as JSON and is what is read back; the columns are for people with `sqlite3`.
`PRAGMA user_version` is the schema version and `_MIGRATIONS` the way there. A file of a newer version
is read, as versions only add, but not written. A file SQLite calls corrupt is set aside as
`<name>.corrupt-<n>` and a new one begun. Connections live for one call: at rest no memory is held.
The rollback journal is kept instead of a write-ahead log, which would leave two more files about.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from bootcd.model.errors import Unsupported
from bootcd.model.job import JobRecord

log = logging.getLogger(__name__)

ROWS = 10_000
"At some jobs a day this is years."
_KEPT_CORRUPT = 4
_BUSY_SECS = 5.0
_CORRUPT_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_MIGRATIONS = (
    """
    CREATE TABLE jobs (
        uuid TEXT PRIMARY KEY,
        number INTEGER NOT NULL,
        kind TEXT NOT NULL,
        state TEXT NOT NULL,
        created TEXT NOT NULL,
        finished TEXT NOT NULL,
        record TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX jobs_number ON jobs (number);
    """,
)
"Entry n brings a file from schema version n to n + 1; entries are never changed, only added."

Result = TypeVar("Result")


class History:
    """The history file. Every method blocks."""

    def __init__(self, path: Path, *, rows: int = ROWS) -> None:
        self._path = path
        self._rows = rows
        self._lock = threading.Lock()

    def add(self, record: JobRecord) -> None:
        """Remember an ended job; adding it again replaces it. Raises OSError, Unsupported (a newer file)."""
        finished = record.finished or record.created
        row = (
            record.request.uuid,
            record.number,
            record.request.kind.value,
            record.state.value,
            record.created.isoformat(),
            finished.isoformat(),
            record.model_dump_json(exclude={"outcome": {"notes"}}),
        )

        def insert(database: sqlite3.Connection) -> None:
            if _version(database) > len(_MIGRATIONS):
                raise Unsupported(
                    f"the job history {self._path} was written by a newer version",
                    hint="update bootcd, or move the file away",
                )
            with database:
                database.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?)", row)
                database.execute(
                    "DELETE FROM jobs WHERE number <= "
                    "(SELECT number FROM jobs ORDER BY number DESC LIMIT 1 OFFSET ?)",
                    (self._rows,),
                )

        self._perform(insert)

    def recent(self, limit: int) -> list[JobRecord]:
        """Return up to `limit` ended jobs, newest first, leaving out what cannot be understood."""

        def select(database: sqlite3.Connection) -> list[str]:
            rows = database.execute("SELECT record FROM jobs ORDER BY number DESC LIMIT ?", (limit,))
            return [row[0] for row in rows]

        records = []
        for document in self._perform(select):
            try:
                records.append(JobRecord.model_validate_json(document))
            except ValidationError:
                log.warning("an entry of the job history cannot be read, ignoring it")
        return records

    def contains(self, uuid: str) -> bool:
        """Tell whether the job is remembered."""

        def select(database: sqlite3.Connection) -> bool:
            return database.execute("SELECT 1 FROM jobs WHERE uuid = ?", (uuid,)).fetchone() is not None

        return self._perform(select)

    def last_number(self) -> int:
        """Return the highest job number ever added, 0 if none."""

        def select(database: sqlite3.Connection) -> int:
            return int(database.execute("SELECT coalesce(max(number), 0) FROM jobs").fetchone()[0])

        return self._perform(select)

    def _perform(self, action: Callable[[sqlite3.Connection], Result]) -> Result:
        with self._lock:
            try:
                return self._attempt(action)
            except sqlite3.Error as error:
                raise OSError(f"the job history {self._path} cannot be used: {error}") from error

    def _attempt(self, action: Callable[[sqlite3.Connection], Result]) -> Result:
        try:
            with self._connected() as database:
                return action(database)
        except sqlite3.DatabaseError as error:
            if (getattr(error, "sqlite_errorcode", 0) & 0xFF) not in _CORRUPT_CODES:
                raise
            self._set_aside(error)
        with self._connected() as database:
            return action(database)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self._path, timeout=_BUSY_SECS)
        try:
            database.execute("PRAGMA synchronous = FULL")
            _migrate(database)
            yield database
        finally:
            database.close()

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        taken = sorted(self._path.parent.glob(f"{self._path.name}.corrupt-*"), key=_suffix)
        for oldest in taken[: max(0, len(taken) - _KEPT_CORRUPT + 1)]:
            oldest.unlink(missing_ok=True)
        number = _suffix(taken[-1]) + 1 if taken else 1
        aside = self._path.with_name(f"{self._path.name}.corrupt-{number}")
        log.warning("the job history %s is corrupt, beginning a new one and keeping it as %s: %s",
                    self._path, aside.name, error)  # fmt: skip
        self._path.rename(aside)
        self._path.with_name(f"{self._path.name}-journal").unlink(missing_ok=True)


def _migrate(database: sqlite3.Connection) -> None:
    for version in range(_version(database), len(_MIGRATIONS)):
        # One transaction per step: after a crash in between the file is of the old version or the new.
        database.executescript(
            f"BEGIN IMMEDIATE; {_MIGRATIONS[version]} PRAGMA user_version = {version + 1}; COMMIT;"
        )


def _version(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def _suffix(path: Path) -> int:
    digits = path.name.rpartition("-")[2]
    return int(digits) if digits.isascii() and digits.isdigit() else 0
