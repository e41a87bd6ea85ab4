"""Which file object holds a given content: an index from the SHA-256 of content to objects of the repository.

An object's name is a digest of content and attributes together, so the name does not tell. The index is a
cache: it is compared with the repository before it is used, objects that are gone leave it, objects it does
not know are read when something of their size is looked for, and a file that is damaged is made anew.

Who takes an object by the table of contents alone (`ostree.listed`) has nothing but this index to go by. So a
row is only ever made of what was hashed here, while the object was written or from the object itself; it has
a checksum of its own, as nothing else would tell that the disk has changed it; and an object is given out
only if it lies there with the size, owner and mode of its row.

It lies in the repository's directory for extensions, so that it goes where that goes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import stat
import struct
import threading
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from bootcd.model.errors import BootcdError, Cancelled
from bootcd.ostreefmt.objects import Xattr, file_header

log = logging.getLogger(__name__)

_VERSION = 2
_SCHEMA = f"""
    CREATE TABLE objects (
        content BLOB, checksum BLOB UNIQUE, facts BLOB NOT NULL, mark INTEGER NOT NULL,
        PRIMARY KEY (content, checksum)
    ) WITHOUT ROWID;
    PRAGMA user_version = {_VERSION};
"""
_FACTS = struct.Struct("<QIII")
"Size, owner, group, mode; the digest of all attributes comes after it."
_INSERT = "INSERT OR REPLACE INTO objects (checksum, content, facts, mark) VALUES (?, ?, ?, ?)"
_ASKED_AT_ONCE = 500
_SELECT = f"""
    SELECT checksum, content, facts, mark FROM objects WHERE content IN ({", ".join("?" * _ASKED_AT_ONCE)})
"""  # noqa: S608  # nothing but question marks
_SUFFIX = ".file"
_READ_BYTES = 1 << 20
_COMMIT_BYTES = 256 << 20
"So much read work is lost if the process is killed."
_MAX_UNREAD = 500_000
"Objects not read yet that are kept in mind; of a larger repository the rest is not found."


class Held(NamedTuple):
    """An object that has a content."""

    checksum: bytes
    facts: bytes


class Noted(NamedTuple):
    """What was found of an object when all of it was read or written."""

    checksum: bytes
    content: bytes
    "SHA-256 of the content alone; empty if there is none that could be looked for."
    facts: bytes


@lru_cache(maxsize=4096)
def facts_of(uid: int, gid: int, mode: int, xattrs: tuple[Xattr, ...], size: int) -> bytes:
    """Return size and attributes of a regular file in the form that is kept and compared.

    `mode` has permission and set-id bits. Raises InvalidLayer for what no file could have.
    """
    return _FACTS.pack(size, uid, gid, mode) + _attributes(uid, gid, mode, xattrs)


@lru_cache(maxsize=4096)
def _attributes(uid: int, gid: int, mode: int, xattrs: tuple[Xattr, ...]) -> bytes:
    return hashlib.sha256(file_header(uid, gid, stat.S_IFREG | mode, "", xattrs)).digest()[:16]


class ContentIndex:
    """The index of one repository. Methods may be called from several threads; all of them block."""

    def __init__(self, repository: Path) -> None:
        self.damaged: set[str] = set()
        "Names below `objects` of what is there and is not the object that its name says."
        self._objects = repository / "objects"
        self._path = repository / "extensions/bootcd/contents.sqlite"
        self._mutex = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._unread: dict[int, list[bytes]] = defaultdict(list)
        "Objects of which only the size is known."
        self._read_bytes = 0
        self._stopped = False

    def find(self, wanted: Sequence[tuple[bytes, int]]) -> dict[bytes, list[Held]]:
        """Return objects by their contents; each is there, with size, owner and mode as it was noted.

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

    def note(self, found: Iterable[Noted]) -> None:
        """Remember objects that were hashed for another reason."""
        with self._mutex:
            try:
                database = self._opened()
                database.executemany(_INSERT, map(_row, found))
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

    def _find(self, wanted: Sequence[tuple[bytes, int]]) -> dict[bytes, list[Held]]:
        database = self._opened()
        for _, size in wanted:
            for checksum in self._unread.pop(size, ()):
                self._insert(database, self._noted(checksum))
        found: dict[bytes, list[Held]] = {}
        # In the order in which they lie there.
        contents = sorted(dict(wanted))
        for start in range(0, len(contents), _ASKED_AT_ONCE):
            asked = contents[start : start + _ASKED_AT_ONCE]
            rows = database.execute(_SELECT, asked + [None] * (_ASKED_AT_ONCE - len(asked)))
            for checksum, content, facts, mark in rows.fetchall():
                if _is_right(checksum, content, facts, mark) and self._is_there(checksum, facts):
                    found.setdefault(content, []).append(Held(checksum, facts))
                else:
                    database.execute("DELETE FROM objects WHERE checksum = ?", (checksum,))
        return found

    def _is_there(self, checksum: bytes, facts: bytes) -> bool:
        """Whether an object lies there with the size, owner and mode that are noted."""
        try:
            status = os.lstat(self.path_of(checksum))
        except OSError:
            return False
        size, uid, gid, mode = _FACTS.unpack_from(facts)
        expected = stat.S_IFREG | mode, size, uid, gid
        if (status.st_mode, status.st_size, status.st_uid, status.st_gid) == expected:
            return True
        self._found_damaged(checksum)
        return False

    def _found_damaged(self, checksum: bytes) -> None:
        name = checksum.hex()
        log.warning("object %s of the repository is damaged; ostree fsck says more", name)
        self.damaged.add(f"{name[:2]}/{name[2:]}{_SUFFIX}")

    def _insert(self, database: sqlite3.Connection, noted: Noted) -> None:
        database.execute(_INSERT, _row(noted))
        if self._read_bytes >= _COMMIT_BYTES:
            self._read_bytes = 0
            database.commit()

    def _noted(self, checksum: bytes) -> Noted:
        """Return what there is to note of an object, having read it; nothing of one that is damaged."""
        try:
            fd = os.open(self.path_of(checksum), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return Noted(checksum, b"", b"")
        try:
            status = os.fstat(fd)
            xattrs = tuple((name.encode(), os.getxattr(fd, name)) for name in sorted(os.listxattr(fd)))
            owner = status.st_uid, status.st_gid
            content = hashlib.sha256()
            whole = hashlib.sha256(file_header(*owner, status.st_mode, "", xattrs))
            while block := os.read(fd, _READ_BYTES):
                if self._stopped:
                    raise Cancelled("the job was cancelled")
                content.update(block)
                whole.update(block)
                self._read_bytes += len(block)
            if whole.digest() == checksum:
                facts = facts_of(*owner, stat.S_IMODE(status.st_mode), xattrs, status.st_size)
                return Noted(checksum, content.digest(), facts)
            self._found_damaged(checksum)
        except Cancelled:
            raise
        except (OSError, BootcdError):  # unreadable, or with attributes that no object has
            pass
        finally:
            os.close(fd)
        return Noted(checksum, b"", b"")

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
            here = self._listed(f"{prefix:02x}")
            rows = database.execute(
                "SELECT checksum FROM objects WHERE checksum >= ? AND checksum < ?",
                (bytes([prefix]), bytes([prefix + 1]) if prefix < 255 else b"\xff" * 33),
            )
            known = {checksum.hex() for (checksum,) in rows}
            lost = known - here
            rows_of_lost = ((bytes.fromhex(name),) for name in lost)
            database.executemany("DELETE FROM objects WHERE checksum = ?", rows_of_lost)
            gone += len(lost)
            for name in here - known:
                with suppress(OSError, ValueError):
                    checksum = bytes.fromhex(name)
                    status = os.lstat(self.path_of(checksum))
                    if not stat.S_ISREG(status.st_mode) or not status.st_size:
                        self._insert(database, Noted(checksum, b"", b""))
                    elif unread < _MAX_UNREAD:
                        unread += 1
                        self._unread[status.st_size].append(checksum)
        database.commit()
        log.debug("index of contents: %d objects are gone, %d were not read yet", gone, unread)

    def _listed(self, prefix: str) -> set[str]:
        """Return the checksums of the file objects that begin so."""
        try:
            names = os.listdir(self._objects / prefix)  # noqa: PTH208  # thousands of paths
        except FileNotFoundError:
            return set()
        return {prefix + name[:62] for name in names if len(name) == 67 and name.endswith(_SUFFIX)}

    def _begin_anew(self, error: sqlite3.Error) -> None:
        """Do without the file from now on, and without its next one if that cannot be written either."""
        log.warning("the index of contents is made anew: %s", error)
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._database = None


def _row(noted: Noted) -> tuple[bytes, bytes, bytes, int]:
    return *noted, _mark(*noted)


def _mark(checksum: bytes, content: bytes, facts: bytes) -> int:
    return zlib.crc32(checksum + content + facts)


def _is_right(checksum: bytes, content: bytes, facts: bytes, mark: int) -> bool:
    """Whether a row is as it was written; the disk may have made anything of it."""
    try:
        return mark == _mark(checksum, content, facts) and len(facts) > _FACTS.size
    except TypeError:  # text or a number, where bytes were
        return False


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
        database.execute("PRAGMA cache_size = -8192")  # all of it for a system of 40,000 files
        database.execute("SELECT checksum, content, facts, mark FROM objects LIMIT 1")
    except sqlite3.Error:
        database.close()
        raise
    return database
