"""Where an image is written: an OCI layout in a directory, one in an archive, or a registry.

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
from bootcd.oci.reference import ImageReference, parse_reference
from bootcd.oci.tar import EntryType, TarEntry
from bootcd.oci.tarwrite import END, header, padding

_TRANSPORTS = ("oci", "oci-archive")
_REGISTRY = "docker://"
_COPY_BYTES = 1 << 20
_HINT = "write to docker://HOST/NAME:TAG, oci:PATH:TAG or oci-archive:PATH:TAG"


@dataclass(frozen=True, slots=True)
class Destination:
    path: Path
    "Empty for a registry."
    tag: str
    is_archive: bool = False
    reference: ImageReference | None = None
    "In a registry."

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `oci:PATH[:TAG]`, `oci-archive:PATH[:TAG]` or `docker://NAME[:TAG]`.

        A name in a registry is not taken without its transport, lest a file's name that was mistyped is
        sent somewhere. Raises InvalidArguments, InvalidImage.
        """
        if text.startswith(_REGISTRY):
            reference = parse_reference(text)
            if reference.digest:
                raise InvalidArguments(f"{text} is no place that images are written to", hint="name a tag")
            return cls(Path(), reference.tag or "", reference=reference)
        image = parse_source(text)
        if image.transport not in _TRANSPORTS:
            raise InvalidArguments(f"{text} is no place that images are written to", hint=_HINT)
        path, tag = image.place
        return cls(Path(path), tag, image.transport == "oci-archive")


@contextmanager
def open_destination(destination: Destination, spool: Path) -> Iterator[LayoutWriter]:
    """Give a layout to write to; an archive is made of it, and replaced, at the end of the block.

    That of a registry is in `spool` and is gone after the block, in which it has to be sent.
    """
    if destination.reference:
        with (
            tempfile.TemporaryDirectory(prefix="bootcd-image-", dir=spool) as directory,
            LayoutWriter(Path(directory)) as layout,
        ):
            yield layout
        return
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
