"""An OCI image layout being written: blobs first, the index that names the image last.

https://github.com/opencontainers/image-spec/blob/main/image-layout.md
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from bootcd.host.files import read_bounded, remove_leftovers, sync_directory, write_atomic
from bootcd.image.archive import Item, members
from bootcd.image.flatten import Spool
from bootcd.image.packing import Packed, Packing, pack
from bootcd.model.errors import Busy, InvalidLayout, InvalidManifest
from bootcd.oci.manifest import INDEX_MEDIA_TYPES, MAX_MANIFEST_BYTES
from bootcd.oci.resolve import digest_of
from bootcd.oci.strictjson import parse_object

_REF_NAME = "org.opencontainers.image.ref.name"
_VERSION = b'{"imageLayoutVersion":"1.0.0"}'


@dataclass(frozen=True, slots=True)
class WrittenLayer:
    digest: str
    size: int
    packed: Packed


class LayoutWriter:
    """A layout directory, made if it is not there; what it holds already stays. One writer at a time."""

    def __init__(self, path: Path) -> None:
        """Raises Busy if another one is writing."""
        self.path = path
        self.image: dict[str, Any] | None = None
        "The descriptor of the image that was named last."
        self._blobs = path / "blobs/sha256"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._blobs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise Busy(f"another program is writing to {path}", hint="wait until it has ended") from error
        remove_leftovers(self._blobs)

    def close(self) -> None:
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_layer(self, items: Iterator[Item], spool: Spool, packing: Packing) -> WrittenLayer:
        """Write a compressed layer. Blocks; by any number of threads at a time."""
        with self._new_blob() as (file, running):
            sink = _Hashing(file, running)
            packed = pack(members(items), spool, packing, sink.write)
        digest = f"sha256:{running.hexdigest()}"
        return WrittenLayer(digest, sink.size, packed)

    def add_document(self, data: bytes, media_type: str) -> dict[str, Any]:
        """Write a config or manifest; return its descriptor."""
        with self._new_blob() as (file, running):
            file.write(data)
            running.update(data)
        return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}

    def blob(self, digest: str) -> Path:
        return self._blobs / digest.removeprefix("sha256:")

    def name_image(self, descriptor: dict[str, Any], tag: str) -> None:
        """Enter the image into the index, in the place of the one that had its tag, or of the one without."""
        sync_directory(self._blobs)
        entry = descriptor | ({"annotations": {_REF_NAME: tag}} if tag else {})
        others = [
            other for other in self._entries() if other.get("annotations", {}).get(_REF_NAME, "") != tag
        ]
        write_atomic(self.path / "oci-layout", _VERSION, mode=0o644)
        write_atomic(self.path / "index.json", to_json(_index([*others, entry])), mode=0o644)
        self.image = descriptor

    def _entries(self) -> list[dict[str, Any]]:
        try:
            data = read_bounded(self.path / "index.json", MAX_MANIFEST_BYTES)
        except FileNotFoundError:
            return []
        index = parse_object(
            data, what="index of the layout", limit_bytes=MAX_MANIFEST_BYTES, error=InvalidManifest
        )
        entries = index.get("manifests")
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise InvalidLayout(f"{self.path}/index.json lists no images", image=str(self.path))
        return entries

    @contextmanager
    def _new_blob(self) -> Iterator[tuple[IO[bytes], Any]]:
        """Write a file that is named by its digest once it is complete and on the disk."""
        running = hashlib.sha256()
        with tempfile.NamedTemporaryFile(dir=self._blobs, prefix=".", suffix=".new", delete=False) as file:
            temporary = Path(file.name)
            try:
                yield file, running
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
                temporary.rename(self._blobs / running.hexdigest())
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise


class _Hashing:
    def __init__(self, file: IO[bytes], running: Any) -> None:
        self._file = file
        self._running = running
        self.size = 0

    def write(self, data: bytes) -> int:
        self._running.update(data)
        self.size += len(data)
        return self._file.write(data)


def _index(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": INDEX_MEDIA_TYPES[0], "manifests": entries}


def to_json(value: dict[str, Any]) -> bytes:
    """Serialise a document the same way always."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
