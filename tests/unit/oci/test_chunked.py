"""zstd:chunked: what is written is read again, and a table that lies about its layer is refused."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.model.errors import InvalidLayer
from bootcd.oci.chunked import (
    CHECKSUM,
    FOOTER_BYTES,
    MAX_ENTRY_CHARS,
    MAX_TABLE_BYTES,
    POSITION,
    TAR_SPLIT_POSITION,
    Layout,
    Part,
    Table,
    TableEntry,
    footer,
    layer_annotations,
    layer_layout,
    modtime,
    parse_footer,
    skippable_frame,
    write_table,
)
from bootcd.oci.tarsplit import Payload, file_line, read_tar_split, segment_line

LAYER_BYTES = 100_000
DATA_END = 80_000
LAYOUT = Layout(f"sha256:{7:064x}", Part(80_008, 9_000, 50_000), Part(90_000, 5_000, 60_000))


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def file(name: str = "usr/bin/tool", **changes: Any) -> dict[str, Any]:
    whole = {"type": "reg", "name": name, "mode": 0o755, "size": 9000, "digest": digest(1)}
    return whole | {"offset": 100, "endOffset": 4000} | changes


def chunk(offset: int, chunk_offset: int, chunk_size: int, **changes: Any) -> dict[str, Any]:
    return {
        "type": "chunk",
        "name": "usr/bin/tool",
        "offset": offset,
        "chunkOffset": chunk_offset,
        "chunkSize": chunk_size,
        "chunkDigest": digest(chunk_offset),
    } | changes


def blocks(data: bytes, size: int = 7) -> Iterable[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def table(*entries: Any, size: int = 7, **changes: Any) -> list[TableEntry]:
    document = {"version": 1, "entries": list(entries), "tarSplitDigest": digest(9)} | changes
    return list(Table(blocks(json.dumps(document).encode(), size), data_end=DATA_END))


# Annotations and footer


def test_annotations_of_a_layout_are_read_as_the_layout() -> None:
    annotations = layer_annotations(LAYOUT)

    assert annotations[POSITION] == "80008:9000:50000:1"
    assert annotations[TAR_SPLIT_POSITION] == "90000:5000:60000"
    assert layer_layout(annotations | {"other": "1"}, LAYER_BYTES) == LAYOUT
    assert LAYOUT.data_end == DATA_END


def test_layer_without_annotations_has_no_layout() -> None:
    assert layer_layout({"org.example": "1"}, LAYER_BYTES) is None


def test_footer_of_a_layout_is_read_as_its_parts() -> None:
    frame = skippable_frame(footer(LAYOUT))

    assert frame[:8] == bytes.fromhex("502a4d1840000000")
    assert len(frame) == 8 + FOOTER_BYTES
    assert parse_footer(frame[8:], LAYER_BYTES) == (LAYOUT.table, LAYOUT.tar_split)
    with pytest.raises(InvalidLayer):
        parse_footer(frame[8:], 90_000)
    with pytest.raises(InvalidLayer):
        parse_footer(bytes(FOOTER_BYTES), LAYER_BYTES)


@pytest.mark.parametrize(
    "changes",
    [
        {CHECKSUM: "sha256:7"},
        {CHECKSUM: f"sha512:{7:0128x}"},
        {CHECKSUM: ""},
        {POSITION: "80008:9000:50000"},
        {POSITION: "80008:9000:50000:2"},
        {POSITION: "-8:9000:50000:1"},
        {POSITION: "08:9000:50000:1"},
        {POSITION: "\u0661:9000:50000:1"},
        {POSITION: "7:9000:50000:1"},
        {POSITION: "80008:0:50000:1"},
        {POSITION: "80008:9000:0:1"},
        {POSITION: f"80008:9000:{MAX_TABLE_BYTES + 1}:1"},
        {POSITION: "99000:9000:50000:1"},
        {POSITION: "9223372036854775807:9000:50000:1"},
        {POSITION: "88000:9000:50000:1"},
        {TAR_SPLIT_POSITION: "90000:5000"},
        {TAR_SPLIT_POSITION: "89010:5000:60000"},
        {TAR_SPLIT_POSITION: "99000:5000:60000"},
        {"containerd.io/snapshot/stargz/toc.digest": digest(1)},
    ],
)
def test_annotations_that_cannot_be_true_are_refused(changes: dict[str, str]) -> None:
    with pytest.raises(InvalidLayer):
        layer_layout(layer_annotations(LAYOUT) | changes, LAYER_BYTES)


# Table


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_table_is_read_in_blocks_of_any_size(size: int) -> None:
    entries = table(
        {"type": "dir", "name": "usr/", "mode": 0o755, "modtime": "2026-01-01T00:00:00Z"},
        file(xattrs={"security.capability": "AQID"}, uid=3, gid=4),
        {"type": "char", "name": "dev/x", "devMajor": 1, "devMinor": 2},
        file("empty", size=0, digest="", offset=0, endOffset=0),
        size=size,
        unknown={"deep": [1, {"x": "\u00e9"}]},
    )

    assert [entry.type for entry in entries] == ["dir", "reg", "char", "reg"]
    assert entries[1].xattrs == {"security.capability": b"\1\2\3"}
    assert (entries[1].offset, entries[1].end_offset, entries[1].uid) == (100, 4000, 3)
    assert entries[2].device == (1, 2)


def test_table_tells_the_digest_of_tar_split() -> None:
    source = Table([b'{"tarSplitDigest":"' + digest(5).encode() + b'","entries":[],"version":1}'], data_end=0)

    assert list(source) == []
    assert source.tar_split_digest == digest(5)


def test_chunks_make_up_their_file() -> None:
    entries = table(
        file(chunkSize=4000, chunkDigest=digest(2)),
        chunk(2000, 4000, 2000, chunkType="zeros"),
        chunk(2010, 6000, 3000),
        file("next", offset=4000, endOffset=5000),
    )

    assert [entry.chunk_offset for entry in entries] == [0, 4000, 6000, 0]
    assert entries[1].chunk_type == "zeros"


@pytest.mark.parametrize(
    "entries",
    [
        [file(), file("b")],
        [file(offset=4000, endOffset=4000)],
        [file(endOffset=DATA_END + 1)],
        [file(offset=-1)],
        [file(offset=True)],
        [file(offset=1.0)],
        [file(size=1 << 63)],
        [file(digest="")],
        [file(digest="sha256:1")],
        [file(digest=f"sha512:{1:0128x}")],
        [file("usr/../../etc/shadow")],
        [file("a\0b")],
        [file("a" * 5000)],
        [file("\ud800")],
        [file(type="sparse")],
        [file(type=["reg"])],
        [file(type="symlink")],
        [{"type": "dir"}],
        [file(xattrs={"user.x": "*"})],
        [file(xattrs=["user.x"])],
        [file(xattrs={"user.x": 1})],
        [file(chunkType="holes")],
        ["reg"],
        [chunk(100, 0, 10)],
        [file(chunkSize=4000, chunkDigest=digest(2))],
        [file(chunkSize=4000, chunkDigest=digest(2)), chunk(2000, 4000, 5001)],
        [file(chunkSize=4000, chunkDigest=digest(2)), chunk(2000, 4001, 4999)],
        [file(chunkSize=4000, chunkDigest=digest(2)), chunk(5000, 4000, 5000)],
        [file(chunkSize=4000, chunkDigest=digest(2)), chunk(2000, 4000, 5000, name="other")],
        [file(chunkSize=4000, chunkDigest=digest(2)), file("b", offset=4000, endOffset=5000)],
    ],
)
def test_entry_that_cannot_be_true_is_refused(entries: list[Any]) -> None:
    with pytest.raises(InvalidLayer):
        table(*entries)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b'{"version":1}',
        b'{"entries":[]}',
        b'{"version":2,"entries":[]}',
        b'{"version":1,"entries":[],"entries":[]}',
        b'{"version":1,"entries":{}}',
        b'{"version":1,"entries":[]} {}',
        b'{"version":1,"entries":[],}',
        b'{"version":1,"entries":[',
        b'{"version":1,"entries":[{"type":"dir","name":"a","name":"b"}]}',
        b'{"version":1,"entries":[{"type":"dir","name":"a","x":NaN}]}',
        b'{"version":1,"entries":[' + b"[" * 200_000,
        b'{"version":1,"entries":[{"type":"dir","name":"\xff"}]}',
        b'{"version":1,"entries":[{"type":"dir","name":"' + b"a" * (MAX_ENTRY_CHARS + 10) + b'"}]}',
        b'{"version":1,"entries":[],"tarSplitDigest":"x"}',
    ],
)
def test_document_that_is_no_table_is_refused(document: bytes) -> None:
    with pytest.raises(InvalidLayer):
        list(Table(blocks(document, 1 << 16), data_end=DATA_END))


_NAMES = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=30
)
_OTHERS = st.builds(
    TableEntry,
    type=st.sampled_from(["dir", "symlink", "hardlink", "fifo", "char"]),
    name=_NAMES.filter(lambda name: ".." not in name),
    linkname=_NAMES,
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 1 << 31),
    modtime=st.integers(0, 1 << 40).map(modtime),
    xattrs=st.dictionaries(st.sampled_from(["user.a", "user.b"]), st.binary(max_size=40)),
    device=st.tuples(st.integers(0, 255), st.integers(0, 255)),
)


@given(st.lists(_OTHERS, max_size=6), st.integers(1, 400))
def test_what_is_written_is_read_again(entries: list[TableEntry], size: int) -> None:
    content = TableEntry("reg", "x", size=10, digest=digest(1), offset=5, end_offset=20)
    data = b"".join(write_table([*entries, content], digest(2)))
    source = Table(blocks(data, size), data_end=DATA_END)

    assert list(source) == [*entries, content]
    assert source.tar_split_digest == digest(2)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_table_or_refused(data: bytes) -> None:
    try:
        list(Table([data], data_end=DATA_END))
    except InvalidLayer:
        pass


# tar-split


def test_tar_split_is_read_as_it_was_written() -> None:
    lines = [
        segment_line(0, b"header"),
        file_line(1, "usr/\u00e9", 3, bytes(8)),
        segment_line(2, b"padding"),
        file_line(3, "empty", 0, b""),
        segment_line(4, b""),
    ]

    assert lines[3] == b'{"type":1,"name":"empty","payload":null,"position":3}\n'
    for size in (1, 9, 1000):
        found = list(read_tar_split(blocks(b"".join(lines), size)))
        assert found == [b"header", Payload("usr/\u00e9", 3), b"padding"]


@pytest.mark.parametrize(
    "line",
    [
        b"x",
        b"[]",
        b'{"type":3,"payload":""}',
        b'{"type":2,"payload":"*"}',
        b'{"type":2,"payload":1}',
        b'{"type":1,"name":1,"size":1}',
        b'{"type":1,"name":"a","size":-1}',
        b'{"type":1,"name":"a","size":true}',
        b'{"type":2,"payload":"\\ud800"}',
        b"[" * 100_000,
    ],
)
def test_malformed_tar_split_is_refused(line: bytes) -> None:
    with pytest.raises(InvalidLayer):
        list(read_tar_split([line]))


def test_endless_line_of_tar_split_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bootcd.oci.tarsplit.MAX_LINE_BYTES", 1000)
    with pytest.raises(InvalidLayer, match="too long"):
        list(read_tar_split(b"a" * 100 for _ in range(100)))
