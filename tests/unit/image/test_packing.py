"""Layers packed: any reader finds the archive in them, and one that knows zstd:chunked every file alone."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import zstandard

from bootcd.image.archive import Item, members
from bootcd.image.flatten import Node, Spool
from bootcd.image.packing import CHUNK_BYTES, Compression, Packed, Packing, pack
from bootcd.oci import chunked
from bootcd.oci.resolve import digest_of
from bootcd.oci.tar import EntryType, TarEntry, TarReader
from bootcd.oci.tarsplit import Payload, read_tar_split

LONG = "n" * 150
CONTENTS = {
    "usr/bin/tool": b"tool " * 500,
    "usr/lib/empty": b"",
    # Two whole pieces and a bit, of which the second compresses to nothing.
    "usr/lib/large": random.Random(1).randbytes(CHUNK_BYTES) + bytes(CHUNK_BYTES) + b"end",
    f"usr/lib/{LONG}/größe": b"x",
}


@dataclass
class Blob:
    data: bytes
    packed: Packed

    def plain(self) -> bytes:
        return unpacked(self.data)

    @property
    def layout(self) -> chunked.Layout:
        layout = chunked.layer_layout(self.packed.annotations, len(self.data))
        assert layout is not None
        return layout

    def table(self) -> tuple[list[chunked.TableEntry], str]:
        """Return the entries of the table of contents, and what it says of tar-split."""
        place = self.layout.table
        data = self.data[place.offset : place.end]
        assert digest_of(data) == self.layout.table_digest
        plain = unpacked(data)
        assert len(plain) == place.plain_size
        table = chunked.Table([plain], data_end=self.layout.data_end)
        return list(table), table.tar_split_digest


def unpacked(data: bytes) -> bytes:
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True)
    return bytes(reader.read())


def entry(path: str, kind: EntryType, **changes: object) -> TarEntry:
    values: dict[str, object] = {"mode": 0o755, "uid": 0, "gid": 0, "size": 0, "linkname": "", "mtime": 0}
    return TarEntry(path, kind, **(values | {"xattrs": {}} | changes))  # type: ignore[arg-type]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path) as spool:
        yield spool


@pytest.fixture
def items(spool: Spool) -> list[Item]:
    found = [Item("", Node(entry("", EntryType.DIRECTORY)))]
    for name, content in CONTENTS.items():
        offset = spool.append(iter([memoryview(content)]), lambda _: None)
        attributes = {"user.b": b"\x00\xff", "user.a": b"1"} if name == "usr/bin/tool" else {}
        about = entry("", EntryType.FILE, size=len(content), mode=0o4755, mtime=1_700_000_000)
        about.xattrs = attributes
        found.append(Item(name, Node(about, hashlib.sha256(content).digest(), offset)))
    found += [
        Item("usr/bin/hard", found[1].node, "usr/bin/tool"),
        Item("usr/bin/soft", Node(entry("", EntryType.SYMLINK, linkname="tool", uid=3_000_000_000))),
        Item("usr/lib/null", Node(entry("", EntryType.CHARACTER, device=(1, 3)))),
        Item("usr/lib/old", Node(entry("", EntryType.FIFO, mtime=-5))),
    ]
    return found


def packed(items: list[Item], spool: Spool, compression: Compression, level: int = 3) -> Blob:
    written: list[bytes] = []
    result = pack(members(items), spool, Packing(compression, level), written.append)
    return Blob(b"".join(written), result)


@pytest.mark.parametrize("level", [1, 19])
def test_every_form_holds_the_same_archive(items: list[Item], spool: Spool, level: int) -> None:
    plain = packed(items, spool, Compression.ZSTD, level)
    archive = plain.plain()
    assert gzip.decompress(packed(items, spool, Compression.GZIP, level).data) == archive
    blob = packed(items, spool, Compression.CHUNKED, level)
    assert blob.plain() == archive
    assert digest_of(archive) == blob.packed.diff_id == plain.packed.diff_id
    assert plain.packed.annotations == {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as found:
        assert set(found.getnames()) >= CONTENTS.keys()


@pytest.mark.parametrize("compression", Compression)
def test_program_of_its_format_unpacks_a_layer(
    items: list[Item], spool: Spool, compression: Compression
) -> None:
    blob = packed(items, spool, compression)
    program = "gzip" if compression is Compression.GZIP else "zstd"
    done = subprocess.run(
        [program, "-d", "-c", "-q"], input=blob.data, capture_output=True, timeout=50, check=True
    )
    assert digest_of(done.stdout) == blob.packed.diff_id


@pytest.mark.parametrize("compression", Compression)
def test_same_archive_gives_the_same_bytes(items: list[Item], spool: Spool, compression: Compression) -> None:
    assert packed(items, spool, compression) == packed(items, spool, compression)


def test_table_of_contents_says_what_the_headers_say(items: list[Item], spool: Spool) -> None:
    blob = packed(items, spool, Compression.CHUNKED)
    entries, _ = blob.table()
    kinds = {name: kind for kind, name in chunked.TYPES.items()}
    found = [
        TarEntry(
            item.name.removesuffix("/") if item.type == "dir" else item.name,
            *(kinds[item.type], item.mode, item.uid, item.gid, item.size, item.linkname),
            {"": 0, "2023-11-14T22:13:20Z": 1_700_000_000, "1969-12-31T23:59:55Z": -5}[item.modtime],
            item.xattrs,
            item.device,
        )
        for item in entries
        if item.type != chunked.CHUNK
    ]
    assert found == list(TarReader(io.BytesIO(blob.plain())))
    # As the archive has it: podman compares the two letter by letter.
    assert entries[0].name == "./"


def test_every_file_and_every_piece_is_found_alone(items: list[Item], spool: Spool) -> None:
    blob = packed(items, spool, Compression.CHUNKED)
    entries, _ = blob.table()
    files = {item.name: item for item in entries if item.type == chunked.FILE}
    assert files.keys() == CONTENTS.keys()
    for name, content in CONTENTS.items():
        item = files[name]
        assert item.digest == (digest_of(content) if content else "")
        assert unpacked(blob.data[item.offset : item.end_offset]) == content
    large = [item for item in entries if item.name == "usr/lib/large"]
    assert [item.type for item in large] == ["reg", "chunk", "chunk"]
    ends = [*(item.offset for item in large[1:]), large[0].end_offset]
    for item, end in zip(large, ends, strict=True):
        piece = unpacked(blob.data[item.offset : end])
        at = item.chunk_offset
        assert piece == CONTENTS["usr/lib/large"][at : at + item.chunk_size]
        assert digest_of(piece) == item.chunk_digest
    assert not files["usr/bin/tool"].chunk_digest


def test_tar_split_and_files_make_up_the_archive(items: list[Item], spool: Spool) -> None:
    blob = packed(items, spool, Compression.CHUNKED)
    _, tar_split_digest = blob.table()
    place = blob.layout.tar_split
    assert place is not None
    data = blob.data[place.offset : place.end]
    assert digest_of(data) == tar_split_digest
    lines = unpacked(data)
    assert len(lines) == place.plain_size
    parts = [CONTENTS[p.name] if isinstance(p, Payload) else p for p in read_tar_split([lines])]
    assert digest_of(b"".join(parts)) == blob.packed.diff_id


def test_checksum_in_tar_split_is_that_of_the_go_library(items: list[Item], spool: Spool) -> None:
    content = b"123456789"
    about = entry("", EntryType.FILE, size=len(content))
    offset = spool.append(iter([memoryview(content)]), lambda _: None)
    node = Node(about, hashlib.sha256(content).digest(), offset)
    blob = packed([Item("check", node)], spool, Compression.CHUNKED)
    place = blob.layout.tar_split
    assert place is not None
    # The check value of CRC-64/GO-ISO: B90956C775A41001.
    assert b'"payload":"uQlWx3WkEAE="' in unpacked(blob.data[place.offset : place.end])


def test_last_frame_repeats_the_annotations(items: list[Item], spool: Spool) -> None:
    blob = packed(items, spool, Compression.CHUNKED)
    places = chunked.parse_footer(blob.data[-chunked.FOOTER_BYTES :], len(blob.data))
    assert places == (blob.layout.table, blob.layout.tar_split)


def test_layer_whose_tables_nobody_would_read_is_an_ordinary_one(
    items: list[Item], spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bootcd.image.packing.MAX_TABLE_BYTES", 100)
    blob = packed(items, spool, Compression.CHUNKED)
    assert blob.packed.annotations == {}
    assert digest_of(blob.plain()) == blob.packed.diff_id


def test_layer_ends_at_the_next_piece_when_it_is_stopped(items: list[Item], spool: Spool) -> None:
    written: list[bytes] = []

    def write(data: bytes) -> None:
        written.append(data)
        if sum(map(len, written)) > CHUNK_BYTES // 2:
            spool.stop()

    with pytest.raises(InterruptedError):
        pack(members(items), spool, Packing(Compression.CHUNKED, 3), write)
    assert sum(map(len, written)) < 1.1 * CHUNK_BYTES
