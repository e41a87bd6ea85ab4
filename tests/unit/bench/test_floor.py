"""The floor must do all of the work it is a measure of."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
import zstandard

from tests.bench.floor import plan, run

CONTENTS = [b"", b"a", b"b" * 511, bytes(range(256)) * 20_000, b"", b"c" * (1 << 20), b"end"]

PACKERS = {
    "tar": lambda data: data,
    "tar+gzip": gzip.compress,
    # Two frames, as zstd:chunked has many.
    "tar+zstd": lambda data: zstandard.compress(data[:700_000]) + zstandard.compress(data[700_000:]),
}


@pytest.mark.parametrize("kind", PACKERS)
def test_floor_writes_every_file_of_a_layer(tmp_path: Path, kind: str) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for number, content in enumerate(CONTENTS):
            member = tarfile.TarInfo(f"usr/{number}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        tar.addfile(_link())
    blob = PACKERS[kind](stream.getvalue())
    layer = {"mediaType": f"application/vnd.oci.image.layer.v1.{kind}", "size": len(blob)}
    manifest = json.dumps({"layers": [layer | {"digest": _store(tmp_path, blob)}]}).encode()

    (tmp_path / "target").mkdir()
    layers = plan(tmp_path, _store(tmp_path, manifest))
    spent = run(layers, tmp_path / "target")

    written = sorted(path.read_bytes() for path in (tmp_path / "target").glob("*/*"))
    assert written == sorted(CONTENTS)
    assert set(spent) == {"hash", "decompress", "write"}


def _link() -> tarfile.TarInfo:
    link = tarfile.TarInfo("usr/link")
    link.type, link.linkname = tarfile.SYMTYPE, "0"
    return link


def _store(layout: Path, data: bytes) -> str:
    checksum = hashlib.sha256(data).hexdigest()
    (layout / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    (layout / "blobs/sha256" / checksum).write_bytes(data)
    return f"sha256:{checksum}"
