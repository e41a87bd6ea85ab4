"""Objects of an ostree repository as bytes, without GLib.

Writing an operating system makes tens of thousands of objects, and a call into libostree costs more than
the hash of a small one. What is hashed is simple: metadata objects are GVariants in big endian and in
normal form, a file's hash covers a GVariant header before its content.

Formats: ostree-core.h of https://github.com/ostreedev/ostree (OSTREE_FILEMETA_GVARIANT_FORMAT and
its neighbours), https://docs.gtk.org/glib/gvariant-specification-1.0.html for the serialisation.
"""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import lru_cache
from itertools import accumulate, pairwise
from struct import Struct
from typing import NamedTuple

from bootcd.model.errors import BackendFailed, InternalError, InvalidLayer

Xattr = tuple[bytes, bytes]
"Name without the closing NUL, and value."

_MAX_METADATA = 128 << 20  # OSTREE_MAX_METADATA_SIZE of libostree
_MAX_XATTR_NAME = 255
_MAX_XATTR_VALUE = 64 << 10
_SHORT_XATTR = 256
_NAME_MAX = 255
_CHECKSUM_LEN = 32

_HEX_CHECKSUM = re.compile(r"[0-9a-f]{64}")
_FRAME = Struct(">II")
_FILE_HEADER = Struct(">IIII")
_DIRMETA = Struct(">III")
_LITTLE = {1: Struct("<B"), 2: Struct("<H"), 4: Struct("<I"), 8: Struct("<Q")}
_BYTE = tuple(bytes((value,)) for value in range(256))


class ObjectKind(StrEnum):
    """The kinds bootcd reads or writes; the value is the extension of the object's file."""

    FILE = "file"
    DIRTREE = "dirtree"
    DIRMETA = "dirmeta"
    COMMIT = "commit"
    COMMITMETA = "commitmeta"


class DirMeta(NamedTuple):
    """Owner, mode with file type, and extended attributes of a directory."""

    uid: int
    gid: int
    mode: int
    xattrs: tuple[Xattr, ...]


def checksum(data: bytes) -> str:
    """Return the name of the metadata object `data`: its SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def object_path(checksum: str, kind: ObjectKind) -> str:
    """Return where below `objects/` of a repository an object lies."""
    if not _HEX_CHECKSUM.fullmatch(checksum):
        raise BackendFailed(f"{checksum[:64]!r} is no name of an ostree object")
    return f"{checksum[:2]}/{checksum[2:]}.{kind.value}"


def file_header(
    uid: int, gid: int, mode: int, symlink_target: str = "", xattrs: Sequence[Xattr] = ()
) -> bytes:
    """Return what goes before a file's content into the hash that names it.

    `mode` holds the file type: a regular file or a link, since ostree knows no other. A link has no
    content, and no mode of its own on disk: all are 0777 whatever is given. `xattrs` in any order.
    Raises InvalidLayer for what ostree or Linux could not hold.
    """
    if not symlink_target and len(xattrs) <= 1 and all(len(value) <= _SHORT_XATTR for _, value in xattrs):
        return _common_header(uid, gid, mode, tuple(xattrs))
    return _header(uid, gid, mode, symlink_target, _pack_xattrs(xattrs))


@lru_cache(maxsize=4096)
def _common_header(uid: int, gid: int, mode: int, xattrs: tuple[Xattr, ...]) -> bytes:
    """Return the header of a file with no attribute, or just its SELinux label."""
    return _header(uid, gid, mode, "", _pack_xattrs(xattrs))


def _header(uid: int, gid: int, mode: int, symlink_target: str, xattrs: bytes) -> bytes:
    if stat.S_ISLNK(mode):
        mode = stat.S_IFLNK | 0o777
    if not (stat.S_ISLNK(mode) if symlink_target else stat.S_ISREG(mode)):
        raise InvalidLayer("the layer has an entry that is neither a file nor a link with a target")
    try:
        target = symlink_target.encode() + b"\0"
    except UnicodeEncodeError:
        raise InvalidLayer("the layer has a link whose target is not UTF-8") from None
    if len(target) > 4096 or target.index(b"\0") != len(target) - 1:
        raise InvalidLayer("the layer has a link whose target is too long or holds a NUL")
    _check_owner(uid, gid, mode)
    body = _FILE_HEADER.pack(uid, gid, mode, 0) + target
    header = body + xattrs + _offset(len(body), len(body) + len(xattrs), 1)
    return _FRAME.pack(len(header), 0) + header


def dirmeta(uid: int, gid: int, mode: int, xattrs: Sequence[Xattr] = ()) -> bytes:
    """Return the object for a directory's owner, mode (with file type) and `xattrs` in any order."""
    if not stat.S_ISDIR(mode):
        raise InvalidLayer("the layer has a directory whose mode is not a directory's")
    _check_owner(uid, gid, mode)
    return _DIRMETA.pack(uid, gid, mode) + _pack_xattrs(xattrs)


def dirtree(files: Iterable[tuple[str, bytes]], dirs: Iterable[tuple[str, bytes, bytes]]) -> bytes:
    """Return the object for what a directory holds, given in any order.

    `files` are (name, raw checksum of the file object); `dirs` are (name, raw checksum of the dirtree, raw
    checksum of the dirmeta). Raises InvalidLayer for a name ostree refuses and for one given twice.
    """
    file_list, dir_list = sorted(files), sorted(dirs)
    try:
        file_items = [_tree_item(name, (object_id,)) for name, object_id in file_list]
        dir_items = [_tree_item(name, (tree, meta)) for name, tree, meta in dir_list]
    except UnicodeEncodeError:
        raise InvalidLayer("the layer has a name that is not UTF-8") from None
    file_names, dir_names = {item[0] for item in file_list}, {item[0] for item in dir_list}
    if len(file_names) < len(file_list) or len(dir_names) < len(dir_list):
        raise InvalidLayer("the layer has two entries of one name in a directory")
    if not file_names.isdisjoint(dir_names):
        raise InvalidLayer("the layer has a file and a directory of one name")
    files_array = _pack_array(file_items)
    dirs_array = _pack_array(dir_items)
    return files_array + dirs_array + _offset(len(files_array), len(files_array) + len(dirs_array), 1)


def parse_dirtree(data: bytes) -> tuple[list[tuple[str, bytes]], list[tuple[str, bytes, bytes]]]:
    """Return (files, dirs) as `dirtree` takes them, sorted by name.

    Raises BackendFailed for data that is not byte for byte what libostree would write.
    """
    if not data or len(data) > _MAX_METADATA:
        raise _corrupt("dirtree")
    width = _width(len(data))
    split = int.from_bytes(data[-width:], "little")
    end = len(data) - width
    if split > end or _offset_width(end, 1) != width:
        raise _corrupt("dirtree")
    files = [_parse_tree_item(item, 1) for item in _parse_array(data[:split], "dirtree")]
    dirs = [_parse_tree_item(item, 2) for item in _parse_array(data[split:end], "dirtree")]
    for items in (files, dirs):
        if any(a[0] >= b[0] for a, b in pairwise(items)):
            raise _corrupt("dirtree")
    if not {item[0] for item in files}.isdisjoint(item[0] for item in dirs):
        raise _corrupt("dirtree")
    return [(name, ids[0]) for name, ids in files], [(name, ids[0], ids[1]) for name, ids in dirs]


def parse_dirmeta(data: bytes) -> DirMeta:
    """Parse a dirmeta object; the attributes keep their order, which old writers did not sort.

    Raises BackendFailed for data that is no dirmeta in normal form.
    """
    if not _DIRMETA.size <= len(data) <= _MAX_METADATA:
        raise _corrupt("dirmeta")
    uid, gid, mode = _DIRMETA.unpack_from(data)
    if not stat.S_ISDIR(mode) or mode > 0o177777:
        raise _corrupt("dirmeta")
    return DirMeta(uid, gid, mode, _parse_xattrs(data[_DIRMETA.size :], "dirmeta"))


def parse_xattrs(data: bytes) -> tuple[Xattr, ...]:
    """Parse extended attributes that stand alone, in the form they have in a file's header.

    Raises BackendFailed for data that is not in normal form.
    """
    return _parse_xattrs(data, "file-xattrs")


def _parse_xattrs(data: bytes, kind: str) -> tuple[Xattr, ...]:
    xattrs: list[Xattr] = []
    for item in _parse_array(data, kind):
        width = _width(len(item))
        split = int.from_bytes(item[-width:], "little")
        end = len(item) - width
        if not 2 <= split <= end or item.find(b"\0") != split - 1 or _offset_width(end, 1) != width:
            raise _corrupt(kind)
        xattrs.append((item[: split - 1], item[split:end]))
    return tuple(xattrs)


def _tree_item(name: str, object_ids: tuple[bytes, ...]) -> bytes:
    """Serialise `(say)` or `(sayay)`."""
    if "/" in name or "\0" in name or name in ("", ".", ".."):
        raise InvalidLayer(f"the layer has an entry with the invalid name {name[:_NAME_MAX]!r}")
    raw = name.encode()
    if len(raw) > _NAME_MAX:
        raise InvalidLayer(f"the layer has a name that is too long: {name[:_NAME_MAX]!r}")
    ids = object_ids[0] if len(object_ids) == 1 else b"".join(object_ids)
    if len(ids) != _CHECKSUM_LEN * len(object_ids):
        raise InternalError("a directory entry was given a checksum of the wrong size")
    # The last member of a tuple needs no offset, and the others' are stored last first.
    end = len(raw) + 1
    if len(object_ids) == 1:
        if end + _CHECKSUM_LEN < 0xFF:
            return raw + b"\0" + ids + _BYTE[end]
        return raw + b"\0" + ids + _offset(end, end + _CHECKSUM_LEN, 1)
    size = end + 2 * _CHECKSUM_LEN
    return raw + b"\0" + ids + _offset(end + _CHECKSUM_LEN, size, 2) + _offset(end, size, 2)


def _parse_tree_item(item: bytes, id_count: int) -> tuple[str, tuple[bytes, ...]]:
    if len(item) <= 0xFF:  # nearly always, with offsets of one byte
        end = len(item) - id_count * (1 + _CHECKSUM_LEN)
        raw = item[: max(0, end - 1)]
        if (
            raw
            and item[end - 1] == 0
            and item[-1] == end
            and (id_count == 1 or item[-2] == end + _CHECKSUM_LEN)
            and b"\0" not in raw
            and b"/" not in raw
            and raw not in (b".", b"..")
        ):
            try:
                first = item[end : end + _CHECKSUM_LEN]
                return raw.decode(), (first,) if id_count == 1 else (first, item[end + _CHECKSUM_LEN : -2])
            except UnicodeDecodeError:
                raise _corrupt("dirtree") from None
        raise _corrupt("dirtree")
    end = len(item) - id_count * _width(len(item)) - id_count * _CHECKSUM_LEN - 1
    try:
        name = item[:end].decode() if end > 0 else ""
    except UnicodeDecodeError:
        raise _corrupt("dirtree") from None
    ids = tuple(
        item[end + 1 + _CHECKSUM_LEN * index : end + 1 + _CHECKSUM_LEN * (index + 1)]
        for index in range(id_count)
    )
    try:
        if item == _tree_item(name, ids):
            return name, ids
    except (InvalidLayer, InternalError):
        pass
    raise _corrupt("dirtree")


def _pack_xattrs(xattrs: Sequence[Xattr]) -> bytes:
    """Serialise `a(ayay)`, sorted by name as libostree sorts before it hashes."""
    if not xattrs:
        return b""
    items: list[bytes] = []
    previous = b""
    for name, value in sorted(xattrs):
        if not 0 < len(name) <= _MAX_XATTR_NAME or b"\0" in name or len(value) > _MAX_XATTR_VALUE:
            raise InvalidLayer("the layer has an extended attribute Linux could not hold")
        if name == previous:
            raise InvalidLayer("the layer has an extended attribute twice on one entry")
        previous = name
        end = len(name) + 1
        items.append(name + b"\0" + value + _offset(end, end + len(value), 1))
    return _pack_array(items)


def _pack_array(items: list[bytes]) -> bytes:
    """Serialise an array of members of varying size: the members, then where each ends."""
    if not items:
        return b""
    ends = list(accumulate(map(len, items)))
    width = _offset_width(ends[-1], len(items))
    if width == 1:
        return b"".join(items) + bytes(ends)
    code = {2: "H", 4: "I", 8: "Q"}[width]
    return b"".join(items) + Struct(f"<{len(ends)}{code}").pack(*ends)


def _parse_array(data: bytes, kind: str) -> list[bytes]:
    if not data:
        return []
    width = _width(len(data))
    end = int.from_bytes(data[-width:], "little")
    count, rest = divmod(len(data) - end, width)
    if rest or count < 1 or _offset_width(end, count) != width:
        raise _corrupt(kind)
    code = {1: "B", 2: "H", 4: "I", 8: "Q"}[width]
    ends = Struct(f"<{count}{code}").unpack_from(data, end)
    items: list[bytes] = []
    start = 0
    for stop in ends:
        if stop <= start or stop > end:
            raise _corrupt(kind)
        items.append(data[start:stop])
        start = stop
    return items


def _width(size: int) -> int:
    """Return the bytes of an offset in a container of `size` bytes, offsets included."""
    return 1 if size <= 0xFF else 2 if size <= 0xFFFF else 4 if size <= 0xFFFFFFFF else 8


def _offset_width(body: int, count: int) -> int:
    """Return the bytes of each of `count` offsets behind `body` bytes: the least that can reach all."""
    width = 1
    while _width(body + count * width) > width:
        width *= 2
    return width


def _offset(value: int, body: int, count: int) -> bytes:
    return _LITTLE[_offset_width(body, count)].pack(value)


def _check_owner(uid: int, gid: int, mode: int) -> None:
    # The highest id is Linux's "leave as it is" and belongs to nobody.
    if not (0 <= uid < 0xFFFFFFFF and 0 <= gid < 0xFFFFFFFF and 0 <= mode <= 0o177777):
        raise InvalidLayer("the layer has an entry whose owner or mode is out of range")


def _corrupt(kind: str) -> BackendFailed:
    return BackendFailed(f"the repository has a corrupt object of kind {kind}")
