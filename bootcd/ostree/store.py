"""Writers of ostree objects: how content gets into a repository, whole or not at all.

Objects are first written where no reader looks, and moved to their final names only when
everything they came from was verified. `publish` is that move, with the disk flushed before it, so that a
crash at any moment leaves either no object or a whole one:

    <repo>/tmp/bootcd-stage-<random>/        mode 0700, held by flock while in use; `vouched-` before <random>
                                             if files were verified one by one (`ostree.salvage`)
        content/xx/<62 hex>.file|.dirtree|.dirmeta
        content/commits/<64 hex>.commit      moved last: a commit never lacks what it names
        content/part-<n>                     a large file being written

`StagedStore` writes object files itself, which is two to three times faster than libostree's calls
on distributions whose libostree hashes without OpenSSL. `LibostreeStore` goes through libostree
and serves repositories whose objects need more than a plain file: fs-verity, or a mode
other than bare.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import secrets
import shutil
import stat
import threading
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from bootcd.model.errors import InvalidLayer, OutOfSpace
from bootcd.ostree.libostree import GLib, OSTree, host_errors
from bootcd.ostree.salvage import salvage
from bootcd.ostree.writeback import Writeback, sync_file_system
from bootcd.ostreefmt.objects import file_header

log = logging.getLogger(__name__)

SMALL_FILE_BYTES = 1 << 20
"Up to here a file is read whole, so that it is created once, under its final name, or not at all."

STAGE_PREFIX = "bootcd-stage-"
_VOUCHED_PREFIX = f"{STAGE_PREFIX}vouched-"
_SPACE_CHECK_BYTES = 4 << 20
_COMMITS = "commits"
_FAR_FUTURE = (1 << 31) - 1
_REFUSED_XATTR = (errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL, errno.ENODATA, errno.ERANGE, errno.E2BIG)

Xattrs = Sequence[tuple[bytes, bytes]]


class ObjectStore(Protocol):
    """Where a layer's content goes. Methods may be called from several threads."""

    def write_file(
        self, uid: int, gid: int, mode: int, xattrs: Xattrs, size: int, chunks: Iterator[memoryview]
    ) -> bytes:
        """Store a regular file; `mode` has its permission and set-id bits. Returns the 32-byte checksum."""
        ...

    def write_symlink(self, uid: int, gid: int, target: str, xattrs: Xattrs) -> bytes: ...

    def write_metadata(self, kind: str, data: bytes) -> bytes:
        """Store a `dirtree`, `dirmeta` or `commit` given in its serialised form."""
        ...

    def find(self, checksum: bytes, kind: str) -> Path | None:
        """Return where an object lies that was written here and is not published yet."""
        ...

    def flush(self) -> None:
        """Return when all that was written or moved is on the disk."""
        ...

    def move(self) -> None:
        """Move everything written so far to its final names."""
        ...

    def discard(self) -> None:
        """Forget what was written and not published."""
        ...


def publish(stores: Sequence[ObjectStore]) -> None:
    """Make everything written to the stores part of the repository, durably; in their order.

    The content is on the disk before the first name, and all names before this returns. If it fails,
    what was not published is forgotten.
    """
    try:
        for store in stores[:1]:
            store.flush()
        for store in stores:
            store.move()
        for store in stores[:1]:
            store.flush()
    except BaseException:
        for store in stores:
            store.discard()
        raise


class StagedStore:
    """Writes object files of a bare repository into a staging directory.

    Args:
        objects: descriptor of the repository's `objects`, opened before the first write of all stores that
            are published together: only then does its syncfs(2) report every write that failed.
        vouched: whether every file is verified by itself before it is complete, so that it may be kept if
            what it came with is never finished.
        damaged: names of objects that are there and not what they should be: they are written anew, and
            take the place of what is there.
    """

    def __init__(
        self,
        repo_path: Path,
        objects: int,
        *,
        reserve_bytes: int,
        vouched: bool = False,
        damaged: Container[str] = (),
    ) -> None:
        self._vouched = vouched
        self._damaged = damaged
        self._repo_path = repo_path
        self._reserve = reserve_bytes
        self._objects = objects
        self._stage: _Stage | None = None
        self._mutex = threading.Lock()
        self._parts = 0
        self._occupied: dict[str, bool] = {}
        "Whether the repository has any objects of a prefix, as far as it was asked: in a new one it has not."
        self._metadata: set[str] = set()
        "Names of metadata objects that are here: each layer writes many that other layers have as well."
        self._since_space_check = _SPACE_CHECK_BYTES

    def write_file(
        self, uid: int, gid: int, mode: int, xattrs: Xattrs, size: int, chunks: Iterator[memoryview]
    ) -> bytes:
        self._account(size)
        header = file_header(uid, gid, 0o100000 | mode, "", xattrs)
        if size <= SMALL_FILE_BYTES:
            content = _read_small(size, chunks)
            digest = hashlib.sha256(header)
            digest.update(content)
            checksum = digest.digest()
            name = _object_name(checksum, "file")
            if not self._is_known(name):
                self._create(name[:2], name, uid, gid, mode, xattrs, content)
            return checksum
        return self._write_large(header, uid, gid, mode, xattrs, chunks)

    def _write_large(
        self, header: bytes, uid: int, gid: int, mode: int, xattrs: Xattrs, chunks: Iterator[memoryview]
    ) -> bytes:
        stage = self._current_stage()
        with self._mutex:
            self._parts += 1
            part = f"part-{self._parts}"
        digest = hashlib.sha256(header)
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=stage.fd)
        try:
            for chunk in chunks:
                digest.update(chunk)
                _write_all(fd, chunk)
                stage.writeback.wrote(len(chunk))
            _set_attributes(fd, uid, gid, mode, xattrs)
        finally:
            os.close(fd)
        checksum = digest.digest()
        name = _object_name(checksum, "file")
        if self._is_known(name):
            os.unlink(part, dir_fd=stage.fd)
        else:
            stage.make_directory(name[:2])
            os.rename(part, name, src_dir_fd=stage.fd, dst_dir_fd=stage.fd)
        return checksum

    def _create(
        self,
        directory: str,
        name: str,
        uid: int,
        gid: int,
        mode: int,
        xattrs: Xattrs,
        content: bytes | bytearray | memoryview,
    ) -> None:
        stage = self._current_stage()
        stage.make_directory(directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            fd = os.open(name, flags, 0o600, dir_fd=stage.fd)
        except FileExistsError:  # another layer has the same file right now
            return
        try:
            if content:
                _write_all(fd, memoryview(content))
                stage.writeback.wrote(len(content))
            _set_attributes(fd, uid, gid, mode, xattrs)
        except BaseException:
            # Files of a stage whose layer failed may be kept, by their names.
            os.unlink(name, dir_fd=stage.fd)
            raise
        finally:
            os.close(fd)

    def write_symlink(self, uid: int, gid: int, target: str, xattrs: Xattrs) -> bytes:
        checksum = hashlib.sha256(file_header(uid, gid, 0o120777, target, xattrs)).digest()
        name = _object_name(checksum, "file")
        if not self._is_known(name):
            stage = self._current_stage()
            stage.make_directory(name[:2])
            try:
                os.symlink(target, name, dir_fd=stage.fd)
            except FileExistsError:
                return checksum
            try:
                os.chown(name, uid, gid, dir_fd=stage.fd, follow_symlinks=False)
                if xattrs:
                    _set_xattrs(f"/proc/self/fd/{stage.fd}/{name}", xattrs)
            except BaseException:
                os.unlink(name, dir_fd=stage.fd)
                raise
        return checksum

    def write_metadata(self, kind: str, data: bytes) -> bytes:
        checksum = hashlib.sha256(data).digest()
        name = _object_name(checksum, kind)
        if name in self._metadata:
            return checksum
        if not self._is_known(name):
            directory, place = name[:2], name
            if kind == "commit":
                directory, place = _COMMITS, f"{_COMMITS}/{checksum.hex()}.commit"
            self._create(directory, place, 0, 0, 0o644, (), data)
        self._metadata.add(name)
        return checksum

    def find(self, checksum: bytes, kind: str) -> Path | None:
        if self._stage is None:
            return None
        path = self._stage.content / _object_name(checksum, kind)
        return path if path.is_symlink() or path.exists() else None

    def flush(self) -> None:
        """Flush the whole file system: one wait instead of one for each of thousands of files."""
        sync_file_system(self._objects)

    def move(self) -> None:
        with self._mutex:
            stage, self._stage = self._stage, None
        if stage is None:
            return
        try:
            for prefix in sorted(stage.directories - {_COMMITS}):
                self._move_prefix(stage, prefix)
            if _COMMITS in stage.directories:
                self._move_commits(stage)
        finally:
            stage.remove()

    def _move_prefix(self, stage: _Stage, prefix: str) -> None:
        try:
            # A prefix the repository does not have yet moves as a whole.
            os.chmod(prefix, 0o755, dir_fd=stage.fd)  # noqa: S103  # as libostree makes it
            os.rename(prefix, prefix, src_dir_fd=stage.fd, dst_dir_fd=self._objects)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            source = os.open(prefix, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=stage.fd)
            target = os.open(prefix, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._objects)
            try:
                for name in os.listdir(source):  # noqa: PTH208  # by descriptor
                    os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
            finally:
                os.close(source)
                os.close(target)

    def _move_commits(self, stage: _Stage) -> None:
        source = os.open(_COMMITS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=stage.fd)
        try:
            for name in os.listdir(source):  # noqa: PTH208  # by descriptor
                try:
                    os.mkdir(name[:2], 0o755, dir_fd=self._objects)
                except FileExistsError:
                    pass
                os.rename(name, f"{name[:2]}/{name[2:]}", src_dir_fd=source, dst_dir_fd=self._objects)
        finally:
            os.close(source)

    def discard(self) -> None:
        with self._mutex:
            stage, self._stage = self._stage, None
            self._metadata.clear()
        if stage is not None:
            stage.remove()

    def _current_stage(self) -> _Stage:
        stage = self._stage
        if stage is None:
            with self._mutex:
                if self._stage is None:
                    self._stage = _Stage(self._repo_path, self._vouched)
                stage = self._stage
        return stage

    def _is_known(self, name: str) -> bool:
        prefix = name[:2]
        occupied = self._occupied.get(prefix)
        if occupied is None:
            occupied = self._occupied[prefix] = _has_entries(prefix, self._objects)
        return (
            occupied
            and name not in self._damaged
            and os.access(name, os.F_OK, dir_fd=self._objects, follow_symlinks=False)
        )

    def _account(self, size: int) -> None:
        """Notice a full disk before the file system does, and leave the host's reserve alone."""
        with self._mutex:
            self._since_space_check += size
            if self._since_space_check < _SPACE_CHECK_BYTES:
                return
            self._since_space_check = 0
        require_space(self._repo_path, size, self._reserve)


class LibostreeStore:
    """Writes objects through libostree, inside the transaction its owner has open."""

    def __init__(self, repo: Any) -> None:
        self._repo = repo

    def write_file(
        self, uid: int, gid: int, mode: int, xattrs: Xattrs, size: int, chunks: Iterator[memoryview]
    ) -> bytes:
        with host_errors("write a file to the repository"):
            writer = self._repo.write_regfile(None, uid, gid, 0o100000 | mode, size, _variant(xattrs))
            for chunk in chunks:
                writer.write_all(bytes(chunk), None)
            return bytes.fromhex(writer.finish(None))

    def write_symlink(self, uid: int, gid: int, target: str, xattrs: Xattrs) -> bytes:
        with host_errors("write a symbolic link to the repository"):
            return bytes.fromhex(self._repo.write_symlink(None, uid, gid, _variant(xattrs), target, None))

    def write_metadata(self, kind: str, data: bytes) -> bytes:
        object_type = {
            "dirtree": (OSTree.ObjectType.DIR_TREE, "(a(say)a(sayay))"),
            "dirmeta": (OSTree.ObjectType.DIR_META, "(uuua(ayay))"),
            "commit": (OSTree.ObjectType.COMMIT, "(a{sv}aya(say)sstayay)"),
        }[kind]
        variant = GLib.Variant.new_from_bytes(
            GLib.VariantType.new(object_type[1]), GLib.Bytes.new(data), False
        )
        with host_errors("write to the repository"):
            _, checksum = self._repo.write_metadata(object_type[0], None, variant)
        return bytes(checksum)

    def find(self, checksum: bytes, kind: str) -> Path | None:
        """Never: reads go through the repository's own transaction."""
        return None

    def flush(self) -> None:
        """Nothing to do: the owner's transaction publishes."""

    def move(self) -> None:
        """Nothing to do: the owner's transaction publishes."""

    def discard(self) -> None:
        """Nothing to do: the owner aborts its transaction."""


class StagingDirectory:
    """A temporary directory of a repository, held by a lock so that nobody takes it for a stale one."""

    def __init__(self, repo_path: Path, prefix: str = STAGE_PREFIX) -> None:
        self.path = repo_path / "tmp" / f"{prefix}{secrets.token_hex(8)}"
        self.path.mkdir(mode=0o700)
        self._lock = -1
        try:
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove it, with what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)


class _Stage:
    """A staging directory of objects."""

    def __init__(self, repo_path: Path, vouched: bool) -> None:
        self._directory = StagingDirectory(repo_path, _VOUCHED_PREFIX if vouched else STAGE_PREFIX)
        self.fd = -1
        try:
            self.content = self._directory.path / "content"
            self.content.mkdir(mode=0o700)
            self.fd = os.open(self.content, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            # libostree removes what looks a day old, as this would once a clock that was wrong is set.
            os.utime(self._directory.path, (_FAR_FUTURE, _FAR_FUTURE))
            self.writeback = Writeback(self.content)
        except BaseException:
            self._remove_files()
            raise
        self.directories: set[str] = set()

    def make_directory(self, name: str) -> None:
        if name not in self.directories:
            try:
                os.mkdir(name, 0o700, dir_fd=self.fd)
            except FileExistsError:
                pass  # another thread was first
            self.directories.add(name)

    def remove(self) -> None:
        self.writeback.close()
        self._remove_files()

    def _remove_files(self) -> None:
        self._directory.close()
        if self.fd >= 0:
            os.close(self.fd)


def remove_stale_stages(repo_path: Path) -> None:
    """Reclaim staging directories whose owner was killed, and keep what may be kept."""
    for path in (repo_path / "tmp").glob(f"{STAGE_PREFIX}*"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            if path.name.startswith(_VOUCHED_PREFIX):
                try:
                    salvage(path / "content", repo_path / "objects")
                except OSError as error:
                    log.warning("what was fetched before cannot be kept: %s", error)
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(fd)


def require_space(path: Path, needed_bytes: int, reserve_bytes: int) -> None:
    """Raise `OutOfSpace` unless `needed_bytes` can be written and the reserve stays free."""
    disk = os.statvfs(path)
    available = max(0, disk.f_bavail * disk.f_frsize - reserve_bytes)
    if needed_bytes > available:
        raise OutOfSpace(
            f"{needed_bytes - available} more bytes are needed on the disk of {path}",
            hint="free some space, or remove a pinned or rollback deployment, and try again",
            needed_bytes=needed_bytes,
            available_bytes=available,
            path=str(path),
        )


def _has_entries(directory: str, parent: int) -> bool:
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
    except FileNotFoundError:
        return False
    try:
        with os.scandir(fd) as entries:
            return next(entries, None) is not None
    finally:
        os.close(fd)


def _object_name(checksum: bytes, kind: str) -> str:
    text = checksum.hex()
    return f"{text[:2]}/{text[2:]}.{kind}"


def _write_all(fd: int, view: memoryview) -> None:
    while view:
        view = view[os.write(fd, view) :]


def _set_attributes(fd: int, uid: int, gid: int, mode: int, xattrs: Xattrs) -> None:
    # The owner first: changing it clears set-id bits and file capabilities.
    if uid or gid:
        os.fchown(fd, uid, gid)
    os.fchmod(fd, mode)
    if xattrs:
        _set_xattrs(fd, xattrs)
        if stat.S_IMODE(os.fstat(fd).st_mode) != mode:
            raise InvalidLayer(f"the layer has a file whose extended attributes contradict its mode {mode:o}")
    os.utime(fd, ns=(0, 0))


def _set_xattrs(target: int | str, xattrs: Xattrs) -> None:
    """Set attributes and make sure that they are what was asked for: the kernel rewrites some of them."""
    follow = isinstance(target, int)
    for key, value in xattrs:
        try:
            os.setxattr(target, key, value, follow_symlinks=follow)
            kept = os.getxattr(target, key, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in _REFUSED_XATTR:
                raise
            kept = None
        if kept != value:
            name = ascii(key.decode(errors="replace"))
            raise InvalidLayer(
                f"the layer has an extended attribute {name} that the disk cannot hold as it is"
            )


def _variant(xattrs: Xattrs) -> Any:
    return GLib.Variant("a(ayay)", [(key + b"\0", value) for key, value in xattrs])


def _read_small(size: int, chunks: Iterator[memoryview]) -> memoryview | bytearray:
    """Return the whole content; a chunk is only good until the next one is asked for."""
    first = next(chunks, memoryview(b""))
    if len(first) == size:
        return first
    content = bytearray(first)
    for chunk in chunks:
        content += chunk
    return content
