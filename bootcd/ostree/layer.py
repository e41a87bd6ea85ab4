"""One image layer on its way into the repository: decompressed, checked, filtered, written.

What of a layer becomes part of the host, and where, follows bootc (see `ostreefmt.paths`). Device
nodes and named pipes are dropped, as an ostree tree cannot hold them. Nothing a layer says is
believed: names stay below the root, sizes are bounded by what was announced, and the digest of
the uncompressed archive must be the image config's diff_id.
"""

from __future__ import annotations

import hashlib
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, TypeVar, cast

import zstandard
from isal import igzip, isal_zlib

from bootcd.model.errors import DigestMismatch, InvalidLayer
from bootcd.oci.tar import EntryType, TarEntry, TarReader
from bootcd.ostree.contents import Noted, facts_of
from bootcd.ostree.libostree import OSTree
from bootcd.ostree.listed import Listed
from bootcd.ostree.sepolicy import Policy
from bootcd.ostree.store import ObjectStore
from bootcd.ostree.stream import BytePipe, ByteSource, ReadAhead, Turn
from bootcd.ostree.tree import DEFAULT_META, Directory, TreeBuilder
from bootcd.ostreefmt.objects import DirMeta, Xattr
from bootcd.ostreefmt.paths import Kind, map_hardlink_target, map_path
from bootcd.ostreefmt.selinux import with_label

T = TypeVar("T")

BOMB_RATIO = 200
BOMB_FLOOR_BYTES = 1 << 30
"A layer may unpack to this, or to BOMB_RATIO times its compressed size, whichever is more."

_VAR_IS_DEPLOYED = OSTree.check_version(2024, 3)

_DAMAGE: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    zstandard.ZstdError,
    cast("type[Exception]", isal_zlib.error),  # its stub says it is an instance
)
"What decompressors raise for bytes that are not theirs."

_UNTAKEN_XATTRS = ("security.selinux", "trusted.overlay.")
"Labels are the host policy's to give; overlay's marks belong to the machine that built the layer."


Reuse = Callable[[int, int, int, Sequence[Xattr], int], bytes | None]
"""Returns the object of the file whose payload comes next, if there is one of this owner and group, mode,
extended attributes and size; the source then leaves the payload out."""


Entries = TarReader | Listed
"What gives the entries of a layer with their content: an archive, or its table of contents."


def entries_of(source: ByteSource | Listed) -> Entries:
    return source if isinstance(source, Listed) else TarReader(source)


def reused(reuse: Reuse | None, entry: TarEntry, xattrs: tuple[Xattr, ...], reader: Entries) -> bytes | None:
    """Return the object of the current entry, a file, if there is one; then its payload is left out."""
    if reuse is None or not entry.size or reader.buffered:
        return None
    found = reuse(entry.uid, entry.gid, entry.mode, xattrs, entry.size)
    if found is not None:
        reader.leave_payload()
    return found


@dataclass(slots=True)
class ImportedLayer:
    """A layer in the repository's terms; `dropped` counts entries left out by top-level name."""

    tree: Directory
    dropped: Counter[str] = field(default_factory=Counter)
    labelled_by: Policy | None = None
    "The policy all of it is labelled by, if there is one."
    contents: list[Noted] = field(default_factory=list)
    "Its file objects with the digests of their contents, if these were asked for."


def import_layer(
    source: ByteSource | Listed,
    store: ObjectStore,
    *,
    allow_nonusr: bool,
    policy: Policy | None = None,
    note_contents: bool = False,
    reuse: Reuse | None = None,
    what: str,
) -> ImportedLayer:
    """Read the archive of a layer and write its content to the store. Blocks.

    Args:
        policy: gives the files their labels.
        note_contents: whether to take a digest of each file's content alone.
        reuse: of a source that knows which content is an object of the repository already.
        what: names the layer in errors.
    Raises:
        InvalidLayer: not an acceptable archive.
    """
    return _Importer(store, allow_nonusr, policy, note_contents, reuse, what).run(source)


def unpack(
    source: BytePipe,
    read: Callable[[ByteSource], T],
    *,
    compression: str,
    compressed_bytes: int,
    diff_id: str,
    what: str,
    turn: Turn | None = None,
) -> T:
    """Have a layer's archive read to its end, and return what came of it. Blocks; runs in a thread.

    Args:
        source: the compressed bytes; raises if they turn out not to be what was asked for.
        read: consumes the archive. What it returns counts only if this does not raise.
        compression: "none", "gzip" or "zstd".
        diff_id: expected digest of the uncompressed archive.
        what: names the layer in errors.
        turn: held by the caller; others have it while this waits for bytes.
    Raises:
        InvalidLayer: not an acceptable archive, or one that unpacks beyond all proportion.
        DigestMismatch: the archive is not the one the image config names.
    """
    digest = hashlib.new(diff_id.partition(":")[0])
    plain = _Bounded(_decompress(source, compression), most_plain_bytes(compressed_bytes), what)
    ahead = ReadAhead(plain, on_block=digest.update, turn=turn)
    try:
        result = read(ahead)
    except BaseException as error:
        # The decoder may be waiting for bytes that nobody will send.
        source.abort(error)
        raise
    finally:
        ahead.close()
    require_diff_id(f"{digest.name}:{digest.hexdigest()}", diff_id, what)
    return result


def most_plain_bytes(compressed_bytes: int) -> int:
    """Return what a layer may unpack to."""
    return max(BOMB_FLOOR_BYTES, BOMB_RATIO * compressed_bytes)


def require_diff_id(actual: str, diff_id: str, what: str) -> None:
    if actual != diff_id:
        raise DigestMismatch(
            f"{what} unpacks to {actual}, the image config says {diff_id}", expected=diff_id, actual=actual
        )


class _Importer:
    """Turns archive entries into objects and a tree."""

    def __init__(
        self,
        store: ObjectStore,
        allow_nonusr: bool,
        policy: Policy | None,
        note_contents: bool,
        reuse: Reuse | None,
        what: str,
    ) -> None:
        self._reuse = reuse
        self._contents: list[Noted] | None = [] if note_contents else None
        self._store = store
        self._allow_nonusr = allow_nonusr
        self._policy = policy
        self._what = what
        self._tree = TreeBuilder(store, self._implied_meta)
        self._has_mixed_links = False
        "Names of one file are to be labelled differently, and have the label of the first of them."
        self._dropped: Counter[str] = Counter()
        self._objects: dict[str, bytes] = {}
        "Files that lie where a chunked image keeps its objects, by path."

    def run(self, source: ByteSource | Listed) -> ImportedLayer:
        reader = entries_of(source)
        for entry in reader:
            kind, path = map_path(
                entry.name,
                allow_nonusr=self._allow_nonusr,
                directory=entry.type is EntryType.DIRECTORY,
            )
            if kind is Kind.KEEP:
                self._add(_in_factory(path), entry, reader)
            elif kind is Kind.DROP:
                self._dropped[path] += 1
            else:
                self._hold_object(path, entry, reader)
        reader.drain()
        labelled_by = None if self._has_mixed_links else self._policy
        return ImportedLayer(self._tree.root, self._dropped, labelled_by, self._contents or [])

    def _hold_object(self, path: str, entry: TarEntry, reader: Entries) -> None:
        """Keep a file for the hard links to it: a build that changes one of them changes the object too.

        An object that nothing links to belongs to the base below and is part of no tree.
        """
        if entry.type is EntryType.FILE:
            self._objects[path] = self._write_file(path, entry, reader)

    def _write_file(self, path: str, entry: TarEntry, reader: Entries) -> bytes:
        xattrs = self._xattrs(path, stat.S_IFREG, entry)
        if found := reused(self._reuse, entry, xattrs, reader):
            return found
        chunks = reader.read_chunks()
        if self._contents is None or not entry.size:
            return self._store.write_file(entry.uid, entry.gid, entry.mode, xattrs, entry.size, chunks)
        digest = hashlib.sha256()
        chunks = _hashed(chunks, digest.update)
        checksum = self._store.write_file(entry.uid, entry.gid, entry.mode, xattrs, entry.size, chunks)
        facts = facts_of(entry.uid, entry.gid, entry.mode, xattrs, entry.size)
        self._contents.append(Noted(checksum, digest.digest(), facts))
        return checksum

    def _xattrs(self, path: str, kind: int, entry: TarEntry) -> tuple[Xattr, ...]:
        return with_label(_xattrs(entry), self._label(path, kind))

    def _label(self, path: str, kind: int) -> bytes | None:
        return self._policy.label(path, kind) if self._policy else None

    def _implied_meta(self, path: str) -> DirMeta:
        return DEFAULT_META._replace(xattrs=with_label((), self._label(path, stat.S_IFDIR)))

    def _add(self, path: str, entry: TarEntry, reader: Entries) -> None:
        if entry.type is EntryType.DIRECTORY:
            xattrs = self._xattrs(path, stat.S_IFDIR, entry)
            self._tree.add_directory(path, DirMeta(entry.uid, entry.gid, 0o040000 | entry.mode, xattrs))
            return
        if entry.type is EntryType.FILE:
            checksum = self._write_file(path, entry, reader)
        elif entry.type is EntryType.SYMLINK:
            if not entry.linkname:
                raise InvalidLayer(f"{self._what} has a symbolic link without target at {path[:80]!r}")
            xattrs = self._xattrs(path, stat.S_IFLNK, entry)
            checksum = self._store.write_symlink(entry.uid, entry.gid, entry.linkname, xattrs)
        elif entry.type is EntryType.HARDLINK:
            checksum = self._hardlink_target(path, entry)
        else:
            self._dropped[entry.type.value] += 1
            return
        self._tree.add_file(path, checksum)

    def _hardlink_target(self, path: str, entry: TarEntry) -> bytes:
        target = map_hardlink_target(entry.linkname, allow_nonusr=self._allow_nonusr)
        if target.kind is Kind.CHUNK_OBJECT:
            found = self._objects.get(target.path)
        else:
            found = self._tree.root.file(_in_factory(target.path)) if target.kind is Kind.KEEP else None
        if found is None:
            raise InvalidLayer(
                f"{self._what} has a hard link at {path[:80]!r} to {entry.linkname[:80]!r}, "
                "which is no file before it in the same layer"
            )
        other = _in_factory(target.path)
        for kind in (stat.S_IFREG, stat.S_IFLNK):
            self._has_mixed_links |= self._label(path, kind) != self._label(other, kind)
        return found


def _hashed(chunks: Iterator[memoryview], update: Callable[[memoryview], object]) -> Iterator[memoryview]:
    for chunk in chunks:
        update(chunk)
        yield chunk


def _in_factory(path: str) -> str:
    """Move the content of /var where a libostree that cannot deploy it looks for it; as bootc does."""
    return path if _VAR_IS_DEPLOYED or not path.startswith("var/") else f"usr/share/factory/{path}"


def _xattrs(entry: TarEntry) -> tuple[Xattr, ...]:
    if not entry.xattrs:
        return ()
    return tuple(
        sorted(
            (name.encode(), value)
            for name, value in entry.xattrs.items()
            if not name.startswith(_UNTAKEN_XATTRS)
        )
    )


def _decompress(source: BytePipe, compression: str) -> ByteSource:
    if compression == "gzip":
        opened: ByteSource = igzip.open(source, "rb")  # type: ignore[no-untyped-call]
        return opened
    if compression == "zstd":
        # A layer may hold several frames, zstd:chunked always does.
        return zstandard.ZstdDecompressor(max_window_size=128 << 20).stream_reader(
            cast("IO[bytes]", source), read_size=1 << 18, read_across_frames=True
        )
    return source


class _Bounded:
    """A decompressed stream that ends in a typed error when it is broken or a bomb."""

    def __init__(self, source: ByteSource, limit_bytes: int, what: str) -> None:
        self._source = source
        self._left = limit_bytes
        self._limit = limit_bytes
        self._what = what

    def readinto(self, buffer: memoryview, /) -> int:
        try:
            count = self._source.readinto(buffer)
        except _DAMAGE as error:
            raise InvalidLayer(f"{self._what} cannot be decompressed") from error
        self._left -= count
        if self._left < 0:
            raise InvalidLayer(
                f"{self._what} unpacks to more than {self._limit} bytes", limit_bytes=self._limit
            )
        return count
