"""A directory or an archive as a set of named files, so that a layout is read from either alike.

What is on a medium was put there by whoever had it in hand, and read by root: no name leads out of the
place, nothing but a regular file is opened, nothing is read whole without a bound. All of it blocks.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, Self

from bootcd.model.errors import BootcdError, InvalidLayout, MediumUnavailable, NotFound

READ_BYTES = 1 << 20

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR)


class Content:
    """One file of a place, or the part of an archive that is one. Close it in the thread that reads."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        """Take the descriptor over."""
        self._descriptor = descriptor
        self._start = start
        self.size = size

    def chunks(self) -> Iterator[bytes]:
        """Yield the content; fewer bytes than `size` if the file has become shorter."""
        done = 0
        while done < self.size:
            wanted = min(READ_BYTES, self.size - done)
            chunk = os.pread(self._descriptor, wanted, self._start + done)
            if not chunk:
                return
            done += len(chunk)
            yield chunk

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Place(Protocol):
    """Raises, from all methods: MediumUnavailable, InvalidLayout, NotFound."""

    image: str
    "Transport and name as the user knows them, for messages."

    def open(self, name: str) -> Content:
        """Open a file by its path from the top, such as `blobs/sha256/00ff`."""
        ...

    def close(self) -> None: ...


def read(place: Place, name: str, limit: int) -> bytes:
    """Read a whole file of at most `limit` bytes."""
    with place.open(name) as content:
        if content.size > limit:
            raise InvalidLayout(f"{name} of {place.image} is larger than {limit} bytes", image=place.image)
        with reading(place.image):
            data = b"".join(content.chunks())
        if len(data) < content.size:
            raise cut_short(place.image, name)
        return data


class Directory:
    """A directory, held open: what is mounted over its path meanwhile is not looked at."""

    def __init__(self, path: str, image: str) -> None:
        self.image = image
        self._path = path
        with reading(image):
            self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def open(self, name: str) -> Content:
        *parents, last = name.split("/")
        directory = os.dup(self._descriptor)
        try:
            for parent in parents:
                inner = self._open(parent, os.O_DIRECTORY, directory, name)
                os.close(directory)
                directory = inner
            file = self._open(last, os.O_NONBLOCK, directory, name)
        finally:
            os.close(directory)
        return regular_file(file, self.image, name)

    def _open(self, part: str, flags: int, directory: int, name: str) -> int:
        assert part not in ("", ".", "..")
        try:
            return os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=directory)
        except OSError as error:
            if _is_link(part, directory):
                raise InvalidLayout(
                    f"{name} of {self.image} is or goes through a symbolic link, which is not followed",
                    image=self.image,
                ) from error
            if error.errno in _NOT_THERE and self._still_there():
                raise NotFound(
                    f"{self.image} has no {name}",
                    hint="the image may have been copied only in part",
                    image=self.image,
                ) from error
            raise unreadable(self.image, error) from error

    def _still_there(self) -> bool:
        """Whether the path leads to what was opened, and not to the empty place of a medium taken away."""
        try:
            return os.path.samestat(Path(self._path).stat(), os.fstat(self._descriptor))
        except OSError:
            return False

    def close(self) -> None:
        os.close(self._descriptor)


def regular_file(descriptor: int, image: str, name: str = "") -> Content:
    """Take over a descriptor of what must be a regular file."""
    try:
        with reading(image):
            status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            what = f"{name} of {image}" if name else image
            raise InvalidLayout(f"{what} is not a regular file", image=image)
        return Content(descriptor, 0, status.st_size)
    except BaseException:
        os.close(descriptor)
        raise


@contextmanager
def reading(image: str) -> Iterator[None]:
    """Say of a failing system call that the medium cannot be read."""
    try:
        yield
    except OSError as error:
        raise unreadable(image, error) from error


def unreadable(image: str, error: OSError) -> BootcdError:
    if error.errno in _NOT_THERE:
        return MediumUnavailable(
            f"{image} is not there", hint="plug the medium in or mount it, then try again", image=image
        )
    reason = os.strerror(error.errno) if error.errno else "no reason given"
    return MediumUnavailable(
        f"{image} cannot be read: {reason}", hint="check the medium, then try again", image=image
    )


def cut_short(image: str, name: str) -> InvalidLayout:
    return InvalidLayout(
        f"{name} of {image} is shorter than it says",
        hint="copy the image to the medium again",
        image=image,
    )


def _is_link(part: str, directory: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(part, dir_fd=directory, follow_symlinks=False).st_mode)
    except OSError:
        return False
