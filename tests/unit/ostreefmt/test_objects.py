"""Object bytes against values libostree made, and parsers against damage.

That all of it equals libostree's own bytes is checked with libostree in tests/adapter/ostree.
"""

from __future__ import annotations

import hashlib
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.model.errors import BackendFailed, InternalError, InvalidLayer
from bootcd.ostreefmt import objects as o

REG = stat.S_IFREG | 0o644
DIR = stat.S_IFDIR | 0o755
LNK = stat.S_IFLNK | 0o777

ids = st.binary(min_size=32, max_size=32)
entry_names = (
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0/"), min_size=1, max_size=40)
    | st.text(st.just("x"), min_size=200, max_size=255)
).filter(lambda name: name not in (".", ".."))
trees = st.lists(entry_names, max_size=12, unique=True).flatmap(
    lambda names: st.integers(0, len(names)).flatmap(
        lambda cut: st.tuples(
            st.tuples(*(st.tuples(st.just(n), ids) for n in names[:cut])),
            st.tuples(*(st.tuples(st.just(n), ids, ids) for n in names[cut:])),
        )
    )
)
xattr_sets = st.dictionaries(
    st.binary(min_size=1, max_size=40).filter(lambda name: 0 not in name), st.binary(max_size=300), max_size=6
).map(lambda attrs: tuple(attrs.items()))


def test_file_header_of_root_owned_file_is_the_known_one() -> None:
    # The name `ostree commit` gave a file "hello\n" of root, mode 0644.
    header = o.file_header(0, 0, REG)
    assert header == bytes.fromhex("00000012000000000000000000000000000081a4000000000011")
    assert hashlib.sha256(header + b"hello\n").hexdigest() == HELLO


HELLO = "44f778e59f0a4748d6b0c90a47347212a231c4ad1e8f7ea5c5dffc7749153a6b"
EMPTY_TREE = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
ROOT_DIRMETA = "446a0ef11b7cc167f3b603e585c7eeeeb675faa412d5ec73f62988eb0b6c5488"
LINK_TO_BAR = "002bf0feb43fbc18726600c92e336a204f6eb895862206d4089894b6c7adf31f"


def test_metadata_objects_have_the_names_every_repository_knows() -> None:
    assert o.checksum(o.dirtree((), ())) == EMPTY_TREE
    assert o.checksum(o.dirmeta(0, 0, DIR)) == ROOT_DIRMETA


@pytest.mark.parametrize("permissions", [0o777, 0o755, 0])
def test_file_header_of_link_ignores_its_mode(permissions: int) -> None:
    assert o.checksum(o.file_header(0, 0, stat.S_IFLNK | permissions, "bar")) == LINK_TO_BAR


def test_dirtree_and_xattrs_do_not_depend_on_the_order_given() -> None:
    files = [("b", b"1" * 32), ("a", b"2" * 32), ("é", b"3" * 32), ("Z", b"4" * 32)]
    dirs = [("d", b"5" * 32, b"6" * 32), ("c", b"7" * 32, b"8" * 32)]
    assert o.dirtree(files, dirs) == o.dirtree(reversed(files), reversed(dirs))
    xattrs = [(b"user.b", b"1"), (b"user.a", b"2"), (b"user.a.", b"")]
    assert o.dirmeta(0, 0, DIR, xattrs) == o.dirmeta(0, 0, DIR, xattrs[::-1])
    assert o.file_header(0, 0, REG, xattrs=xattrs) == o.file_header(0, 0, REG, xattrs=xattrs[::-1])


@given(trees)
def test_dirtree_reads_back_sorted(
    tree: tuple[tuple[tuple[str, bytes], ...], tuple[tuple[str, bytes, bytes], ...]],
) -> None:
    files, dirs = tree
    assert o.parse_dirtree(o.dirtree(files, dirs)) == (sorted(files), sorted(dirs))


@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 8, 1500, 1600, 2000])
def test_dirtree_of_any_offset_width_reads_back(count: int) -> None:
    files = [(f"{index:06}", index.to_bytes(32, "big")) for index in range(count)]
    dirs = [(f"d{index:06}", b"t" * 32, b"m" * 32) for index in range(count // 2)]
    assert o.parse_dirtree(o.dirtree(files, dirs)) == (files, dirs)


@given(xattr_sets)
def test_dirmeta_reads_back_with_sorted_attributes(xattrs: tuple[tuple[bytes, bytes], ...]) -> None:
    assert o.parse_dirmeta(o.dirmeta(1, 2, DIR, xattrs)) == o.DirMeta(1, 2, DIR, tuple(sorted(xattrs)))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0", "\udc80", "x" * 256, "é" * 128], ids=ascii)
def test_dirtree_with_name_ostree_refuses_raises(name: str) -> None:
    with pytest.raises(InvalidLayer):
        o.dirtree([(name, b"1" * 32)], ())
    with pytest.raises(InvalidLayer):
        o.dirtree((), [(name, b"1" * 32, b"2" * 32)])


@pytest.mark.parametrize(
    ("files", "dirs"),
    [
        ([("a", b"1" * 32), ("a", b"2" * 32)], []),
        ([], [("a", b"1" * 32, b"2" * 32)] * 2),
        ([("a", b"1" * 32)], [("a", b"1" * 32, b"2" * 32)]),
    ],
    ids=["files", "dirs", "both"],
)
def test_dirtree_with_name_given_twice_raises(
    files: list[tuple[str, bytes]], dirs: list[tuple[str, bytes, bytes]]
) -> None:
    with pytest.raises(InvalidLayer):
        o.dirtree(files, dirs)


def test_dirtree_with_hex_for_raw_checksum_is_our_defect() -> None:
    with pytest.raises(InternalError):
        o.dirtree([("a", b"a" * 64)], ())


@pytest.mark.parametrize(
    ("uid", "gid", "mode", "target"),
    [
        (-1, 0, REG, ""),
        (0, 0xFFFFFFFF, REG, ""),
        (1 << 40, 0, REG, ""),
        (0, 0, 0o644, ""),
        (0, 0, stat.S_IFCHR | 0o600, ""),
        (0, 0, stat.S_IFIFO | 0o600, ""),
        (0, 0, DIR, ""),
        (0, 0, LNK, ""),
        (0, 0, REG, "target"),
        (0, 0, LNK, "a\0b"),
        (0, 0, LNK, "\udcff"),
        (0, 0, LNK, "x" * 4096),
        (0, 0, REG | 0o200000, ""),
    ],
)
def test_file_header_of_what_ostree_cannot_hold_raises(uid: int, gid: int, mode: int, target: str) -> None:
    with pytest.raises(InvalidLayer):
        o.file_header(uid, gid, mode, target)


@pytest.mark.parametrize(
    "xattrs",
    [
        [(b"", b"")],
        [(b"a\0", b"")],
        [(b"x" * 256, b"")],
        [(b"user.a", b"x" * 65537)],
        [(b"user.a", b"1"), (b"user.a", b"2")],
    ],
    ids=["empty", "nul", "long-name", "long-value", "twice"],
)
def test_xattrs_linux_cannot_hold_raise(xattrs: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(InvalidLayer):
        o.dirmeta(0, 0, DIR, xattrs)
    with pytest.raises(InvalidLayer):
        o.file_header(0, 0, REG, xattrs=xattrs)


@pytest.mark.parametrize("mode", [REG, 0o755, LNK])
def test_dirmeta_of_no_directory_raises(mode: int) -> None:
    with pytest.raises(InvalidLayer):
        o.dirmeta(0, 0, mode)


@given(trees, st.data())
def test_parse_dirtree_damaged_raises_or_is_another_normal_form(
    tree: tuple[tuple[tuple[str, bytes], ...], tuple[tuple[str, bytes, bytes], ...]], data: st.DataObject
) -> None:
    damaged = bytearray(o.dirtree(*tree))
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged))) :]
    try:
        files, dirs = o.parse_dirtree(bytes(damaged))
    except BackendFailed:
        return
    assert o.dirtree(files, dirs) == damaged


@given(st.binary(max_size=200))
def test_parse_dirtree_garbage_raises_or_is_normal_form(data: bytes) -> None:
    try:
        files, dirs = o.parse_dirtree(data)
    except BackendFailed:
        return
    assert o.dirtree(files, dirs) == data


def test_parse_dirtree_with_entry_twice_raises() -> None:
    item = b"a\0" + b"f" * 32 + b"\x02"
    array = item * 2 + bytes((len(item), 2 * len(item)))
    assert o.parse_dirtree(item + bytes((len(item), len(item) + 1)))
    with pytest.raises(BackendFailed):
        o.parse_dirtree(array + bytes((len(array),)))


def test_parse_dirtree_with_offset_wider_than_needed_raises() -> None:
    item = b"a" * 219 + b"\0" + b"f" * 32 + bytes((220,))
    array = item + bytes((len(item),))
    assert o.parse_dirtree(array + b"\xfe")
    with pytest.raises(BackendFailed):
        o.parse_dirtree(array + b"\xfe\x00")


def test_parse_dirmeta_with_offset_wider_than_needed_raises() -> None:
    item = b"a\0" + b"v" * 251 + b"\x02"
    assert o.parse_dirmeta(o.dirmeta(0, 0, DIR) + item + b"\xfe").xattrs == ((b"a", b"v" * 251),)
    with pytest.raises(BackendFailed):
        o.parse_dirmeta(o.dirmeta(0, 0, DIR) + item + b"\xfe\x00")


@pytest.mark.parametrize("name", [b"a\0b\0", b"ab", b"\0"], ids=["inner-nul", "no-nul", "empty"])
def test_parse_dirmeta_with_malformed_attribute_name_raises(name: bytes) -> None:
    item = name + b"v" + bytes((len(name),))
    with pytest.raises(BackendFailed):
        o.parse_dirmeta(o.dirmeta(0, 0, DIR) + item + bytes((len(item),)))


@given(xattr_sets, st.data())
def test_parse_dirmeta_damaged_raises_or_holds_what_it_says(
    xattrs: tuple[tuple[bytes, bytes], ...], data: st.DataObject
) -> None:
    damaged = bytearray(o.dirmeta(0, 0, DIR, xattrs))
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] ^= data.draw(st.integers(1, 255))
    try:
        parsed = o.parse_dirmeta(bytes(damaged))
    except BackendFailed:
        return
    size = sum(len(name) + 1 + len(value) for name, value in parsed.xattrs)
    assert 12 + size <= len(damaged)
    assert stat.S_ISDIR(parsed.mode)


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 11, o.file_header(0, 0, REG), o.dirmeta(0, 0, DIR) + b"\0", b"\0" * 12],
    ids=["empty", "short", "file", "trailing", "no-directory"],
)
def test_parse_dirmeta_garbage_raises(data: bytes) -> None:
    with pytest.raises(BackendFailed, match="corrupt object"):
        o.parse_dirmeta(data)


def test_object_path_splits_after_two_characters() -> None:
    assert o.object_path("ab" * 32, o.ObjectKind.DIRTREE) == f"ab/{'ab' * 31}.dirtree"


@pytest.mark.parametrize("checksum", ["", "../x", "AB" * 32, "ab" * 31, "ab" * 32 + "\n"])
def test_object_path_of_no_checksum_raises(checksum: str) -> None:
    with pytest.raises(BackendFailed):
        o.object_path(checksum, o.ObjectKind.FILE)


@given(xattr_sets)
def test_xattrs_alone_are_read_as_a_directory_has_them(xattrs: tuple[o.Xattr, ...]) -> None:
    alone = o.dirmeta(0, 0, DIR, xattrs)[12:]
    assert o.parse_xattrs(alone) == tuple(sorted(xattrs))


@given(st.binary(max_size=200))
def test_xattrs_of_any_bytes_are_what_ostree_would_write_or_refused(data: bytes) -> None:
    try:
        xattrs = o.parse_xattrs(data)
    except BackendFailed:
        return
    names = [name for name, _ in xattrs]
    if names == sorted(set(names)):
        assert o.dirmeta(0, 0, DIR, xattrs)[12:] == data
