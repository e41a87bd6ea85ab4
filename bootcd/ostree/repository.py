"""The host's ostree repository: refs, commits and the metadata bootc keeps in them.

Layout and names are bootc's (`ostreefmt.refs`, `ostreefmt.metadata`), so that either program finds
what the other left.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bootcd.model.errors import BackendFailed, InvalidLayer
from bootcd.ostree.libostree import Gio, GLib, OSTree, host_errors
from bootcd.ostree.refwriter import write_refs
from bootcd.ostree.store import LibostreeStore, ObjectStore, StagedStore, publish, remove_stale_stages
from bootcd.ostree.writeback import sync_file_system
from bootcd.ostreefmt.objects import parse_dirtree

_IMPLIED_KEY = "bootcd.implied-directories"
_DEFAULT_RESERVE_PERCENT = 3
_METADATA_LIMIT = 64 << 20


class Repository:
    """One repository. Not for several threads, except the stores it hands out."""

    def __init__(self, repo: Any) -> None:
        self.repo = repo
        self.path = Path(repo.get_path().get_path())
        self.is_bare = repo.get_mode() == OSTree.RepoMode.BARE
        "An object is a file with all its attributes."
        self.stages_objects = self.is_bare and not _wants_verity(repo)
        "Objects can be written beside the repository and moved in when they are verified."
        self._place = f"{self.path}/objects"
        self._objects_fd: int | None = None

    @property
    def scratch(self) -> Path:
        """Where files may lie for a moment; libostree removes what a process that was killed left there."""
        return self.path / "tmp"

    @classmethod
    def open(cls, path: Path) -> Repository:
        with host_errors("open the ostree repository", path=str(path)):
            repo = OSTree.Repo.new(Gio.File.new_for_path(os.fspath(path)))
            repo.open(None)
        return cls(repo)

    # refs

    def resolve(self, ref: str) -> str | None:
        """Return the commit checksum of a ref, or None."""
        with host_errors(f"read ref {ref}"):
            _, checksum = self.repo.resolve_rev(ref, True)
        return checksum or None

    def refs(self, prefix: str) -> dict[str, str]:
        """Return all refs below a prefix, full name to commit checksum."""
        with host_errors("list refs"):
            _, refs = self.repo.list_refs_ext(prefix, OSTree.RepoListRefsExtFlags.NONE, None)
        return dict(refs)

    def set_ref(self, ref: str, commit: str) -> None:
        with host_errors(f"set ref {ref}"):
            self.repo.set_ref_immediate(None, ref, commit, None)

    def delete_ref(self, ref: str) -> None:
        with host_errors(f"delete ref {ref}"):
            self.repo.set_ref_immediate(None, ref, None, None)

    def delete_refspec(self, refspec: str) -> None:
        """Delete a ref by the name an origin has for it, `REF` or `REMOTE:REF`; if it is there."""
        with host_errors(f"delete ref {refspec}"):
            _, remote, ref = OSTree.parse_refspec(refspec)
            self.repo.set_ref_immediate(remote, ref, None, None)

    # commits

    def has_commit(self, checksum: str) -> bool:
        """Whether a commit is here with all it refers to."""
        try:
            _, commit, state = self.repo.load_commit(checksum)
        except GLib.Error:
            return False
        return commit is not None and not state & OSTree.RepoCommitState.PARTIAL

    def commit_metadata(self, checksum: str) -> dict[str, str]:
        """Return the string entries of a commit's metadata; others are not ours to read."""
        with host_errors(f"read commit {checksum}"):
            _, commit, _ = self.repo.load_commit(checksum)
        return _strings(commit.get_child_value(0))

    def detached_metadata(self, checksum: str) -> dict[str, str]:
        with host_errors(f"read the metadata of commit {checksum}"):
            _, metadata = self.repo.read_commit_detached_metadata(checksum, None)
        return _strings(metadata) if metadata is not None else {}

    def update_detached_metadata(self, checksum: str, entries: Mapping[str, str]) -> None:
        """Set entries of a commit's detached metadata and keep the others."""
        with host_errors(f"write the metadata of commit {checksum}"):
            _, old = self.repo.read_commit_detached_metadata(checksum, None)
            kept = {}
            if old is not None:
                for index in range(old.n_children()):
                    pair = old.get_child_value(index)
                    kept[pair.get_child_value(0).get_string()] = pair.get_child_value(1).get_variant()
            kept.update({key: GLib.Variant("s", value) for key, value in entries.items()})
            self.repo.write_commit_detached_metadata(checksum, GLib.Variant("a{sv}", kept), None)

    def commit_root(self, checksum: str) -> tuple[bytes, bytes, frozenset[str] | None]:
        """Return a commit's root dirtree and dirmeta, and the paths of its implied directories.

        The paths are None for a commit another program wrote, which does not record them.
        """
        with host_errors(f"read commit {checksum}"):
            _, commit, _ = self.repo.load_commit(checksum)
        metadata = commit.get_child_value(0)
        implied = metadata.lookup_value(_IMPLIED_KEY, GLib.VariantType.new("as"))
        contents, meta = _bytes(commit.get_child_value(6)), _bytes(commit.get_child_value(7))
        return contents, meta, frozenset(implied.unpack()) if implied is not None else None

    def list_root(self, commit: str) -> tuple[list[tuple[str, bytes]], list[tuple[str, bytes, bytes]]]:
        """Return the files and directories at a commit's root, as `parse_dirtree` does."""
        contents, _, _ = self.commit_root(commit)
        return parse_dirtree(self.read_dirtree(contents))

    def write_commit(
        self,
        store: ObjectStore,
        *,
        contents: bytes,
        meta: bytes,
        metadata: Mapping[str, str],
        timestamp: int,
        parent: str = "",
        implied: list[str] | None = None,
    ) -> str:
        """Write a commit object without subject or body; returns its checksum.

        Args:
            timestamp: seconds since the epoch.
            implied: sorted paths of directories its layer did not list.
        """
        entries = {key: GLib.Variant("s", value) for key, value in metadata.items()}
        if implied:
            entries[_IMPLIED_KEY] = GLib.Variant.new_strv(implied)
        variant = GLib.Variant(
            "(a{sv}aya(say)sstayay)",
            (
                entries,
                bytes.fromhex(parent),
                [],
                "",
                "",
                int.from_bytes(timestamp.to_bytes(8, "big"), sys.byteorder),
                contents,
                meta,
            ),
        )
        return store.write_metadata("commit", variant.get_data_as_bytes().get_data()).hex()

    def write_detached_metadata(self, checksum: str, data: bytes) -> None:
        """Set a commit's detached metadata; in an open transaction it is seen when that is committed."""
        with host_errors(f"write the metadata of commit {checksum}", path=str(self.path)):
            self.repo.write_commit_detached_metadata(checksum, _variant("a{sv}", data), None)

    def read_commit(self, checksum: str) -> tuple[bytes, bytes | None]:
        """Return a commit's object and its detached metadata: what signatures are over and where they are."""
        with host_errors(f"read commit {checksum}", path=str(self.path)):
            _, commit, _ = self.repo.load_commit(checksum)
            _, detached = self.repo.read_commit_detached_metadata(checksum, None)
        return _bytes(commit), None if detached is None else _bytes(detached)

    def mark_complete(self, checksum: str) -> None:
        """Say that all a commit refers to is here."""
        with host_errors(f"mark commit {checksum} as complete", path=str(self.path)):
            self.repo.mark_commit_partial(checksum, False)

    def has_object(self, checksum: bytes, kind: str) -> bool:
        """Whether an object is here; one written in an open transaction counts."""
        object_type = OSTree.object_type_from_string(kind)
        with host_errors("look for an object in the repository", path=str(self.path)):
            _, found = self.repo.has_object(object_type, checksum.hex(), None)
        return bool(found)

    def read_dirtree(self, checksum: bytes) -> bytes:
        """Return a directory's object, for `parse_dirtree`."""
        # As it is on the disk: thousands are read for an image. What is elsewhere, libostree finds.
        name = checksum.hex()
        with suppress(OSError):
            fd = os.open(f"{self._place}/{name[:2]}/{name[2:]}.dirtree", os.O_RDONLY | os.O_CLOEXEC)
            with os.fdopen(fd, "rb", buffering=0) as file:
                return file.read()
        with host_errors("read a directory from the repository", path=str(self.path)):
            _, variant = self.repo.load_variant(OSTree.ObjectType.DIR_TREE, checksum.hex())
        return bytes(variant.get_data_as_bytes().get_data())

    def read_dirmeta(self, checksum: bytes) -> bytes:
        """Return the object of a directory's attributes, for `parse_dirmeta`."""
        with host_errors("read a directory from the repository", path=str(self.path)):
            _, variant = self.repo.load_variant(OSTree.ObjectType.DIR_META, checksum.hex())
        return bytes(variant.get_data_as_bytes().get_data())

    def read_file(self, checksum: bytes, limit: int) -> bytes | None:
        """Return a file's content, None if it is not a regular file or larger than `limit` bytes."""
        with host_errors("read a file from the repository", path=str(self.path)):
            _, stream, info, _ = self.repo.load_file(checksum.hex(), None)
            if info.get_file_type() != Gio.FileType.REGULAR or info.get_size() > limit:
                return None
            content = bytearray()
            while chunk := stream.read_bytes(limit + 1 - len(content), None).get_data():
                content += chunk
                if len(content) > limit:
                    return None
            return bytes(content)

    # writing

    def reserve_bytes(self) -> int:
        """Return the space the host's settings keep free (ostree.repo-config(5), min-free-space-*)."""
        config = self.repo.get_config()
        try:
            text = config.get_string("core", "min-free-space-size")
        except GLib.Error:
            pass
        else:
            units = {"M": 20, "G": 30, "T": 40}
            unit = next((u for u in units if text.rstrip("B").endswith(u)), "M")
            digits = "".join(c for c in text if c.isdigit())
            return int(digits or 0) << units[unit]
        try:
            percent = int(config.get_integer("core", "min-free-space-percent"))
        except GLib.Error:
            percent = _DEFAULT_RESERVE_PERCENT
        stat = os.statvfs(self.path)
        return stat.f_blocks * stat.f_frsize * max(0, min(99, percent)) // 100

    def new_store(self, *, vouched: bool = False, damaged: Container[str] = ()) -> ObjectStore:
        """Return the fastest writer that is right for this repository.

        For `vouched` and `damaged` see `StagedStore`.
        """
        if self.stages_objects:
            with host_errors("write to the ostree repository", path=str(self.path)):
                return StagedStore(
                    self.path,
                    self._objects(),
                    reserve_bytes=self.reserve_bytes(),
                    vouched=vouched,
                    damaged=damaged,
                )
        return LibostreeStore(self.repo)

    def _objects(self) -> int:
        if self._objects_fd is None:
            self._objects_fd = os.open(self.path / "objects", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._objects_fd)
        return self._objects_fd

    def begin(self) -> Transaction:
        """Open a transaction: the repository is held against pruning until it ends.

        Its methods are for one thread at a time.
        """
        with host_errors("start a transaction in the ostree repository", path=str(self.path)):
            remove_stale_stages(self.path)
            return Transaction(self.repo, self._objects() if self.stages_objects else None)


class Transaction:
    """An open transaction: refs are set together when it is committed."""

    def __init__(self, repo: Any, objects: int | None) -> None:
        """`objects` is a descriptor of the directory of that name, if objects are staged beside it."""
        self._repo = repo
        self._path = Path(repo.get_path().get_path())
        self._objects = objects
        self._holds = False
        # A lock of our own beside the transaction's, which is let go at each checkpoint: an object that was
        # here when a layer asked for it must still be here when the layer is published.
        repo.lock_push(OSTree.RepoLockType.SHARED, None)
        self._holds = True
        try:
            repo.prepare_transaction(None)
        except BaseException:
            self._release()
            raise

    def checkpoint(self, stores: Sequence[ObjectStore], refs: Mapping[str, str]) -> None:
        """Publish objects, then refs to them, and go on."""
        self._publish(stores, refs)
        with host_errors("start a transaction in the ostree repository"):
            self._repo.prepare_transaction(None)

    def finish(self, stores: Sequence[ObjectStore], refs: Mapping[str, str]) -> None:
        """Publish objects, then refs to them, and end."""
        self._publish(stores, refs)
        self._release()

    def _publish(self, stores: Sequence[ObjectStore], refs: Mapping[str, str]) -> None:
        objects = self._objects
        with host_errors("write to the ostree repository", path=str(self._path)):
            publish(stores)
            if objects is None:
                for ref, checksum in refs.items():
                    self._repo.transaction_set_ref(None, ref, checksum)
        self.commit()
        if objects is not None:
            with host_errors("set refs of the ostree repository", path=str(self._path)):
                write_refs(self._repo, self._path, refs, lambda: sync_file_system(objects))

    def commit(self) -> None:
        with host_errors("commit the transaction", path=str(self._path)):
            self._repo.commit_transaction(None)

    def abort(self) -> None:
        """Drop what was not committed; nothing if the transaction has ended."""
        if not self._holds:
            return
        try:
            with host_errors("abort the transaction"):
                self._repo.abort_transaction(None)
        finally:
            self._release()

    def _release(self) -> None:
        if self._holds:
            self._holds = False
            with host_errors("unlock the ostree repository"):
                self._repo.lock_pop(OSTree.RepoLockType.SHARED, None)


def parse_commit(data: bytes) -> tuple[bytes, bytes]:
    """Return root dirtree and dirmeta of a commit object from elsewhere; raises InvalidLayer."""
    commit = _variant("(a{sv}aya(say)sstayay)", data)
    try:
        sound = commit.is_normal_form() and OSTree.validate_structureof_commit(commit)
    except GLib.Error:
        sound = False
    if not sound:
        raise InvalidLayer("the layer holds a commit that is not in order")
    return _bytes(commit.get_child_value(6)), _bytes(commit.get_child_value(7))


def check_detached_metadata(data: bytes) -> None:
    """Raise InvalidLayer for what is no detached metadata in normal form."""
    if not _variant("a{sv}", data).is_normal_form():
        raise InvalidLayer("the layer holds detached metadata that is not in order")


def _variant(type_string: str, data: bytes) -> Any:
    return GLib.Variant.new_from_bytes(GLib.VariantType.new(type_string), GLib.Bytes.new(data), False)


def _bytes(variant: Any) -> bytes:
    return bytes(variant.get_data_as_bytes().get_data())


def _wants_verity(repo: Any) -> bool:
    try:
        return repo.get_config().get_string("ex-integrity", "fsverity") not in ("no", "false", "0")
    except GLib.Error:
        return False


def _strings(variant: Any) -> dict[str, str]:
    if variant.get_size() > _METADATA_LIMIT:
        raise BackendFailed("a commit's metadata is larger than any image manifest may be")
    found = {}
    for index in range(variant.n_children()):
        pair = variant.get_child_value(index)
        value = pair.get_child_value(1).get_variant()
        if value.get_type_string() == "s":
            found[pair.get_child_value(0).get_string()] = value.get_string()
    return found
