"""An image's layers kept in temporary files, so that nothing is written to the disk before all of it is here.

The files have no names: they are gone when this process is, however it ends.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import IO

from bootcd.model.errors import OutOfSpace
from bootcd.oci.manifest import Descriptor
from bootcd.ostree.fetch import OpenBlob
from bootcd.ostree.libostree import host_errors

_CHUNK_BYTES = 1 << 20


class Spool:
    """Blobs of one image by digest. Close it to give the space back."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, IO[bytes]] = {}
        self._stack = ExitStack()

    def close(self) -> None:
        self._stack.close()

    async def fill(
        self, layers: Iterable[Descriptor], open_blob: OpenBlob, on_bytes: Callable[[int], None]
    ) -> None:
        """Fetch layers; each is verified by its source.

        Raises: what `open_blob` raises, and OutOfSpace with nothing fetched if they cannot fit.
        """
        unique = {layer.digest: layer for layer in layers}
        self._require_space(sum(layer.size for layer in unique.values()))
        for layer in unique.values():
            with host_errors("keep the image for the installation", path=str(self._directory)):
                file = self._stack.enter_context(tempfile.TemporaryFile(dir=self._directory))  # noqa: SIM115
            async with aclosing(open_blob(layer)) as chunks:
                async for chunk in chunks:
                    with host_errors("keep the image for the installation", path=str(self._directory)):
                        file.write(chunk)
                    on_bytes(len(chunk))
            self._files[layer.digest] = file

    async def open_blob(self, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        """Stream a blob that was fetched."""
        file = self._files[descriptor.digest]
        file.flush()
        position = 0
        while chunk := os.pread(file.fileno(), _CHUNK_BYTES, position):
            position += len(chunk)
            yield chunk

    def _require_space(self, needed: int) -> None:
        with host_errors("keep the image for the installation", path=str(self._directory)):
            status = os.statvfs(self._directory)
        available = status.f_bavail * status.f_frsize
        if available < needed:
            raise OutOfSpace(
                f"the image has {needed} bytes, and {self._directory} has room for {available}",
                hint="name another directory with --spool-dir",
                path=str(self._directory),
                needed_bytes=needed,
                available_bytes=available,
            )
