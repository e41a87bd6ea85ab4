"""Job directories, the journal that lets jobs outlive the daemon.

    <state>/jobs/<uuid>/request.json   JobRequest   ours, before the worker starts
                        record.json    JobRecord    ours, at every change of state
                        outcome.json   Outcome      the worker's, as its last act
                        log            text         what the worker printed, where no journal takes it

Every document is written whole, synced and renamed into place; `request.json` comes before
`record.json`, so a directory with a record is a whole job. What cannot be read is set aside under
`corrupt-<uuid>` and never stops the daemon.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ValidationError

from bootcd.host.files import read_bounded, sync_directory, write_atomic
from bootcd.model.job import UUID_PATTERN, JobRecord, Outcome

log = logging.getLogger(__name__)

DOCUMENT_LIMIT = 1 << 20
"Bytes of a document; the largest are requests with long lists of registries, some kilobytes."
LOG_LIMIT = 1 << 20
KEPT = 64
"Ended jobs whose directories are kept for a look at their logs; the history goes further back."
KEPT_CORRUPT = 8

_UUID = re.compile(UUID_PATTERN)
_CORRUPT = "corrupt-"


class JobStore:
    """The directory of all jobs. Every method blocks; OSError where the disk refuses a write."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def directory(self, uuid: str) -> Path:
        return self.root / uuid

    def create(self, record: JobRecord) -> None:
        """Journal a new job; when this returns, it survives a power cut."""
        directory = self.directory(record.request.uuid)
        self.root.mkdir(mode=0o700, exist_ok=True)
        directory.mkdir(mode=0o700)
        try:
            _write(directory / "request.json", record.request)
            _write(directory / "record.json", record)
            sync_directory(self.root)
        except OSError:
            shutil.rmtree(directory, ignore_errors=True)
            raise

    def save(self, record: JobRecord) -> None:
        _write(self.directory(record.request.uuid) / "record.json", record)

    def load_all(self) -> list[JobRecord]:
        """Return all jobs by number, setting aside what cannot be read and removing half-made ones.

        For the start of a daemon: a job that is just being created would look half-made.
        """
        records = []
        for path, found in self._scan():
            match found:
                case JobRecord():
                    records.append(found)
                case FileNotFoundError():
                    shutil.rmtree(path, ignore_errors=True)  # a crash before the job was accepted
                case _:
                    self._set_aside(path, found)
        return sorted(records, key=lambda record: record.number)

    def read_outcome(self, uuid: str) -> Outcome | None:
        """Return how the worker says the job ended; None if it says nothing that can be understood."""
        try:
            data = read_bounded(self.directory(uuid) / "outcome.json", DOCUMENT_LIMIT)
            outcome = Outcome.model_validate_json(data)
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            log.warning("job %s left an outcome that cannot be read, ignoring it: %s", uuid, _line(error))
            return None
        if not outcome.state.ended:
            log.warning("job %s left an outcome that is no end, ignoring it", uuid)
            return None
        return outcome

    def open_log(self, uuid: str) -> int:
        """Open the log of a job for a worker to append to; the caller closes the descriptor."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self.directory(uuid) / "log", flags, 0o600)

    def read_log(self, uuid: str) -> bytes:
        """Return the end of what a worker has printed to the log of its job, nothing if that is not there."""
        try:
            descriptor = os.open(self.directory(uuid) / "log", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return b""
        with open(descriptor, "rb") as file:  # noqa: PTH123  (a descriptor)
            file.seek(max(0, os.fstat(descriptor).st_size - LOG_LIMIT))
            return file.read(LOG_LIMIT)

    def bound_log(self, uuid: str) -> None:
        """Empty a log that has grown beyond the limit; its writer appends, so it simply goes on."""
        path = self.directory(uuid) / "log"
        try:
            if path.lstat().st_size > LOG_LIMIT:
                os.truncate(path, 0)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                log.debug("cannot bound the log of job %s: %s", uuid, error)

    def remove(self, uuid: str) -> None:
        """Drop a job without a trace; safe to repeat."""
        shutil.rmtree(self.directory(uuid), ignore_errors=True)

    def prune(self) -> None:
        """Keep the newest ended jobs and the newest corrupt ones, and every job that has not ended."""
        records = [found for _, found in self._scan() if isinstance(found, JobRecord)]
        ended = sorted((record for record in records if record.state.ended), key=lambda record: record.number)
        for record in ended[:-KEPT]:
            self.remove(record.request.uuid)
        corrupt = [path for path in self._directories() if path.name.startswith(_CORRUPT)]
        corrupt.sort(key=lambda path: path.lstat().st_mtime)
        for path in corrupt[:-KEPT_CORRUPT]:
            shutil.rmtree(path, ignore_errors=True)

    def _scan(self) -> Iterator[tuple[Path, JobRecord | OSError | ValueError]]:
        """Yield each job directory with its record, or with what is wrong with it."""
        for path in self._directories():
            if not _UUID.match(path.name):
                continue
            try:
                record = JobRecord.model_validate_json(read_bounded(path / "record.json", DOCUMENT_LIMIT))
                if record.request.uuid != path.name:
                    raise ValueError("it is the record of another job")
            except (OSError, ValueError) as error:
                yield path, error
            else:
                yield path, record

    def _directories(self) -> list[Path]:
        try:
            return [path for path in self.root.iterdir() if path.is_dir() and not path.is_symlink()]
        except FileNotFoundError:
            return []

    def _set_aside(self, path: Path, error: Exception) -> None:
        aside = path.with_name(_CORRUPT + path.name)
        log.warning("the record of job %s cannot be read, setting it aside: %s", path.name, _line(error))
        try:
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
        except OSError as failure:
            log.warning("cannot set the job directory %s aside, ignoring it: %s", path, failure)


def _write(path: Path, document: BaseModel) -> None:
    write_atomic(path, document.model_dump_json().encode())


def _line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(str(part) for part in first['loc']) or 'document'}: {first['msg']}"
    return str(error)
