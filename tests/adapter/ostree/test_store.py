"""How objects get their names: in which order, and what becomes of them if something comes between."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bootcd.model.errors import BackendFailed, InvalidLayer, OutOfSpace
from bootcd.ostree import repository as repository_module
from bootcd.ostree import writeback
from bootcd.ostree.libostree import OSTree
from bootcd.ostree.repository import Repository, Transaction
from bootcd.ostree.store import SMALL_FILE_BYTES, ObjectStore, StagedStore, publish, remove_stale_stages
from bootcd.ostreefmt.objects import ObjectKind, object_path
from tests.adapter.ostree.conftest import ostree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files get owners")


WAIT_SECS = 30

_F_OFD_SETLK = 37  # Python has the name from 3.12 on


@pytest.fixture
def staged(tmp_path: Path) -> Repository:
    path = tmp_path / "repo"
    subprocess.run(["ostree", f"--repo={path}", "init", "--mode=bare"], check=True)
    return Repository.open(path)


def object_of(repository: Repository, checksum: bytes, kind: str) -> Path:
    return repository.path / "objects" / object_path(checksum.hex(), ObjectKind(kind))


def write(store: ObjectStore, content: bytes, mode: int = 0o644) -> bytes:
    def chunks() -> Iterator[memoryview]:
        for start in range(0, len(content), 100_000):
            yield memoryview(content)[start : start + 100_000]

    return store.write_file(0, 0, mode, (), len(content), chunks())


def stages(repository: Repository) -> list[Path]:
    return list((repository.path / "tmp").glob("bootcd-stage-*"))


@pytest.mark.parametrize("size", [0, 1, SMALL_FILE_BYTES, SMALL_FILE_BYTES + 1])
def test_file_has_its_name_only_once_published(staged: Repository, size: int) -> None:
    store = staged.new_store()
    checksum = write(store, b"x" * size)
    assert not object_of(staged, checksum, "file").exists()
    assert store.find(checksum, "file") is not None
    publish([store])
    assert object_of(staged, checksum, "file").stat().st_size == size
    assert stages(staged) == []
    ostree(staged, "fsck")


def test_set_id_file_is_out_of_reach_until_it_is_published(staged: Repository) -> None:
    store = staged.new_store()
    write(store, b"x", mode=0o4755)
    (stage,) = stages(staged)
    assert stat.S_IMODE(stage.stat().st_mode) == 0o700
    store.discard()


def test_published_directories_are_as_libostree_makes_them(staged: Repository) -> None:
    store = staged.new_store()
    checksum = write(store, b"x")
    publish([store])
    assert stat.S_IMODE(object_of(staged, checksum, "file").parent.stat().st_mode) == 0o755


class Recorder(StagedStore):
    """Notes what is done to it, and what has its name at that time."""

    events: list[tuple[str, int]]

    def flush(self) -> None:
        self.events.append(("flush", self.named()))
        super().flush()

    def move(self) -> None:
        self.events.append(("move", self.named()))
        super().move()

    def named(self) -> int:
        return len(list((self._repo_path / "objects").glob("*/*")))


def test_publish_flushes_before_the_first_name_and_after_the_last(staged: Repository) -> None:
    Recorder.events = []
    stores = [Recorder(staged.path, staged._objects(), reserve_bytes=0) for _ in range(2)]
    write(stores[0], b"1")
    write(stores[1], b"2")
    publish(stores)
    assert Recorder.events == [("flush", 0), ("move", 0), ("move", 1), ("flush", 2)]


def test_commit_gets_its_name_last(staged: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    store = staged.new_store()
    commit = store.write_metadata("commit", b"not read by anybody")
    for n in range(50):
        write(store, b"%d" % n)
    order: list[str] = []
    rename = os.rename

    def noted(source: str, target: str, **directories: int) -> None:
        order.append(source)
        rename(source, target, **directories)

    monkeypatch.setattr(os, "rename", noted)
    publish([store])
    assert order[-1].endswith(".commit")
    assert object_of(staged, commit, "commit").exists()


def test_object_that_is_here_is_not_written_again(staged: Repository) -> None:
    first, second = staged.new_store(), staged.new_store()
    checksum = write(first, b"x")
    publish([first])
    inode = object_of(staged, checksum, "file").stat().st_ino
    write(second, b"x")
    assert stages(staged) == []
    publish([second])
    assert object_of(staged, checksum, "file").stat().st_ino == inode


def test_repository_is_asked_for_objects_only_where_it_has_any(
    staged: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    access = os.access

    def noted(name: str, mode: int, **rest: Any) -> bool:
        asked.append(name)
        return access(name, mode, **rest)

    monkeypatch.setattr(os, "access", noted)
    store = staged.new_store()
    first = write(store, b"x")
    store.write_metadata("dirmeta", b"no tree")
    assert not asked
    publish([store])
    store = staged.new_store()
    assert write(store, b"x") == first
    assert store.find(first, "file") is None
    for _ in range(2):
        store.write_metadata("dirmeta", b"no tree")
    assert len(asked) == 2


def test_stores_of_one_publication_may_hold_the_same_object(staged: Repository) -> None:
    stores = [staged.new_store(), staged.new_store()]
    for store in stores:
        write(store, b"same")
        store.write_symlink(0, 0, "same", ())
        store.write_metadata("commit", b"same")
    publish(stores)
    assert stages(staged) == []


def test_publication_that_fails_forgets_all_stores(
    staged: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = [staged.new_store() for _ in range(3)]
    checksums = [write(store, b"%d" % n) for n, store in enumerate(stores)]

    def fail(store: StagedStore) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(StagedStore, "flush", fail)
    with pytest.raises(OSError, match="Input"):
        publish(stores)
    assert stages(staged) == []
    assert not any(object_of(staged, checksum, "file").exists() for checksum in checksums)


@pytest.mark.parametrize("sizes", [[1000, 500], [SMALL_FILE_BYTES + 1]], ids=["small files", "a large one"])
def test_written_data_is_on_its_way_to_the_disk_before_it_is_published(
    staged: Repository, monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    begun = threading.Event()
    flushed: list[int] = []

    def syncfs(fd: int) -> int:
        flushed.append(fd)
        begun.set()
        return 0

    monkeypatch.setattr(writeback, "STEP_BYTES", 1500)
    monkeypatch.setattr(writeback, "_syncfs", syncfs)
    store = staged.new_store()
    for size in sizes:
        assert not begun.is_set()
        write(store, b"x" * size)
    assert begun.wait(WAIT_SECS)
    begun_with = flushed[0]
    publish([store])
    # With a descriptor of its own: a write that failed is told once to each of them.
    assert begun_with not in flushed[-2:]


def test_store_that_never_wrote_can_be_published_and_discarded(staged: Repository) -> None:
    store = staged.new_store()
    publish([store])
    store.discard()
    publish([])


def test_stage_in_use_is_not_stale(staged: Repository) -> None:
    store = staged.new_store()
    checksum = write(store, b"x")
    remove_stale_stages(staged.path)
    publish([store])
    assert object_of(staged, checksum, "file").exists()


def test_stage_of_a_killed_process_is_removed(staged: Repository) -> None:
    stage = staged.path / "tmp/bootcd-stage-0123456789abcdef"
    (stage / "content/ab").mkdir(parents=True)
    (stage / "content/ab/file").write_bytes(b"x")
    (staged.path / "tmp/somebody-elses").mkdir()
    remove_stale_stages(staged.path)
    assert stages(staged) == []
    assert (staged.path / "tmp/somebody-elses").exists()


def test_name_that_only_looks_like_a_stage_leads_nowhere(staged: Repository, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_bytes(b"x")
    (staged.path / "tmp/bootcd-stage-link").symlink_to(precious)
    (staged.path / "tmp/bootcd-stage-file").write_bytes(b"x")
    remove_stale_stages(staged.path)
    assert (precious / "file").exists()


def test_stage_is_never_as_old_as_what_libostree_removes(staged: Repository) -> None:
    """A clock that was wrong when the stage was made jumps by years once it is set."""
    store = staged.new_store()
    for n in range(300):
        write(store, b"%d" % n)
    (stage,) = stages(staged)
    assert stage.stat().st_mtime > time.clock_gettime(time.CLOCK_REALTIME) + 365 * 86400
    store.discard()


def test_repository_is_held_against_pruning_across_a_checkpoint(
    staged: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a layer found here must not be pruned before the layer is published."""
    held: list[bool] = []
    commit = Transaction.commit

    def checked(transaction: Transaction) -> None:
        commit(transaction)
        held.append(exclusive_lock_is_taken(staged))

    monkeypatch.setattr(Transaction, "commit", checked)
    transaction = staged.begin()
    transaction.checkpoint([], {})
    transaction.finish([], {})
    assert held == [True, True]
    assert not exclusive_lock_is_taken(staged)


def test_aborted_transaction_lets_the_repository_go(staged: Repository) -> None:
    transaction = staged.begin()
    transaction.abort()
    transaction.abort()
    assert not exclusive_lock_is_taken(staged)
    staged.begin().finish([], {})


def exclusive_lock_is_taken(repository: Repository) -> bool:
    """Whether another process would have to wait to prune (fcntl(2), open file description locks)."""
    wanted = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    with (repository.path / ".lock").open("r+b") as lock:
        try:
            fcntl.fcntl(lock, _F_OFD_SETLK, wanted)
        except BlockingIOError:
            return True
    return False


def test_ref_is_set_only_with_the_objects_it_names(
    staged: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    transaction, store = staged.begin(), staged.new_store()
    write(store, b"x")

    def fail(store: StagedStore) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StagedStore, "flush", fail)
    with pytest.raises(OutOfSpace):
        transaction.finish([store], {"a/b": "0" * 64})
    transaction.abort()
    assert staged.refs("a") == {}


def test_refs_are_on_the_disk_before_they_have_their_names_and_after(
    staged: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def noted(fd: int) -> None:
        seen.append((len(list(staged.path.glob("tmp/bootcd-stage-*/*"))), len(staged.refs("a"))))

    monkeypatch.setattr(repository_module, "sync_file_system", noted)
    refs = {"a/b": "0" * 64, "a/c/d": "1" * 64}
    transaction = staged.begin()
    transaction.checkpoint([], refs)
    assert seen == [(2, 0), (0, 2)]
    transaction.finish([], {"a/b": "2" * 64})
    assert Repository.open(staged.path).refs("a") == {**refs, "a/b": "2" * 64}
    assert stat.S_IMODE((staged.path / "refs/heads/a/c/d").stat().st_mode) == 0o644
    assert not stages(staged)


def test_ref_takes_the_place_of_refs_that_are_gone_and_not_of_one_that_is_there(staged: Repository) -> None:
    transaction = staged.begin()
    transaction.checkpoint([], {"a/b/c": "0" * 64, "b/c": "0" * 64})
    staged.delete_ref("a/b/c")
    transaction.checkpoint([], {"a/b": "1" * 64})
    assert staged.refs("a") == {"a/b": "1" * 64}
    with pytest.raises(BackendFailed):
        transaction.finish([], {"b": "1" * 64})
    transaction.abort()
    assert staged.refs("b") == {"b/c": "0" * 64}


@pytest.mark.parametrize("stages_objects", [True, False], ids=["staged", "libostree"])
def test_both_writers_name_objects_alike(staged: Repository, stages_objects: bool) -> None:
    staged.stages_objects = stages_objects
    transaction, store = staged.begin(), staged.new_store()
    names = [
        write(store, b""),
        write(store, b"x" * (2 << 20), mode=0o6711),
        store.write_symlink(3, 4, "t" * 4095, ((b"trusted.x", b"1"),)),
        store.write_file(5, 6, 0o600, ((b"user.a", b""), (b"user.b", b"\xff")), 1, iter([memoryview(b"y")])),
    ]
    transaction.finish([store], {})
    for name in names:
        # libostree reads the object and hashes all of it.
        _, stream, _ = staged.repo.load_object_stream(OSTree.ObjectType.FILE, name.hex(), None)
        stream.close(None)
    ostree(staged, "fsck")


def test_disk_that_fills_up_meanwhile_is_noticed_before_a_larger_file(
    staged: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, size = staged.new_store(), 5 << 20
    write(store, b"x")
    left = staged.reserve_bytes() + size - 1
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=left, f_frsize=1))
    with pytest.raises(OutOfSpace, match="1 more bytes are needed"):
        write(store, b"y" * size)
    store.discard()


@pytest.mark.parametrize(
    "write_refused",
    [
        lambda store, xattrs: store.write_file(0, 0, 0o755, xattrs, 5, iter([memoryview(b"bytes")])),
        lambda store, xattrs: store.write_symlink(0, 0, "target", xattrs),
    ],
    ids=["file", "link"],
)
def test_object_whose_attributes_the_disk_refuses_is_not_published(
    staged: Repository, write_refused: Callable[[ObjectStore, Any], bytes]
) -> None:
    store = staged.new_store(vouched=True)

    with pytest.raises(InvalidLayer):
        write_refused(store, [(b"nosuchnamespace.name", b"value")])
    publish([store])

    assert not list((staged.path / "objects").rglob("*.file"))
