"""Which file object holds a given content: an index from the SHA-256 of content to objects of the repository.

An object's name is a digest of content and attributes together, so the name does not tell. The index is a
cache: it is compared with the repository before it is used, objects that are gone leave it, objects it does
not know are read when something of their size is looked for, and a file that is damaged is made anew. It only
ever says where to look; who copies from there verifies what comes.

It lies in the repository's directory for extensions, so that it goes where that goes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import stat
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from bootcd.model.errors import Cancelled

log = logging.getLogger(__name__)

_VERSION = 1
_SCHEMA = f"""
    CREATE TABLE objects (checksum BLOB PRIMARY KEY, content BLOB NOT NULL) WITHOUT ROWID;
    CREATE INDEX contents ON objects (content);
    PRAGMA user_version = {_VERSION};
"""
_SUFFIX = ".file"
_READ_BYTES = 1 << 20
_COMMIT_BYTES = 256 << 20
"So much read work is lost if the process is killed."
_MAX_UNREAD = 500_000
"Objects not read yet that are kept in mind; of a larger repository the rest is not found."


class ContentIndex:
    """The index of one repository. Methods may be called from several threads; all of them block."""

    def __init__(self, repository: Path) -> None:
        self._objects = repository / "objects"
        self._path = repository / "extensions/bootcd/contents.sqlite"
        self._mutex = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._unread: dict[int, list[bytes]] = defaultdict(list)
        "Objects of which only the size is known."
        self._read_bytes = 0
        self._stopped = False

    def find(self, wanted: Sequence[tuple[bytes, int]]) -> dict[bytes, bytes]:
        """Return checksums of objects by their contents, which are to be verified.

        Args:
            wanted: digests of contents and their sizes.
        """
        with self._mutex:
            try:
                return self._find(wanted)
            except sqlite3.Error as error:
                self._begin_anew(error)
                return {}

    def path_of(self, checksum: bytes) -> str:
        """Return where an object lies."""
        name = checksum.hex()
        return f"{self._objects}/{name[:2]}/{name[2:]}{_SUFFIX}"

    def note(self, found: Iterable[tuple[bytes, bytes]]) -> None:
        """Remember objects with their contents, which were read for another reason."""
        with self._mutex:
            try:
                database = self._opened()
                database.executemany("INSERT OR REPLACE INTO objects VALUES (?, ?)", found)
                database.commit()
            except sqlite3.Error as error:
                self._begin_anew(error)

    def stop(self) -> None:
        """Have `find` end with Cancelled, as it may be reading for long."""
        self._stopped = True

    def close(self) -> None:
        with self._mutex:
            if self._database is not None:
                with suppress(sqlite3.Error):
                    self._database.commit()
                    self._database.close()
                self._database = None

    def _find(self, wanted: Sequence[tuple[bytes, int]]) -> dict[bytes, bytes]:
        database = self._opened()
        for _, size in wanted:
            for checksum in self._unread.pop(size, ()):
                self._insert(database, checksum, self._digest(checksum))
        database.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", ((content,) for content, _ in wanted))
        found = dict(database.execute("SELECT content, checksum FROM wanted JOIN objects USING (content)"))
        database.execute("DELETE FROM wanted")
        return found

    def _insert(self, database: sqlite3.Connection, checksum: bytes, content: bytes) -> None:
        database.execute("INSERT OR REPLACE INTO objects VALUES (?, ?)", (checksum, content))
        if self._read_bytes >= _COMMIT_BYTES:
            self._read_bytes = 0
            database.commit()

    def _digest(self, checksum: bytes) -> bytes:
        """Return the digest of an object's content; empty if it cannot be read."""
        digest = hashlib.sha256()
        try:
            fd = os.open(self.path_of(checksum), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            while block := os.read(fd, _READ_BYTES):
                if self._stopped:
                    raise Cancelled("the job was cancelled")
                digest.update(block)
                self._read_bytes += len(block)
        except OSError:
            return b""
        finally:
            os.close(fd)
        return digest.digest()

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            self._database = _open(self._path)
            self._compare(self._database)
        return self._database

    def _compare(self, database: sqlite3.Connection) -> None:
        """Forget objects that are gone, and learn of those that came."""
        self._unread.clear()
        gone = unread = 0
        for prefix in range(256):
            here = set(self._listed(f"{prefix:02x}"))
            rows = database.execute(
                "SELECT checksum FROM objects WHERE checksum >= ? AND checksum < ?",
                (bytes([prefix]), bytes([prefix + 1]) if prefix < 255 else b"\xff" * 33),
            )
            known = {bytes(checksum) for (checksum,) in rows}
            lost = known - here
            database.executemany("DELETE FROM objects WHERE checksum = ?", ((one,) for one in lost))
            gone += len(lost)
            for checksum in here - known:
                with suppress(OSError):
                    status = os.lstat(self.path_of(checksum))
                    if not stat.S_ISREG(status.st_mode) or not status.st_size:
                        self._insert(database, checksum, b"")
                    elif unread < _MAX_UNREAD:
                        unread += 1
                        self._unread[status.st_size].append(checksum)
        database.commit()
        log.debug("index of contents: %d objects are gone, %d were not read yet", gone, unread)

    def _listed(self, prefix: str) -> Iterator[bytes]:
        """Yield the file objects whose checksums begin so."""
        with suppress(FileNotFoundError), os.scandir(self._objects / prefix) as entries:
            for entry in entries:
                if entry.name.endswith(_SUFFIX) and len(entry.name) == 62 + len(_SUFFIX):
                    with suppress(ValueError):
                        yield bytes.fromhex(prefix + entry.name[:62])

    def _begin_anew(self, error: sqlite3.Error) -> None:
        """Do without the file from now on, and without its next one if that cannot be written either."""
        log.warning("the index of contents is made anew: %s", error)
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._database = None


def _open(path: Path) -> sqlite3.Connection:
    for attempt in range(2):
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return _prepared(sqlite3.connect(path, check_same_thread=False, timeout=5))
        except (OSError, sqlite3.Error) as error:
            log.warning("the index of contents at %s cannot be used: %s", path, error)
            if not attempt:
                with suppress(OSError):
                    path.unlink()
    return _prepared(sqlite3.connect(":memory:", check_same_thread=False))


def _prepared(database: sqlite3.Connection) -> sqlite3.Connection:
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            database.executescript(_SCHEMA)
        elif version != _VERSION:
            raise sqlite3.DatabaseError(f"it is of version {version}")
        # What a power cut damages is made anew; one flush for each commit is more than it is worth.
        database.execute("PRAGMA synchronous = OFF")
        database.execute("PRAGMA temp_store = MEMORY")
        database.execute("CREATE TEMP TABLE wanted (content BLOB PRIMARY KEY) WITHOUT ROWID")
        database.execute("SELECT checksum, content FROM objects LIMIT 1")
    except sqlite3.Error:
        database.close()
        raise
    return database
