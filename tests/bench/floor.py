"""The least an import has to do: hash, decompress, hash, and write the same files raw.

What the other figures are held against, since it is measured on the same machine in the same run. One
thread, no archive parsed (`plan` did it before), no names, no owners, no flush to the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import zstandard
from isal import igzip

_BLOCK_BYTES = 1 << 20


def plan(layout: Path, digest: str) -> list[dict[str, Any]]:
    """Return for each layer of a manifest its blob, its compression and (offset, size) of its files."""
    manifest = json.loads(_blob(layout, digest).read_bytes())
    layers = []
    for layer in manifest["layers"]:
        blob, kind = _blob(layout, layer["digest"]), layer["mediaType"].rpartition("+")[2]
        with blob.open("rb") as raw, tarfile.open(fileobj=_decompress(raw, kind), mode="r|") as tar:
            files = [(member.offset_data, member.size) for member in tar if member.isreg()]
        layers.append({"blob": str(blob), "kind": kind, "bytes": layer["size"], "files": files})
    return layers


def run(layers: list[dict[str, Any]], target: Path) -> dict[str, float]:
    """Do it, and return the CPU seconds of each part."""
    spent = {"hash": 0.0, "decompress": 0.0, "write": 0.0}
    mark = time.process_time()

    def count(part: str) -> None:
        nonlocal mark
        now = time.process_time()
        spent[part] += now - mark
        mark = now

    directories = []
    for number in range(256):
        (target / f"{number:02x}").mkdir()
        directories.append(os.open(target / f"{number:02x}", os.O_RDONLY | os.O_DIRECTORY))
    buffer = memoryview(bytearray(_BLOCK_BYTES))
    written = 0
    for layer in layers:
        with Path(layer["blob"]).open("rb") as raw:
            hashlib.file_digest(raw, "sha256")
            count("hash")
            raw.seek(0)
            stream, archive, files = _decompress(raw, layer["kind"]), hashlib.sha256(), layer["files"]
            fd, digest, index, start = -1, hashlib.sha256(), 0, 0
            while length := stream.readinto(buffer):
                count("decompress")
                archive.update(buffer[:length])
                count("hash")
                end = start + length
                while index < len(files) and files[index][0] < end:
                    offset, size = files[index]
                    if fd < 0:
                        directory, name = directories[written % 256], f"{written:x}"
                        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=directory)
                        digest, written = hashlib.sha256(), written + 1
                    part = buffer[max(offset, start) - start : min(offset + size, end) - start]
                    os.write(fd, part)
                    count("write")
                    digest.update(part)
                    count("hash")
                    if offset + size > end:
                        break
                    os.close(fd)
                    fd, index = -1, index + 1
                start = end
    count("write")
    return spent


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def _decompress(raw: Any, kind: str) -> Any:
    if kind == "gzip":
        return igzip.open(raw, "rb")  # type: ignore[no-untyped-call]
    if kind == "zstd":
        return zstandard.ZstdDecompressor(max_window_size=128 << 20).stream_reader(
            raw, read_across_frames=True
        )
    return raw


if __name__ == "__main__":
    print(json.dumps(run(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))))
