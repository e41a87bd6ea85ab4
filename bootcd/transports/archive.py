"""A tar archive as a set of named files: its headers are read once, its content where it lies.

Nothing is unpacked, so an image on a stick needs no room anywhere else. A compressed archive would have
to be, and is refused. https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html
"""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass

from bootcd.model.errors import InvalidLayer, InvalidLayout, NotFound
from bootcd.oci.tar import EntryType, TarReader
from bootcd.transports.place import Content, reading, regular_file

MAX_MEMBERS = 20_000
"An image has a file for each layer and a few beside them; some tools write three for each."
_HEADER_BYTES = 16 << 10
_MAX_LINKS = 8
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


@dataclass(frozen=True, slots=True)
class _Member:
    start: int
    size: int
    target: str = ""
    "What a symbolic link leads to, from the top of the archive."


class Archive:
    """An archive, held open: another file of its name meanwhile is not looked at."""

    def __init__(self, path: str, image: str) -> None:
        self.image = image
        with reading(image):
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._file = regular_file(descriptor, image)
        self._descriptor = descriptor
        try:
            self._members = self._scan()
        except BaseException:
            self._file.close()
            raise

    def open(self, name: str) -> Content:
        member = self._members.get(name)
        for _ in range(_MAX_LINKS):
            if member is None or not member.target:
                break
            member = self._members.get(member.target)
        if member is None or member.target:
            raise NotFound(
                f"{self.image} has no {name}",
                hint="the archive may have been copied only in part",
                image=self.image,
            )
        return Content(os.dup(self._descriptor), member.start, member.size)

    def close(self) -> None:
        self._file.close()

    def _scan(self) -> dict[str, _Member]:
        with reading(self.image):
            magic = os.pread(self._descriptor, 6, 0)
        for signature, name in _COMPRESSED.items():
            if magic.startswith(signature):
                raise InvalidLayout(
                    f"{self.image} is compressed with {name}",
                    hint="decompress the archive; the layers in it are compressed already",
                    image=self.image,
                )
        source = _Source(self._descriptor, self.image)
        reader = TarReader(source, buffer_bytes=_HEADER_BYTES)
        members: dict[str, _Member] = {}
        try:
            for entry in reader:
                name = posixpath.normpath(entry.name)
                start = source.offset - reader.buffered
                source.offset += reader.pass_payload()
                if start + entry.size > self._file.size:
                    raise InvalidLayout(
                        f"{self.image} ends within a file of it",
                        hint="copy the archive again",
                        image=self.image,
                    )
                if entry.type is EntryType.FILE:
                    member = _Member(start, entry.size)
                elif entry.type is EntryType.SYMLINK:
                    member = _Member(0, 0, posixpath.normpath(posixpath.join(name, "..", entry.linkname)))
                elif entry.type is EntryType.HARDLINK:
                    member = _Member(0, 0, posixpath.normpath(entry.linkname))
                else:
                    continue
                if members.setdefault(name, member) is not member:
                    raise InvalidLayout(f"{self.image} has two files of one name", image=self.image)
                if len(members) > MAX_MEMBERS:
                    raise InvalidLayout(f"{self.image} has more than {MAX_MEMBERS} files", image=self.image)
        except InvalidLayer as error:
            raise InvalidLayout(
                f"{self.image} is not an archive in order", hint="make or copy it again", image=self.image
            ) from error
        return members


class _Source:
    """The archive from an offset on, which moves with what is read."""

    def __init__(self, descriptor: int, image: str) -> None:
        self._descriptor = descriptor
        self._image = image
        self.offset = 0

    def readinto(self, buffer: memoryview, /) -> int:
        with reading(self._image):
            count = os.preadv(self._descriptor, [buffer], self.offset)
        self.offset += count
        return count
