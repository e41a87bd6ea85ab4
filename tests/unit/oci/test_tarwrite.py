"""Headers of layer archives, read back by our reader and by Python's tarfile."""

from __future__ import annotations

import io
import tarfile

from hypothesis import given
from hypothesis import strategies as st

from bootcd.oci.tar import EntryType, TarEntry, TarReader
from bootcd.oci.tarwrite import END, header, padding

NAME = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\0/"), min_size=1, max_size=40
).filter(lambda part: len(part.encode()) <= 255)
PATHS = st.lists(NAME, min_size=1, max_size=12).map("/".join)
XATTRS = st.dictionaries(
    st.sampled_from(["user.a", "user.ö", "security.capability", "trusted.x"]), st.binary(max_size=700)
)


@st.composite
def entries(draw: st.DrawFn) -> tuple[TarEntry, bytes]:
    kind = draw(st.sampled_from(EntryType))
    content = draw(st.binary(max_size=1200)) if kind is EntryType.FILE else b""
    linked = kind in (EntryType.HARDLINK, EntryType.SYMLINK)
    device = kind in (EntryType.CHARACTER, EntryType.BLOCK)
    entry = TarEntry(
        name=draw(PATHS),
        type=kind,
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(st.integers(0, (1 << 32) - 2)),
        gid=draw(st.integers(0, (1 << 32) - 2)),
        size=len(content),
        linkname=draw(PATHS) if linked else "",
        mtime=draw(st.integers(-(1 << 40), 1 << 40)),
        xattrs=draw(XATTRS),
        device=draw(st.tuples(st.integers(0, 4095), st.integers(0, 1 << 20))) if device else (0, 0),
    )
    return entry, content


def archive(*members: tuple[TarEntry, bytes]) -> bytes:
    parts = (header(entry) + content + padding(len(content)) for entry, content in members)
    return b"".join(parts) + END


@given(st.lists(entries(), max_size=5))
def test_archive_written_is_read_back_as_it_was(members: list[tuple[TarEntry, bytes]]) -> None:
    reader = TarReader(io.BytesIO(archive(*members)))  # type: ignore[arg-type]
    assert [(entry, b"".join(map(bytes, reader.read_chunks()))) for entry in reader] == members


@given(entries())
def test_archive_written_means_the_same_to_another_reader(member: tuple[TarEntry, bytes]) -> None:
    entry, content = member
    with tarfile.open(fileobj=io.BytesIO(archive(member))) as opened:
        (found,) = opened.getmembers()
        assert (found.name, found.linkname) == (entry.name.rstrip("/"), entry.linkname)
        assert (found.mode, found.uid, found.gid) == (entry.mode, entry.uid, entry.gid)
        assert (found.size, int(found.mtime)) == (len(content), entry.mtime)
        assert (found.devmajor, found.devminor) == entry.device
        assert (found.uname, found.gname) == ("", "")
        if entry.type is EntryType.FILE:
            stream = opened.extractfile(found)
            assert stream is not None
            assert stream.read() == content


def test_order_of_attributes_makes_no_difference() -> None:
    one, two = (
        TarEntry("x", EntryType.FILE, 0o644, 0, 0, 0, "", 0, dict(pairs))
        for pairs in ([("user.a", b"1"), ("user.b", b"2")], [("user.b", b"2"), ("user.a", b"1")])
    )
    assert header(one) == header(two)
