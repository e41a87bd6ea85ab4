"""Layers that hold the objects of an ostree commit, and the commit they make up together.

An image made from an ostree commit ("chunked", "rechunked") carries the commit's objects under the names
they have in a repository, next to hard links to them that container tools see as the file system:

    sysroot/ostree/repo/objects/XX/<62 hex>
        .file               content, a file or a link, with its owner and mode
        .file-xattrs-link   before it: its extended attributes, or a hard link to what holds them:
        .file-xattrs        named by the SHA-256 of its content, a(ayay)
        .commit .commitmeta .dirtree .dirmeta   in the first layer only
    usr/bin/tool            not read

Nothing is believed: every object's checksum is computed and must be its name, and the commit counts only
when all that it reaches is there.

Format: `tar/export.rs` of crate ostree-ext, https://github.com/bootc-dev/bootc.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from bootcd.model.errors import BackendFailed, DigestMismatch, InvalidLayer
from bootcd.oci.tar import EntryType, TarEntry
from bootcd.ostree.layer import Entries, Reuse, entries_of, reused
from bootcd.ostree.listed import Listed
from bootcd.ostree.repository import Repository, check_detached_metadata, parse_commit
from bootcd.ostree.store import ObjectStore
from bootcd.ostree.stream import ByteSource
from bootcd.ostree.tree import DEFAULT_META, Directory, read_tree
from bootcd.ostreefmt.objects import Xattr, dirmeta, dirtree, parse_dirmeta, parse_dirtree, parse_xattrs
from bootcd.ostreefmt.paths import REPO_PREFIX, Kind, map_path

T = TypeVar("T")

MAX_METADATA_BYTES = 10 << 20
"Of one metadata object, as bootc has it."
MAX_XATTRS_BYTES = 1 << 20
MAX_SHARED_XATTRS_BYTES = 64 << 20
"Of all different sets in one layer, which stay in memory; a large system has some hundred kilobytes."

_OBJECTS = f"{REPO_PREFIX}objects/"
_OBJECT = re.compile(r"([0-9a-f]{2})/([0-9a-f]{62})\.([a-z-]+)")
_SHARED_XATTRS = re.compile(r"(?:.*/)?([0-9a-f]{2})/([0-9a-f]{62})\.file-xattrs")


@dataclass(frozen=True, slots=True)
class InnerCommit:
    """The commit an image was made from, as its layer has it; not in the repository yet."""

    checksum: bytes
    data: bytes = field(repr=False)
    contents: bytes
    meta: bytes
    detached: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class ObjectSet:
    """What an object layer held."""

    files: frozenset[bytes]
    commit: InnerCommit | None


def import_objects(
    source: ByteSource | Listed,
    store: ObjectStore,
    *,
    commit: bool,
    reuse: Reuse | None = None,
    what: str,
) -> ObjectSet:
    """Read the archive of an object layer and write its objects to the store. Blocks.

    Args:
        commit: whether it is the layer with the commit, which alone may and must hold metadata objects.
            The commit itself is returned, not written: it must not be there before all it names is.
        reuse: of a source that knows which content is an object of the repository already.
        what: names the layer in errors.
    Raises:
        InvalidLayer: not an acceptable archive.
        DigestMismatch: an object is not what its name says.
    """
    return _ObjectReader(store, commit, reuse, what).run(source)


def write_chunk_commit(files: frozenset[bytes], store: ObjectStore, repository: Repository) -> str:
    """Write the commit that holds the files of a chunk together; the same that bootc would write."""
    meta = dirmeta(DEFAULT_META.uid, DEFAULT_META.gid, DEFAULT_META.mode)
    return repository.write_commit(
        store,
        contents=store.write_metadata("dirtree", dirtree(((file.hex(), file) for file in files), ())),
        meta=store.write_metadata("dirmeta", meta),
        metadata={},
        timestamp=0,
    )


def read_complete_tree(
    contents: bytes,
    meta: bytes,
    *,
    read_dirtree: Callable[[bytes], bytes],
    has_object: Callable[[bytes, str], bool],
    what: str,
) -> Directory:
    """Read the tree of a commit, having looked for every object that it reaches.

    Args:
        contents: checksum of the root's dirtree, `meta` of its dirmeta.
        has_object: whether an object of a checksum and a kind is there.
        what: names the commit in errors.
    Raises:
        InvalidLayer: something is missing, or the tree is larger than any system.
    """

    def require(checksum: bytes, kind: str, path: str) -> None:
        if not has_object(checksum, kind):
            place = f", the {kind} of {path[-80:]!r}" if path else ""
            raise InvalidLayer(f"{what} lacks the object {checksum.hex()}.{kind}{place}")

    def read(checksum: bytes) -> bytes:
        require(checksum, "dirtree", "")
        return read_dirtree(checksum)

    tree = read_tree(contents, meta, lambda _path, _meta: False, read)
    metas = {directory.meta: path for path, directory in tree.walk()}
    for checksum, path in metas.items():
        require(checksum, "dirmeta", path)
    for path, directory in tree.walk():
        for name, file in directory.files.items():
            require(file, "file", f"{path}/{name}" if path else name)
    return tree


class _ObjectReader:
    """Turns archive entries into objects of the store."""

    def __init__(self, store: ObjectStore, commit: bool, reuse: Reuse | None, what: str) -> None:
        self._store = store
        self._reuse = reuse
        self._wants_commit = commit
        self._what = what
        self._files: set[bytes] = set()
        self._shared_xattrs: dict[bytes, tuple[Xattr, ...]] = {}
        self._shared_bytes = 0
        self._next: tuple[bytes, tuple[Xattr, ...]] | None = None
        "The file whose extended attributes came last, and these; the file has to be next."
        self._commit: tuple[bytes, bytes] | None = None
        self._detached: tuple[bytes, bytes] | None = None

    def run(self, source: ByteSource | Listed) -> ObjectSet:
        reader = entries_of(source)
        for entry in reader:
            is_directory = entry.type is EntryType.DIRECTORY
            kind, path = map_path(entry.name, allow_nonusr=False, directory=is_directory)
            if kind is Kind.CHUNK_OBJECT and not is_directory and path.startswith(_OBJECTS):
                self._add(path[len(_OBJECTS) :], entry, reader)
        reader.drain()
        if self._next is not None:
            raise self._error(f"has extended attributes of {self._next[0].hex()} and not that object")
        return ObjectSet(frozenset(self._files), self._inner_commit())

    def _inner_commit(self) -> InnerCommit | None:
        if not self._wants_commit:
            return None
        if self._commit is None:
            raise self._error("holds no ostree commit")
        checksum, data = self._commit
        if self._detached is not None and self._detached[0] != checksum:
            raise self._error("has detached metadata of another commit")
        contents, meta = parse_commit(data)
        return InnerCommit(checksum, data, contents, meta, self._detached[1] if self._detached else None)

    def _add(self, path: str, entry: TarEntry, reader: Entries) -> None:
        match = _OBJECT.fullmatch(path)
        if match is None:
            raise self._error(f"has {path[:80]!r} among its objects, which is no name of one")
        checksum = bytes.fromhex(match[1] + match[2])
        match match[3]:
            case "file":
                self._add_file(checksum, entry, reader)
            case "file-xattrs-link":
                self._note_xattrs(checksum, entry, reader)
            case "file-xattrs":
                self._share_xattrs(checksum, entry, reader)
            case "commit" | "commitmeta" | "dirtree" | "dirmeta" as kind if self._wants_commit:
                self._add_metadata(kind, checksum, self._read(entry, reader, MAX_METADATA_BYTES))
            case kind:
                raise self._error(f"holds an object of the kind {kind[:20]!r}, which has no place in it")

    def _add_file(self, checksum: bytes, entry: TarEntry, reader: Entries) -> None:
        if self._next is None or self._next[0] != checksum:
            raise self._error(f"does not have the extended attributes of {checksum.hex()} right before it")
        xattrs, self._next = self._next[1], None
        if checksum in self._files:
            raise self._error(f"holds the object {checksum.hex()} twice")
        if entry.type is EntryType.FILE:
            actual = self._write_file(entry, xattrs, reader)
        elif entry.type is EntryType.SYMLINK:
            actual = self._store.write_symlink(entry.uid, entry.gid, entry.linkname, xattrs)
        else:
            raise self._error(f"has a {entry.type.value} in the place of object {checksum.hex()}")
        self._check(actual, checksum)
        self._files.add(checksum)

    def _write_file(self, entry: TarEntry, xattrs: tuple[Xattr, ...], reader: Entries) -> bytes:
        if found := reused(self._reuse, entry, xattrs, reader):
            return found
        chunks = reader.read_chunks()
        return self._store.write_file(entry.uid, entry.gid, entry.mode, xattrs, entry.size, chunks)

    def _note_xattrs(self, checksum: bytes, entry: TarEntry, reader: Entries) -> None:
        if self._next is not None:
            raise self._error(f"has extended attributes of {self._next[0].hex()} and not that object")
        if entry.type is not EntryType.HARDLINK:
            self._next = checksum, self._parse(parse_xattrs, self._read(entry, reader, MAX_XATTRS_BYTES))
            return
        target = _SHARED_XATTRS.fullmatch(entry.linkname)
        shared = self._shared_xattrs.get(bytes.fromhex(target[1] + target[2])) if target else None
        if shared is None:
            raise self._error(
                f"links the extended attributes of {checksum.hex()} to {entry.linkname[-80:]!r}, "
                "which does not come before"
            )
        self._next = checksum, shared

    def _share_xattrs(self, checksum: bytes, entry: TarEntry, reader: Entries) -> None:
        data = self._read(entry, reader, MAX_XATTRS_BYTES)
        self._check(hashlib.sha256(data).digest(), checksum)
        # What keeps a small one in memory is larger than itself.
        self._shared_bytes += len(data) + 256
        if self._shared_bytes > MAX_SHARED_XATTRS_BYTES:
            raise self._error(f"has more than {MAX_SHARED_XATTRS_BYTES} bytes of extended attributes")
        self._shared_xattrs[checksum] = self._parse(parse_xattrs, data)

    def _add_metadata(self, kind: str, checksum: bytes, data: bytes) -> None:
        if kind == "commit":
            self._check(hashlib.sha256(data).digest(), checksum)
            if self._commit is not None:
                raise self._error("holds more than one ostree commit")
            self._commit = checksum, data
        elif kind == "commitmeta":
            # Its name is that of the commit it belongs to.
            if self._detached is not None:
                raise self._error("holds detached metadata twice")
            check_detached_metadata(data)
            self._detached = checksum, data
        else:
            if kind == "dirtree":
                self._parse(parse_dirtree, data)
            else:
                self._parse(parse_dirmeta, data)
            self._check(self._store.write_metadata(kind, data), checksum)

    def _read(self, entry: TarEntry, reader: Entries, limit: int) -> bytes:
        if entry.type is not EntryType.FILE:
            raise self._error(f"has a {entry.type.value} in the place of an object")
        if entry.size > limit:
            raise self._error(f"holds an object of {entry.size} bytes, more than {limit}")
        return b"".join(bytes(chunk) for chunk in reader.read_chunks())

    def _parse(self, parse: Callable[[bytes], T], data: bytes) -> T:
        try:
            return parse(data)
        except BackendFailed as error:  # what a parser says of an object of the repository
            raise self._error("holds an ostree object that is not in order") from error

    def _check(self, actual: bytes, expected: bytes) -> None:
        if actual != expected:
            raise DigestMismatch(
                f"{self._what} has an ostree object {expected.hex()} that is really {actual.hex()}",
                expected=expected.hex(),
                actual=actual.hex(),
            )

    def _error(self, problem: str) -> InvalidLayer:
        return InvalidLayer(f"{self._what} {problem}")
