"""The layer archive reader, with Python's tarfile as writer and as oracle, and archives made to harm."""

import io
import random
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bootcd.model.errors import InvalidLayer
from bootcd.oci import tar
from bootcd.oci.tar import EntryType, TarEntry, TarReader

BLOCK = 512
END = bytes(2 * BLOCK)

TYPES = {
    tarfile.REGTYPE: EntryType.FILE,
    tarfile.LNKTYPE: EntryType.HARDLINK,
    tarfile.SYMTYPE: EntryType.SYMLINK,
    tarfile.CHRTYPE: EntryType.CHARACTER,
    tarfile.BLKTYPE: EntryType.BLOCK,
    tarfile.DIRTYPE: EntryType.DIRECTORY,
    tarfile.FIFOTYPE: EntryType.FIFO,
}


class Dribble:
    """A source that gives at most a few bytes at a time, as a network would."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._data = data
        self._sizes = sizes
        self._calls = 0
        self.position = 0

    def readinto(self, buffer: memoryview, /) -> int:
        count = min(self._sizes[self._calls % len(self._sizes)], len(buffer), len(self._data) - self.position)
        self._calls += 1
        buffer[:count] = self._data[self.position : self.position + count]
        self.position += count
        return count


class Blocks:
    """Gives what another source has in blocks, each in the place of the one before."""

    def __init__(self, source: Dribble) -> None:
        self._source = source
        self._buffer = memoryview(bytearray(3000))

    def next_block(self) -> memoryview:
        return self._buffer[: self._source.readinto(self._buffer)]


def read_all(data: bytes, *, buffer_bytes: int = 1 << 16) -> list[tuple[TarEntry, bytes]]:
    reader = TarReader(io.BytesIO(data), buffer_bytes=buffer_bytes)  # type: ignore[arg-type]
    return [(entry, payload(reader)) for entry in reader]


def payload(reader: TarReader) -> bytes:
    # A chunk is overwritten by the next one, so it is copied at once.
    return b"".join([bytes(chunk) for chunk in reader.read_chunks()])


def names(data: bytes) -> list[str]:
    return [entry.name for entry, _ in read_all(data)]


def write(members: list[tuple[tarfile.TarInfo, bytes]], format: int, **options: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format, **options) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def header(name: bytes = b"a", kind: bytes = b"0", size: bytes = b"0", **fields: bytes) -> bytes:
    """Make one header block by hand; numbers are given as they stand in the field."""
    block = bytearray(BLOCK)
    parts = {
        "mode": (100, b"644"),
        "uid": (108, b"0"),
        "gid": (116, b"0"),
        "mtime": (136, b"0"),
        "linkname": (157, b""),
        "magic": (257, b"ustar\x0000"),
        "prefix": (345, b""),
        "trailer": (508, b""),
    }
    block[: len(name)] = name
    block[124 : 124 + len(size)] = size
    block[156:157] = kind
    for key, (offset, default) in parts.items():
        value = fields.pop(key, default)
        block[offset : offset + len(value)] = value
    assert not fields
    block[148:156] = b" " * 8
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(b"%d" % length):
        length = len(rest) + len(b"%d" % length)
    return b"%d" % length + rest


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    body = b"".join(records)
    return header(b"pax", kind, b"%o" % len(body)) + padded(body)


# What tarfile can say, we read the same


def part(alphabet: st.SearchStrategy[str], longest: int) -> st.SearchStrategy[str]:
    return st.text(alphabet, min_size=1, max_size=longest).filter(lambda text: text not in (".", ".."))


ASCII = st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/")
ANY = st.characters(exclude_categories=["Cs"], exclude_characters="/\0")


@st.composite
def members(draw: st.DrawFn, format: int) -> list[tuple[tarfile.TarInfo, bytes]]:
    """Entries that the given format can hold."""
    limited = format == tarfile.USTAR_FORMAT
    alphabet = ASCII if limited else ANY
    path = st.lists(part(alphabet, 30), min_size=1, max_size=3 if limited else 12).map("/".join)
    result = []
    for _ in range(draw(st.integers(0, 6))):
        info = tarfile.TarInfo(draw(path))
        info.type = draw(st.sampled_from(sorted(TYPES)))
        info.mode = draw(st.integers(0, 0o7777))
        number = st.integers(0, 0o7777777) if limited else st.integers(0, 2**32 - 2)
        info.uid = draw(number)
        info.gid = draw(number)
        info.mtime = draw(st.integers(0 if limited else -(2**40), 0o77777777777 if limited else 2**40))
        content = b""
        if info.type in (tarfile.LNKTYPE, tarfile.SYMTYPE):
            info.linkname = draw(path)
        if info.type == tarfile.REGTYPE:
            content = draw(st.binary(max_size=20) | st.integers(0, 2000).map(lambda n: b"\xa5" * n))
        info.size = len(content)
        if format == tarfile.PAX_FORMAT:
            # tarfile keeps pax values as text; surrogates carry bytes that are no UTF-8.
            values = st.binary(min_size=1, max_size=60).map(
                lambda raw: raw.decode("utf-8", "surrogateescape")
            )
            keys = part(ASCII.filter(lambda c: c != "="), 20).map("SCHILY.xattr.user.{}".format)
            info.pax_headers = draw(st.dictionaries(keys, values, max_size=3))
        result.append((info, content))
    return result


@pytest.mark.parametrize(
    "format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["ustar", "gnu", "pax"]
)
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=40, deadline=None)
@given(st.data(), st.none() | st.integers(0, 3000), st.lists(st.integers(1, 3000), min_size=1, max_size=5))
def test_archive_written_by_tarfile_is_read_back(format, data, buffer_bytes, sizes):
    wanted = data.draw(members(format))
    source = Dribble(write(wanted, format), sizes)
    reader = (
        TarReader(Blocks(source)) if buffer_bytes is None else TarReader(source, buffer_bytes=buffer_bytes)
    )
    read = [(entry, payload(reader)) for entry in reader]
    assert len(read) == len(wanted)
    for (entry, content), (info, expected) in zip(read, wanted, strict=True):
        name = info.name.rstrip("/") if info.isdir() else info.name
        assert entry == TarEntry(
            name=name,
            type=TYPES[info.type],
            mode=info.mode,
            uid=info.uid,
            gid=info.gid,
            size=len(expected),
            linkname=info.linkname,
            mtime=info.mtime,
            xattrs={
                key.removeprefix("SCHILY.xattr."): value.encode("utf-8", "surrogateescape")
                for key, value in info.pax_headers.items()
            },
        )
        assert content == expected


def random_archive(rng: random.Random) -> bytes:
    format = rng.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    wanted = []
    for number in range(rng.randrange(1, 6)):
        info = tarfile.TarInfo("d/" * rng.choice([0, 1, 60]) + f"name{number}")
        info.type = rng.choice(sorted(TYPES))
        info.linkname = "target" * rng.choice([1, 20])
        info.size = rng.choice([0, 5, 700]) if info.isreg() else 0
        if format == tarfile.USTAR_FORMAT:
            info.linkname = "target"
        if format == tarfile.PAX_FORMAT:
            info.pax_headers = {"SCHILY.xattr.user.k": "v", "mtime": "12.5"}
        wanted.append((info, b"x" * info.size))
    return write(wanted, format)


def mended(archive: bytearray) -> bytearray:
    """Make the checksum of every block that looks like a header right again."""
    for start in range(0, len(archive) - BLOCK + 1, BLOCK):
        if archive[start + 257 : start + 262] == b"ustar":
            archive[start + 148 : start + 156] = b" " * 8
            archive[start + 148 : start + 155] = b"%06o\0" % sum(archive[start : start + BLOCK])
    return archive


@pytest.mark.parametrize("seed", range(40))
def test_damaged_archive_is_read_or_refused_and_nothing_else(seed):
    rng = random.Random(seed)
    messages = []
    for _ in range(30):
        archive = bytearray(random_archive(rng))
        for _ in range(rng.randrange(1, 6)):
            start = rng.randrange(len(archive))
            if rng.random() < 0.5:
                archive[start] = rng.choice([0, 0x20, 0x2D, 0x31, 0x37, 0x78, 0x80, 0xFF, rng.randrange(256)])
            elif rng.random() < 0.5:
                del archive[start : start + rng.choice([1, 7, BLOCK])]
            else:
                archive[start:start] = rng.randbytes(rng.choice([1, 7, BLOCK]))
            archive = archive or bytearray(1)
        if rng.random() < 0.8:
            archive = mended(archive)
        reader = TarReader(Dribble(bytes(archive), [1, 511, 600]), buffer_bytes=1024)
        try:
            total = sum(len(chunk) for _ in reader for chunk in reader.read_chunks())
        except InvalidLayer as error:
            messages.append(error.message)
        else:
            assert total <= len(archive)
    assert 0 < len(messages) < 30
    assert all(message.isprintable() and len(message) < 300 for message in messages)


# What the header can hold beyond that


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (header(b"name", prefix=b"pre/fix"), "pre/fix/name"),
        (header(b"name", magic=b"ustar  \0", prefix=b"pre/fix"), "name"),
        (header(b"name", magic=b"", prefix=b"pre/fix"), "name"),
        (header(b"name", prefix=b"p" * 131 + b"0123456789", trailer=b"tar\0"), "p" * 131 + "/name"),
        (header(b"n" * 100), "n" * 100),
        (header(b"name\0rubbish\xff"), "name"),
        (header("naïve/日本".encode()), "naïve/日本"),
        (header(b"new\nline"), "new\nline"),
        (header(b"/abs/../dots"), "/abs/../dots"),
        (header(b"file/", b"0"), "file/"),
        (header(b"dir///", b"5"), "dir"),
        (header(b"/", b"5"), "/"),
    ],
    ids=["prefix", "gnu", "v7", "star", "full", "rubbish", "utf8", "newline", "path", "slash", "dir", "root"],
)
def test_name_is_taken_from_the_header_as_its_format_says(block, expected):
    assert names(block + END) == [expected]


def test_v7_name_with_a_slash_at_its_end_is_a_directory():
    [(entry, _)] = read_all(header(b"dir/", b"\0", magic=b"") + END)
    assert (entry.name, entry.type) == ("dir", EntryType.DIRECTORY)


@pytest.mark.parametrize("kind", [b"\0", b"7"], ids=["v7", "contiguous"])
def test_other_spellings_of_a_regular_file_are_files(kind):
    [(entry, content)] = read_all(header(kind=kind, size=b"3") + padded(b"abc") + END)
    assert (entry.type, content) == (EntryType.FILE, b"abc")


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (b"0000017\0", 15),
        (b"000017 \0", 15),
        (b"    17 \0", 15),
        (b"00000017", 15),
        (b"", 0),
        (b"        ", 0),
        (b"\x80" + bytes(6) + b"\x0f", 15),
        (b"\x80\x00\x00\x00\xff\xff\xff\xfe", 2**32 - 2),
    ],
)
def test_number_is_read_in_every_spelling(field, expected):
    [(entry, _)] = read_all(header(uid=field) + END)
    assert entry.uid == expected


def test_mode_holds_permission_and_set_id_bits_only():
    [(entry, _)] = read_all(header(mode=b"0104755\0") + END)
    assert entry.mode == 0o4755


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"12", 12), (b"12.9", 12), (b"-12", -12), (b"-12.0", -12), (b"-12.1", -13), (b"0.000000001", 0)],
)
def test_pax_time_is_rounded_down(value, expected):
    [(entry, _)] = read_all(pax(record(b"mtime", value)) + header() + END)
    assert entry.mtime == expected


def test_pax_records_win_over_the_header():
    archive = pax(
        record(b"path", b"long/name"), record(b"size", b"5"), record(b"uid", b"3000000"), record(b"gid", b"4")
    )
    [(entry, content)] = read_all(archive + header(size=b"0") + padded(b"hello") + END)
    assert (entry.name, entry.size, entry.uid, entry.gid, content) == ("long/name", 5, 3000000, 4, b"hello")


def test_pax_record_is_for_one_entry_only():
    archive = (
        pax(record(b"path", b"first"), record(b"SCHILY.xattr.user.a", b"1")) + header() + header(b"second")
    )
    (first, _), (second, _) = read_all(archive + END)
    assert (first.name, first.xattrs) == ("first", {"user.a": b"1"})
    assert (second.name, second.xattrs) == ("second", {})


def test_global_pax_record_is_for_all_entries_until_overridden():
    archive = (
        header(b"before", uid=b"1")
        + pax(record(b"uid", b"7"), record(b"comment", b"x"), kind=b"g")
        + header(b"global", uid=b"1")
        + pax(record(b"uid", b"8"))
        + header(b"own", uid=b"1")
        + pax(record(b"uid", b""))
        + header(b"restored", uid=b"1")
        + header(b"again", uid=b"1")
    )
    assert [entry.uid for entry, _ in read_all(archive + END)] == [1, 7, 8, 1, 7]


def test_gnu_long_name_and_link_are_joined_to_the_next_entry():
    long_name, long_link = b"n" * 300, b"l" * 400
    archive = header(b"././@LongLink", b"L", b"%o" % 301) + padded(long_name + b"\0")
    archive += header(b"././@LongLink", b"K", b"%o" % 401) + padded(long_link + b"\0")
    archive += header(b"cut", b"2", linkname=b"cut") + header(b"next", b"2", linkname=b"to")
    (entry, _), (after, _) = read_all(archive + END)
    assert (entry.name, entry.linkname) == ("n" * 300, "l" * 400)
    assert (after.name, after.linkname) == ("next", "to")


@pytest.mark.parametrize(
    "value", [b"", b"\0\xff\n=", b"\x01" * tar.MAX_XATTR_BYTES], ids=["empty", "binary", "big"]
)
def test_xattr_value_is_kept_byte_for_byte(value):
    archive = pax(record(b"SCHILY.xattr.security.capability", value)) + header() + END
    [(entry, _)] = read_all(archive)
    assert entry.xattrs == {"security.capability": value}


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6"])
def test_entry_that_is_no_file_has_no_payload_whatever_its_size(kind):
    archive = header(b"a", kind, b"1000", linkname=b"x") + header(b"b") + END
    (entry, content), (after, _) = read_all(archive)
    assert (entry.size, content, after.name) == (0, b"", "b")


def test_hardlink_that_carries_a_payload_is_refused():
    with pytest.raises(InvalidLayer, match="damaged header after entry 'a'"):
        read_all(header(b"a", b"1", b"1000", linkname=b"x") + padded(b"x" * 512) + END)


# Ends


def test_unread_and_half_read_payload_is_skipped():
    files = b"".join(header(b"f%d" % n, size=b"%o" % 3000) + padded(bytes([n]) * 3000) for n in range(20))
    reader = TarReader(Dribble(files + END, [700]), buffer_bytes=1024)
    seen = []
    for number, entry in enumerate(reader):
        if number % 3 == 1:
            assert set(bytes(next(reader.read_chunks()))) == {number}
        if number % 3 == 2:
            assert payload(reader) == bytes([number]) * 3000
        seen.append(entry.name)
    assert seen == [f"f{n}" for n in range(20)]


@pytest.mark.parametrize("end", [b"", bytes(BLOCK), END, END + b"rubbish behind the end" * 100])
def test_archive_may_end_with_or_without_zero_blocks(end):
    assert names(header() + end) == ["a"]


def test_empty_source_is_an_empty_archive():
    assert names(b"") == []


def test_drain_reads_the_source_to_its_end():
    source = Dribble(header() + END + bytes(100_000), [4096])
    reader = TarReader(source)
    assert [entry.name for entry in reader] == ["a"]
    reader.drain()
    assert source.position == BLOCK * 3 + 100_000


def test_drain_ends_the_iteration():
    reader = TarReader(
        Dribble(header(size=b"1000") + bytes(512) + header(b"b") + END, [300]), buffer_bytes=1024
    )
    entries = iter(reader)
    next(entries)
    reader.drain()
    assert list(reader.read_chunks()) == []
    assert list(entries) == []


CUT_ARCHIVE = pax(record(b"uid", b"5")) + header(b"cut", size=b"%o" % 700) + padded(b"x" * 700) + END


@pytest.mark.parametrize("length", [1, 511, 513, 1023, 1025, 1535, 1537, 2048, 2236, 2559, 2561, 3071])
def test_cut_archive_is_refused(length):
    with pytest.raises(InvalidLayer, match="cut short"):
        read_all(CUT_ARCHIVE[:length])


def test_archive_cut_behind_an_extended_header_is_refused():
    with pytest.raises(InvalidLayer, match="without an entry"):
        read_all(CUT_ARCHIVE[:1024])


# What is refused


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (b"\x1f\x8b" + bytes(510), "damaged header at its start"),
        (header()[:-1] + b"x", "damaged header at its start"),
        (header() + b"<html>" + bytes(506), "damaged header after entry 'a'"),
        (header() + bytes(BLOCK) + header(b"b"), "lone zero block after entry 'a'"),
        (header(b"bad\xff"), "'bad\ufffd' .* not UTF-8"),
        (header(b"\xed\xa0\x80"), "not UTF-8"),
        (header(b"", b"0"), "empty name"),
        (header(b"a", b"2"), "empty link target"),
        (header(b"a", b"1"), "empty link target"),
        (header(b"a", b"2", linkname=b"\xff"), "link target that is not UTF-8"),
        (header(b"a", b"S"), "'a' .* unsupported type 'S'"),
        (header(b"a", b"M"), "unsupported type 'M'"),
        (header(b"a", b"V"), "unsupported type 'V'"),
        (header(b"a", b"D"), "unsupported type 'D'"),
        (header(b"a", b"X"), "unsupported type 'X'"),
        (header(b"a", b"\xff"), "unsupported type"),
        (header(b"a", size=b"\xff" * 12), "size or mode out of range"),
        (header(b"a", b"5", size=b"\xff" * 12), "size or mode out of range"),
        (header(b"a", size=b"-1"), "malformed number"),
        (header(b"a", size=b"0x1"), "malformed number"),
        (header(b"a", size=b"1_0"), "malformed number"),
        (header(b"a", size=b"9"), "malformed number"),
        (header(b"a", size=b"\xc2\xb2"), "size or mode out of range"),
        (header(b"a", uid=b"\xff" * 8), "owner out of range"),
        (header(b"a", uid=b"\x80\0\0\0\xff\xff\xff\xff"), "owner out of range"),
        (header(b"a", gid=b"zz"), "malformed number"),
        (header(b"a", mode=b"rw"), "malformed number"),
        (header(b"a", mode=b"\xff" * 8), "size or mode out of range"),
        (header(b"a", b"x", size=b"%o" % (tar.MAX_RECORD_BYTES + 1)), "too large"),
        (header(b"a", b"L", size=b"%o" % (tar.MAX_RECORD_BYTES + 1)), "too large"),
        (header(b"a", b"x", size=b"\xff" * 12), "too large"),
        (header(b"a", b"x", size=b"z"), "malformed extended header"),
        (header(b"a", b"L", b"2") + padded(b"\0\0") + header(b""), "empty name"),
        (header(b"a", b"L", b"3") + padded(b"a\0b") + header(), "NUL byte"),
        (header(b"a", b"L", b"%o" % 4097) + padded(b"n" * 4097) + header(), "longer than 4096"),
        (header(b"a", b"K", b"%o" % 4097) + padded(b"n" * 4097) + header(b"a", b"2"), "longer than 4096"),
        (pax(record(b"path", b"a\0b")) + header(), "NUL byte"),
        (pax(record(b"path", b"\xff")) + header(), "not UTF-8"),
        (pax(record(b"path", b"n" * 4097)) + header(), "longer than 4096"),
        (pax(record(b"linkpath", b"n" * 4097)) + header(b"a", b"2"), "longer than 4096"),
        (pax(record(b"size", b"-1")) + header(), "malformed number"),
        (pax(record(b"size", b" 1")) + header(), "malformed number"),
        (pax(record(b"size", b"9" * 21)) + header(), "malformed number"),
        (pax(record(b"size", b"9" * 20)) + header(), "size or mode out of range"),
        (pax(record(b"size", b"9" * 5000)) + header(), "malformed number"),
        (pax(record(b"uid", b"4294967295")) + header(), "owner out of range"),
        (pax(record(b"mtime", b"1e5")) + header(), "malformed number"),
        (pax(record(b"mtime", b"nan")) + header(), "malformed number"),
        (pax(record(b"mtime", b"9" * 5000)) + header(), "malformed number"),
        (pax(record(b"GNU.sparse.major", b"1")) + header(), "sparse"),
        (pax(record(b"GNU.sparse.map", b"0,1")) + header(), "sparse"),
        (pax(b"5 a=") + header(), "malformed extended"),
        (pax(b"6 a=b\n\0") + header(), "malformed extended"),
        (pax(b"0 a=b\n") + header(), "malformed extended"),
        (pax(b"4 a=b\n") + header(), "malformed extended"),
        (pax(b"-6 a=b\n") + header(), "malformed extended"),
        (pax(b"6 a:b\n") + header(), "malformed extended"),
        (pax(b"5 =b\n") + header(), "malformed extended"),
        (pax(b"99 a=b\n") + header(), "malformed extended"),
        (pax(b"1" * 5000) + header(), "malformed extended"),
        (pax(b" 6 a=b\n") + header(), "malformed extended"),
        (pax(record(b"uid", b"1")) + pax(record(b"gid", b"1")) + header(), "two extended headers"),
        (pax(record(b"SCHILY.xattr.user.a", b"1"), kind=b"g") + header(), "attributes for all entries"),
        (pax(record(b"SCHILY.xattr.", b"1")) + header(), "empty name of an extended attribute"),
        (pax(record(b"SCHILY.xattr.a\0b", b"1")) + header(), "NUL byte"),
        (pax(record(b"SCHILY.xattr.user.\xff", b"1")) + header(), "not UTF-8"),
        (pax(record(b"SCHILY.xattr." + b"n" * 256, b"1")) + header(), "too long a name"),
        (pax(record(b"SCHILY.xattr.a", bytes(tar.MAX_XATTR_BYTES + 1))) + header(), "more than 65536"),
        (pax(*(record(b"SCHILY.xattr.user.%d" % n, b"") for n in range(1001))) + header(), "more than 1000"),
        (pax(record(b"uid", b"1")) + END, "extended header without an entry"),
        (header(b"a", b"L", b"2") + padded(b"b") + END, "extended header without an entry"),
    ],
)  # fmt: skip
def test_hostile_archive_is_refused(archive, reason):
    with pytest.raises(InvalidLayer, match=reason) as caught:
        read_all(archive if archive.endswith(END) else archive + END)
    assert len(caught.value.message) < 300
    assert caught.value.message.isprintable()


def test_thousand_xattrs_are_accepted():
    archive = pax(*(record(b"SCHILY.xattr.user.%d" % n, b"") for n in range(1000))) + header() + END
    assert len(read_all(archive)[0][0].xattrs) == 1000


def test_number_of_headers_is_bounded(monkeypatch):
    monkeypatch.setattr(tar, "MAX_ENTRIES", 10)
    assert len(read_all(header() * 10 + END)) == 10
    with pytest.raises(InvalidLayer, match="more than 10 headers"):
        read_all(pax(record(b"uid", b"1")) * 1 + header() * 10 + END)
    with pytest.raises(InvalidLayer, match="more than 10 headers"):
        read_all((header(b"l", b"L", b"2") + padded(b"b")) * 11 + END)


def test_error_of_the_source_passes_through():
    class Broken:
        def readinto(self, buffer: memoryview, /) -> int:
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        list(TarReader(Broken()))
