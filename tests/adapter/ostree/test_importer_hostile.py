"""An import that is interrupted, starved or fed with tricks, seen with ostree's own eyes."""

from __future__ import annotations

import asyncio
import os
import resource
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bootcd.model.errors import BackendFailed, BootcdError, InvalidLayer, OutOfSpace
from bootcd.oci.manifest import Descriptor
from bootcd.ostree import fetch as fetch_module
from bootcd.ostree import importer as importer_module
from bootcd.ostree.fetch import ImportProgress
from bootcd.ostree.repository import Repository, Transaction
from bootcd.ostree.store import StagedStore
from bootcd.ostreefmt.refs import BLOB_PREFIX, blob_ref, image_ref
from tests.adapter.ostree.conftest import blobs_of, checkout, ostree, run_import
from tests.adapter.ostree.test_importer import REFERENCE, assert_untouched, base
from tests.support.oci_image import (
    Entry,
    directory,
    file,
    hardlink,
    make_image,
    make_layer,
    opaque,
    symlink,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files get owners")

WAIT_SECS = 20


@pytest.fixture
def staged(tmp_path: Path) -> Repository:
    """A repository as on most hosts."""
    return new_repository(tmp_path / "repo")


def new_repository(path: Path) -> Repository:
    subprocess.run(["ostree", f"--repo={path}", "init", "--mode=bare"], check=True)
    config = ["core.min-free-space-percent", "0"]
    subprocess.run(["ostree", f"--repo={path}", "config", "set", *config], check=True)
    return Repository.open(path)


def no_stages(repository: Repository) -> bool:
    return not list((repository.path / "tmp").glob("bootcd-stage-*"))


class WatchedProgress(ImportProgress):
    """Sets an event as soon as so many layers are done; may be waited for by threads."""

    def __init__(self, layers: int) -> None:
        self.reached = threading.Event()
        self._layers = layers
        super().__init__()

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "layers_done" and value == self._layers:
            self.reached.set()


# Order


async def test_ref_of_a_layer_is_never_on_disk_before_its_objects(
    staged: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer may finish while another one's objects are being published."""
    monkeypatch.setattr(fetch_module, "CHECKPOINT_BYTES", 1)
    image = make_image([base(), make_layer([file("usr/second", b"2")])])
    progress = WatchedProgress(2)
    dangling: list[str] = []
    flush, commit = StagedStore.flush, Transaction.commit

    def slow_flush(store: StagedStore) -> None:
        assert progress.reached.wait(WAIT_SECS)
        flush(store)

    def checked_commit(transaction: Transaction) -> None:
        commit(transaction)
        refs = staged.refs(BLOB_PREFIX)
        dangling.extend(ref for ref, checksum in refs.items() if not staged.has_commit(checksum))

    monkeypatch.setattr(StagedStore, "flush", slow_flush)
    monkeypatch.setattr(Transaction, "commit", checked_commit)
    await run_import(staged, image, progress=progress)
    assert dangling == []
    assert len(staged.refs(BLOB_PREFIX)) == 2


async def test_finished_layer_is_not_published_beside_an_unverified_one_of_its_store(
    staged: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make_image([base(), make_layer([file("usr/second", os.urandom(1000))])])
    # Full as soon as both have begun.
    size = sum(len(image.blobs[layer.digest]) for layer in image.layers)
    monkeypatch.setattr(fetch_module, "CHECKPOINT_BYTES", size)
    blobs, progress = blobs_of(image), WatchedProgress(1)

    async def open_blob(layer: Descriptor) -> AsyncGenerator[bytes, None]:
        if layer.digest == image.layers[1].digest:
            await asyncio.to_thread(progress.reached.wait, WAIT_SECS)
            raise BackendFailed("the second layer is gone")
        async for chunk in blobs(layer):
            yield chunk

    with pytest.raises(BackendFailed, match="second layer"):
        await run_import(staged, image, open_blob=open_blob, progress=progress)
    assert progress.reached.is_set()
    assert staged.refs(BLOB_PREFIX) == {}
    assert_untouched(staged)


async def test_finished_layer_of_an_import_that_takes_long_is_kept(
    staged: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_module, "CHECKPOINT_SECS", 0)
    image = make_image([base(), make_layer([file("usr/second", os.urandom(1000))])])
    blobs, published = blobs_of(image), threading.Event()
    checkpoint = Transaction.checkpoint

    def noted(transaction: Transaction, *arguments: Any) -> None:
        checkpoint(transaction, *arguments)
        published.set()

    async def open_blob(layer: Descriptor) -> AsyncGenerator[bytes, None]:
        if layer.digest == image.layers[1].digest:
            assert await asyncio.to_thread(published.wait, WAIT_SECS)
            raise BackendFailed("the second layer is gone")
        async for chunk in blobs(layer):
            yield chunk

    monkeypatch.setattr(Transaction, "checkpoint", noted)
    with pytest.raises(BackendFailed, match="second layer"):
        await run_import(staged, image, open_blob=open_blob)
    assert set(staged.refs(BLOB_PREFIX)) == {blob_ref(image.layers[0].digest)}


async def test_failing_layer_waits_for_a_checkpoint_under_way(
    staged: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libostree's transaction is not for two threads at a time."""
    monkeypatch.setattr(fetch_module, "CHECKPOINT_BYTES", 1)
    image = make_image([base(), make_layer([file("usr/second", os.urandom(1000))])])
    blobs = blobs_of(image)
    flushing, failing = threading.Event(), threading.Event()
    running: list[str] = []
    overlaps: list[tuple[str, ...]] = []

    async def open_blob(layer: Descriptor) -> AsyncGenerator[bytes, None]:
        if layer.digest == image.layers[1].digest:
            await asyncio.to_thread(flushing.wait, WAIT_SECS)
            asyncio.get_running_loop().call_later(0.1, failing.set)
            raise BackendFailed("the second layer is gone")
        async for chunk in blobs(layer):
            yield chunk

    def watched(name: str, call: Callable[..., None]) -> Callable[..., None]:
        def wrapper(*arguments: Any) -> None:
            running.append(name)
            if len(running) > 1:
                overlaps.append(tuple(running))
            try:
                call(*arguments)
            finally:
                running.remove(name)

        return wrapper

    flush = StagedStore.flush

    def slow_flush(store: StagedStore) -> None:
        flushing.set()
        assert failing.wait(WAIT_SECS)
        flush(store)

    monkeypatch.setattr(StagedStore, "flush", watched("flush", slow_flush))
    for name in ("abort", "commit"):
        monkeypatch.setattr(Transaction, name, watched(name, getattr(Transaction, name)))
    with pytest.raises(BackendFailed, match="second layer"):
        await run_import(staged, image, open_blob=open_blob)
    assert overlaps == []
    assert_untouched(staged)


async def test_cancel_while_the_image_is_merged_leaves_no_stage(
    staged: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    merging, cancelled = threading.Event(), threading.Event()
    check_tree, loop = importer_module._check_tree, asyncio.get_running_loop()

    def slow_check(*arguments: Any) -> None:
        merging.set()
        assert cancelled.wait(WAIT_SECS)
        check_tree(*arguments)

    monkeypatch.setattr(importer_module, "_check_tree", slow_check)
    task = asyncio.create_task(run_import(staged, make_image([base()])))
    await asyncio.to_thread(merging.wait, WAIT_SECS)
    task.cancel()
    loop.call_later(0.1, cancelled.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    await loop.shutdown_default_executor()
    assert_untouched(staged)


KILLED_WHILE_MOVING = """
import asyncio, os, sys
from pathlib import Path
from bootcd.ostree import store
from bootcd.ostree.repository import Repository
from tests.adapter.ostree import test_importer_hostile as tests
from tests.adapter.ostree.conftest import run_import

left = int(sys.argv[2])
rename = os.rename

def counting(*arguments, **options):
    global left
    left -= 1
    if left < 0:
        os._exit(9)
    rename(*arguments, **options)

store.os.rename = counting
asyncio.run(run_import(Repository.open(Path(sys.argv[1])), tests.small_image()))
"""


def small_image() -> Any:
    return make_image([base(), make_layer([file("usr/second", b"2"), directory("usr/second.d", mode=0o711)])])


@pytest.mark.parametrize("moves", [0, 1, 4, 7, 10, 13, 16, 19])
async def test_kill_between_any_two_moves_leaves_a_sound_repository(staged: Repository, moves: int) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_MOVING, str(staged.path), str(moves)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert killed.returncode == 9
    ostree(staged, "fsck")
    await run_import(staged, small_image())
    ostree(staged, "fsck")
    assert no_stages(staged)


# Starved


async def test_disk_that_fills_up_is_told_and_left_clean(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(mount)], check=True)
    try:
        small = new_repository(mount / "repo")
        files = [file(f"usr/{n}", bytes([n]) * (1 << 20)) for n in range(20)]
        with pytest.raises(OutOfSpace):
            await run_import(small, make_image([base(*files)]))
        assert_untouched(small)
        await run_import(small, make_image([base()]))
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


async def test_publication_that_fails_leaves_no_stage(staged: Repository) -> None:
    for prefix in range(256):
        (staged.path / "objects" / f"{prefix:02x}").write_text("in the way")
    with pytest.raises(BackendFailed):
        await run_import(staged, make_image([base(), make_layer([file("usr/second")])]))
    assert no_stages(staged)


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 150, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_descriptors")
async def test_image_of_many_layers_needs_few_descriptors(staged: Repository) -> None:
    layers = [base(), *(make_layer([file(f"usr/{n}", b"%d" % n)]) for n in range(200))]
    await run_import(staged, make_image(layers))
    assert len(staged.refs(BLOB_PREFIX)) == 201


async def test_imports_leave_no_descriptors_open(tmp_path: Path) -> None:
    async def run(layers: int) -> int:
        fresh = new_repository(tmp_path / f"repo-{layers}")
        before = len(os.listdir("/proc/self/fd"))
        more = [make_layer([file(f"usr/{n}", b"%d" % n)]) for n in range(layers)]
        await run_import(fresh, make_image([base(), *more]))
        return len(os.listdir("/proc/self/fd")) - before

    assert await run(20) <= await run(1)


async def test_thread_that_cannot_start_ends_the_import(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "decode":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    large = base(file("usr/large", os.urandom(24 << 20)))
    with pytest.raises(RuntimeError, match="new thread"):
        async with asyncio.timeout(WAIT_SECS):
            await run_import(repository, make_image([large]))
    assert_untouched(repository)


# Tricks


@pytest.mark.parametrize("cached", [False, True], ids=["fetched", "cached"])
async def test_resolv_conf_that_is_a_link_is_kept(
    repository: Repository, tmp_path: Path, cached: bool
) -> None:
    image = make_image([base(symlink("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"))])
    for _ in range(1 + cached):
        await run_import(repository, image)
    tree = checkout(repository, image_ref(REFERENCE), tmp_path / "tree")
    assert (tree / "usr/etc/resolv.conf").is_symlink()


def acl(*entries: tuple[int, int, int]) -> bytes:
    """An access list as acl(5) stores it: tag, permissions, id."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xFFFFFFFF
OWNER, USER, GROUP, MASK, OTHER = 1, 2, 4, 16, 32
WIDER = acl((OWNER, 6, NOBODY), (USER, 7, 1), (GROUP, 4, NOBODY), (MASK, 7, NOBODY), (OTHER, 4, NOBODY))
REDUNDANT = acl((OWNER, 6, NOBODY), (GROUP, 4, NOBODY), (OTHER, 4, NOBODY))


@pytest.mark.parametrize("value", [WIDER, REDUNDANT], ids=["other-mode", "no-more-than-the-mode"])
async def test_attribute_the_kernel_would_change_is_refused(staged: Repository, value: bytes) -> None:
    """The object would not be what its name says; fsck would find the repository corrupt."""
    entry = file("usr/acl", b"x", mode=0o644, xattrs={"system.posix_acl_access": value})
    with pytest.raises(InvalidLayer, match="attribute"):
        await run_import(staged, make_image([base(entry)]))
    assert_untouched(staged)


@pytest.mark.parametrize(
    "entry",
    [file("usr/x", b"x", xattrs={"nowhere.x": b"1"}), symlink("usr/x", "y", xattrs={"user.x": b"1"})],
    ids=["namespace", "user-attribute-of-a-link"],
)
async def test_attribute_the_disk_cannot_hold_is_named(staged: Repository, entry: Entry) -> None:
    with pytest.raises(InvalidLayer, match="attribute"):
        await run_import(staged, make_image([base(entry)]))
    assert_untouched(staged)


async def test_layer_that_implies_directories_without_end_is_refused(repository: Repository) -> None:
    deep = "/".join(["d"] * 240)
    entries = [file(f"usr/{n}/{deep}/x") for n in range(500)]
    with pytest.raises(InvalidLayer, match="does not list"):
        await run_import(repository, make_image([base(), make_layer(entries)]))
    assert_untouched(repository)


async def test_layer_named_twice_with_different_content_is_refused(repository: Repository) -> None:
    layer = make_layer([file("usr/x", b"1")])
    image = make_image([base(), layer, layer])
    config = image.config.decode()
    assert config.count(layer.diff_id) == 2
    forged = make_image(
        [base(), layer, layer],
        config_changes={
            "rootfs": {
                "type": "layers",
                "diff_ids": [image.layers[0].diff_id, "sha256:" + "0" * 64, layer.diff_id],
            }
        },
    )
    with pytest.raises(BootcdError, match="diff_id"):
        await run_import(repository, forged)
    assert_untouched(repository)


async def test_odd_but_honest_layers_arrive_as_a_container_would_see_them(
    repository: Repository, tmp_path: Path
) -> None:
    layers = [
        base(
            file("usr/becomes-dir", b"1"),
            directory("usr/sgid", mode=0o2775, gid=7),
            symlink("usr/link", "becomes-dir"),
            hardlink("usr/hard-link-to-link", "usr/link"),
            file("usr/twice", b"1"),
            file("usr/twice", b"2", mode=0o755),
            file("usr/in-the-way", b"1"),
            file("usr/in-the-way/x/y", b"2"),
            file("usr/owner", b"x", uid=(1 << 32) - 2, gid=(1 << 32) - 2, mode=0o6755),
            file("usr/opaque/below", b"1"),
            directory("usr/opaque", mode=0o700, uid=9),
            file("usr/whole/sub/below", b"1"),
        ),
        make_layer(
            [
                directory("."),
                file("usr/becomes-dir/x", b"2"),
                opaque("usr/opaque"),
                file("usr/marker"),
                hardlink("usr/.wh.whole", "usr/marker"),
                file("usr/whole/sub/new", b"2"),
            ]
        ),
    ]
    await run_import(repository, make_image(layers))
    ostree(repository, "fsck")
    tree = checkout(repository, image_ref(REFERENCE), tmp_path / "tree")
    assert (tree / "usr/becomes-dir/x").read_bytes() == b"2"
    sgid = (tree / "usr/sgid").stat()
    assert (stat.S_IMODE(sgid.st_mode), sgid.st_gid) == (0o2775, 7)
    assert (tree / "usr/hard-link-to-link").readlink() == Path("becomes-dir")
    assert (tree / "usr/twice").read_bytes() == b"2"
    assert (tree / "usr/in-the-way/x/y").read_bytes() == b"2"
    owned = (tree / "usr/owner").stat()
    assert (owned.st_uid, owned.st_gid, stat.S_IMODE(owned.st_mode)) == ((1 << 32) - 2, (1 << 32) - 2, 0o6755)
    opaque_dir = (tree / "usr/opaque").stat()
    assert os.listdir(tree / "usr/opaque") == []
    assert (stat.S_IMODE(opaque_dir.st_mode), opaque_dir.st_uid) == (0o700, 9)
    assert os.listdir(tree / "usr/whole/sub") == ["new"]


async def test_two_layers_with_the_same_content_share_it(repository: Repository) -> None:
    common = [file("usr/common", os.urandom(3 << 20)), file("usr/small", b"same")]
    await run_import(repository, make_image([base(*common), make_layer([*common, file("usr/second", b"2")])]))
    ostree(repository, "fsck")
    assert no_stages(repository)


async def test_layer_ref_to_a_lost_commit_is_fetched_again(repository: Repository) -> None:
    image = make_image([base()])
    await run_import(repository, image)
    commit = repository.resolve(blob_ref(image.layers[0].digest))
    assert commit is not None
    (repository.path / "objects" / commit[:2] / f"{commit[2:]}.commit").unlink()
    opened: list[str] = []
    await run_import(Repository.open(repository.path), image, open_blob=blobs_of(image, opened=opened))
    assert opened == [image.layers[0].digest]
    ostree(repository, "fsck")
