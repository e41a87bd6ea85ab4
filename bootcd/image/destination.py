"""Where an image is written: an OCI layout in a directory, or one in an archive.

containers-transports(5).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bootcd.engine.source import parse_source
from bootcd.host.files import sync_directory
from bootcd.image.layout import LayoutWriter
from bootcd.model.errors import InvalidArguments
from bootcd.oci.tar import EntryType, TarEntry
from bootcd.oci.tarwrite import END, header, padding

_TRANSPORTS = ("oci", "oci-archive")
_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Destination:
    path: Path
    tag: str
    is_archive: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `oci:PATH[:TAG]` or `oci-archive:PATH[:TAG]`. Raises InvalidArguments, InvalidImage."""
        image = parse_source(text)
        if image.transport not in _TRANSPORTS:
            raise InvalidArguments(
                f"{text} is no place that images are written to",
                hint="write to oci:PATH:TAG or oci-archive:PATH:TAG, and copy it on with skopeo",
            )
        path, tag = image.place
        return cls(Path(path), tag, image.transport == "oci-archive")


@contextmanager
def open_destination(destination: Destination) -> Iterator[LayoutWriter]:
    """Give a layout to write to; an archive is made of it, and replaced, at the end of the block."""
    if not destination.is_archive:
        with LayoutWriter(destination.path) as layout:
            yield layout
        return
    parent = destination.path.parent
    with tempfile.TemporaryDirectory(prefix=".", suffix=".new", dir=parent) as directory:
        with LayoutWriter(Path(directory) / "layout") as layout:
            yield layout
        archive = Path(directory) / "archive"
        _write_archive(archive, layout.path)
        archive.rename(destination.path)
        sync_directory(parent)


def _write_archive(target: Path, layout: Path) -> None:
    with target.open("wb") as archive:
        for path in sorted(layout.rglob("*")):
            name = str(path.relative_to(layout))
            if path.is_dir():
                archive.write(header(TarEntry(name, EntryType.DIRECTORY, 0o755, 0, 0, 0, "", 0, {})))
                continue
            size = path.stat().st_size
            archive.write(header(TarEntry(name, EntryType.FILE, 0o644, 0, 0, size, "", 0, {})))
            with path.open("rb") as file:
                while chunk := file.read(_COPY_BYTES):
                    archive.write(chunk)
            archive.write(padding(size))
        archive.write(END)
        archive.flush()
        os.fsync(archive.fileno())
