"""File objects as they are read back: attributes and content, published or not.

In a bare repository an object is a file with all its attributes, and looking at it directly is many times
faster than libostree's call; other kinds of repository, and objects in libostree's open transaction, are read
through that.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bootcd.ostree.libostree import host_errors
from bootcd.ostree.repository import Repository
from bootcd.ostreefmt.objects import Xattr
from bootcd.ostreefmt.selinux import LABEL, label_of

FindObject = Callable[[bytes, str], Path | None]
"Returns where an object of a kind lies that is not published yet."

_BLOCK = 1 << 20
_LABEL = LABEL.decode()


@dataclass(frozen=True, slots=True)
class Content:
    """A file object that is open."""

    uid: int
    gid: int
    mode: int
    "With file type."
    size: int
    target: str
    "Of a symbolic link."
    xattrs: tuple[Xattr, ...]
    read_into: Callable[[memoryview], int]

    def chunks(self) -> Iterator[memoryview]:
        """Yield the content once; a chunk is only good until the next one is asked for."""
        buffer = memoryview(bytearray(min(max(self.size, 1), _BLOCK)))
        while count := self.read_into(buffer):
            yield buffer[:count]


class Contents:
    """The file objects of a repository and of what is being written to it."""

    def __init__(self, repository: Repository, find_object: FindObject) -> None:
        self._repository = repository
        self._find = find_object
        self._objects = f"{repository.path}/objects" if repository.is_bare else ""

    def mode_and_label(self, checksum: bytes) -> tuple[int, bytes | None]:
        """Return the mode of a file, with its type, and its SELinux label."""
        found = self._on_disk(checksum)
        if found is None:
            with _opened_by_libostree(self._repository, checksum) as content:
                return content.mode, label_of(content.xattrs)
        place, status = found
        try:
            return status.st_mode, os.getxattr(place, _LABEL, follow_symlinks=False)
        except OSError:  # none, or unreadable: then reading it all tells why
            return status.st_mode, None

    def read_dirmeta(self, checksum: bytes) -> bytes:
        place = self._find(checksum, "dirmeta")
        return place.read_bytes() if place else self._repository.read_dirmeta(checksum)

    @contextmanager
    def open(self, checksum: bytes) -> Iterator[Content]:
        found = self._on_disk(checksum)
        if found is None:
            with _opened_by_libostree(self._repository, checksum) as content:
                yield content
        else:
            with _opened(*found) as content:
                yield content

    def _on_disk(self, checksum: bytes) -> tuple[str, os.stat_result] | None:
        """Return path and status of a file that lies as it is on the disk."""
        if self._objects:
            name = checksum.hex()
            place = f"{self._objects}/{name[:2]}/{name[2:]}.file"
            try:
                return place, os.lstat(place)
            except FileNotFoundError:
                pass
        staged = self._find(checksum, "file")
        return (os.fspath(staged), staged.lstat()) if staged else None


@contextmanager
def _opened(place: str, status: os.stat_result) -> Iterator[Content]:
    xattrs = tuple(
        (name.encode(), os.getxattr(place, name, follow_symlinks=False))
        for name in sorted(os.listxattr(place, follow_symlinks=False))
    )
    owner_and_mode = status.st_uid, status.st_gid, status.st_mode
    if stat.S_ISLNK(status.st_mode):
        target = os.readlink(place)  # noqa: PTH115  # Path would normalise it
        yield Content(*owner_and_mode, 0, target, xattrs, lambda _: 0)
        return
    fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield Content(*owner_and_mode, status.st_size, "", xattrs, lambda buffer: os.readv(fd, [buffer]))
    finally:
        os.close(fd)


@contextmanager
def _opened_by_libostree(repository: Repository, checksum: bytes) -> Iterator[Content]:
    with host_errors("read a file from the repository", path=str(repository.path)):
        _, stream, info, xattrs = repository.repo.load_file(checksum.hex(), None)

        def read_into(buffer: memoryview) -> int:
            data = stream.read_bytes(len(buffer), None).get_data()
            buffer[: len(data)] = data
            return len(data)

        yield Content(
            info.get_attribute_uint32("unix::uid"),
            info.get_attribute_uint32("unix::gid"),
            info.get_attribute_uint32("unix::mode"),
            info.get_size(),
            info.get_symlink_target() or "",
            tuple((bytes(name).rstrip(b"\0"), bytes(value)) for name, value in xattrs.unpack()),
            read_into,
        )
        if stream is not None:
            stream.close(None)
