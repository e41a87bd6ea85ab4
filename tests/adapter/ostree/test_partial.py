"""Layers of which parts are fetched: the same commits from fewer bytes, or the whole layer after all."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bootcd.model.errors import RegistryUnavailable
from bootcd.oci.chunked import CHECKSUM, TAR_SPLIT_POSITION
from bootcd.oci.manifest import Descriptor
from bootcd.ostree.fetch import ImportProgress
from bootcd.ostree.partial import Proof
from bootcd.ostree.repository import Repository
from bootcd.ostreefmt.refs import blob_ref, image_ref
from tests.adapter.ostree.conftest import Ranges, blobs_of, new_repository, ostree, run_import
from tests.adapter.ostree.test_chunked import Source
from tests.adapter.ostree.test_importer import KERNEL, REFERENCE, XATTRS
from tests.adapter.ostree.test_selinux import CHANGES, SYSTEM
from tests.support.chunked_layer import (
    chunked_layer,
    compressed_bytes,
    make_chunked_layer,
    tables_bytes,
)
from tests.support.oci_image import (
    Entry,
    Image,
    Layer,
    directory,
    file,
    hardlink,
    make_image,
    make_layer,
    make_tar,
    opaque,
    symlink,
    whiteout,
)
from tests.support.selinux import policy_entries, policy_files

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files get owners")

PROOFS: tuple[Proof, ...] = ("archive", "table")
OLD = "docker://registry.example/os:0"


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def system(version: int, files: int = 60) -> list[Entry]:
    """Return a system of which every tenth file is of a version."""
    return [
        *KERNEL,
        *(
            file(f"usr/share/{n}", noise(n * 100 + (version if n % 10 == 0 else 0), 9000 + n))
            for n in range(files)
        ),
    ]


EVERYTHING = [
    file("usr/bin/plain", noise(1, 5000), mode=0o755),
    file("usr/bin/setuid", b"s", mode=0o4755, uid=1, gid=2),
    file("usr/bin/empty", b""),
    file("usr/bin/big", noise(2, 3 << 20) + bytes(1 << 20)),
    directory("usr/share/sticky", mode=0o1777, uid=3, gid=4, xattrs={"user.d": b"dir"}),
    file("usr/share/x", b"x", xattrs=XATTRS),
    file("usr/share/same-content-as-x", b"x", mode=0o600),
    symlink("usr/bin/link", "../share/x", uid=5, gid=6),
    hardlink("usr/bin/hard", "usr/bin/plain"),
    Entry("dev/null", "char", device=(1, 3)),
    Entry("run/pipe", "fifo"),
    file("etc/conf.d/\u00e4-non-ascii", b"n"),
    file("usr/share/" + "long-" * 40 + "/" + "name-" * 40, b"l" * 2000),
]


def commits(repository: Repository, image: Image) -> list[str | None]:
    """Return the commits of an image and of its layers."""
    refs = [image_ref(REFERENCE), *(blob_ref(layer.digest) for layer in image.layers)]
    return [repository.resolve(ref) for ref in refs]


async def whole(path: Path, image: Image) -> list[str | None]:
    """Return the commits there are without partial pulls."""
    repository = new_repository(path)
    await run_import(repository, image)
    return commits(repository, image)


@pytest.mark.parametrize("proof", PROOFS)
@pytest.mark.parametrize("gnu", [False, True])
async def test_layers_in_parts_give_the_commits_that_whole_ones_give(
    repository: Repository, tmp_path: Path, gnu: bool, proof: Proof
) -> None:
    layers = [
        make_chunked_layer([*system(1), *EVERYTHING], gnu=gnu),
        make_chunked_layer(
            [*system(1)[9:30], whiteout("usr/bin/plain"), opaque("usr/share/sticky")], gnu=gnu
        ),
    ]
    image = make_image(layers)
    await run_import(repository, make_image([make_chunked_layer(system(0))]), reference=OLD)
    ranges = Ranges(image)
    opened: list[str] = []
    progress = ImportProgress()

    result = await run_import(
        repository,
        image,
        ranges=ranges,
        partial="always",
        proof=proof,
        open_blob=blobs_of(image, opened=opened),
        progress=progress,
    )

    assert opened == []
    assert commits(repository, image) == await whole(tmp_path / "other", image)
    ostree(repository, "fsck")
    assert result.bytes_fetched == ranges.size == progress.bytes_done == progress.bytes_total
    assert progress.bytes_done + progress.bytes_cached == sum(len(layer.blob) for layer in layers)


@pytest.mark.parametrize("proof", [*PROOFS, None])
async def test_image_of_an_ostree_commit_in_parts_is_that_commit(
    repository: Repository, tmp_path: Path, proof: Proof | None
) -> None:
    parts = proof is not None
    source = Source(tmp_path)

    def image() -> tuple[str, Image]:
        chunked = source.encapsulate()
        layers = [chunked_layer(make_tar(entries)) for entries in chunked.layers]
        labels = {"ostree.commit": chunked.commit, "ostree.final-diffid": layers[-1].diff_id}
        return chunked.commit, make_image(layers, labels={**labels, "ostree.bootable": "true"})

    await run_import(repository, image()[1], reference=OLD)
    source.write("usr/bin/tool", b"tool 2" * 1000)
    commit, second = image()
    ranges = Ranges(second)
    opened: list[str] = []

    await run_import(
        repository,
        second,
        ranges=ranges if parts else None,
        partial="always",
        proof=proof or "archive",
        open_blob=blobs_of(second, opened=opened),
    )

    assert bool(opened) is not parts
    assert not parts or ranges.size < 50_000
    assert repository.resolve(blob_ref(second.layers[0].digest)) == commit
    ostree(repository, "fsck")


@pytest.mark.parametrize("proof", PROOFS)
async def test_files_are_labelled_in_parts_as_in_whole_layers(
    staged_repository: Repository, tmp_path: Path, proof: Proof
) -> None:
    repository = staged_repository

    def image(version: bytes) -> Image:
        system = [*SYSTEM, *system_files(), file("usr/bin/version", version)]
        layers = [*(make_chunked_layer(entries) for entries in (system, CHANGES))]
        return make_image([layers[0], make_layer(policy_entries(policy_files())), layers[1]])

    def system_files() -> list[Entry]:
        return [file(f"usr/bin/{n}", noise(n, 9000), mode=0o755) for n in range(40)]

    other = new_repository(tmp_path / "other")
    for place, parts in ((repository, True), (other, False)):
        first = await run_import(place, image(b"1"), reference=OLD)
        second = image(b"2")
        ranges = Ranges(second)
        opened: list[str] = []
        await run_import(
            place,
            second,
            ranges=ranges if parts else None,
            partial="always",
            proof=proof,
            open_blob=blobs_of(second, opened=opened),
            label_commit=first.commit,
        )
        assert bool(opened) is not parts
    assert commits(repository, second) == commits(other, second)
    ostree(repository, "fsck")


async def test_update_fetches_what_changed_and_the_tables(repository: Repository) -> None:
    await run_import(repository, make_image([make_chunked_layer(system(0, 400))]), reference=OLD)
    layer = make_chunked_layer(system(1, 400))
    image = make_image([layer])
    ranges = Ranges(image)

    await run_import(repository, image, ranges=ranges)

    changed = compressed_bytes(layer, [f"usr/share/{n}" for n in range(0, 400, 10)])
    assert changed > 300_000
    assert ranges.size <= 1.1 * changed + tables_bytes(layer)


async def test_image_that_was_here_in_another_form_is_not_fetched_again(
    staged_repository: Repository,
) -> None:
    """The index is made of the repository, whoever wrote it, and forgets what is pruned."""
    repository = staged_repository
    layer = make_chunked_layer(system(0))
    plain = replace(layer, annotations={})
    await run_import(repository, make_image([plain]), reference=OLD)
    image = make_image([layer], labels={"version": "2"})
    for ref in (image_ref(OLD), blob_ref(layer.digest)):
        repository.delete_ref(ref)
    ranges = Ranges(image)

    await run_import(repository, image, ranges=ranges)
    assert ranges.size == tables_bytes(layer)

    for ref in (image_ref(REFERENCE), blob_ref(layer.digest)):
        repository.delete_ref(ref)
    ostree(repository, "prune", "--refs-only")
    ranges = Ranges(image)
    opened: list[str] = []
    await run_import(repository, image, ranges=ranges, open_blob=blobs_of(image, opened=opened))
    assert opened == [layer.digest]
    assert len(ranges.asked) == 1
    ostree(repository, "fsck")


async def test_space_is_asked_for_what_is_fetched(
    staged_repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update of little fits where its layers as a whole would not."""
    repository = staged_repository
    await run_import(repository, make_image([make_chunked_layer(system(0))]), reference=OLD)
    image = make_image([make_chunked_layer(system(1))])
    asked: list[int] = []

    def require(path: Path, needed_bytes: int, reserve_bytes: int) -> None:
        asked.append(needed_bytes)

    for place in ("importer", "fetch", "store"):
        monkeypatch.setattr(f"bootcd.ostree.{place}.require_space", require)
    await run_import(repository, image, ranges=Ranges(image), partial="always")
    assert max(asked) < len(image.layers[0].blob) / 3

    asked.clear()
    await run_import(new_repository(repository.path.parent / "other"), image, ranges=Ranges(image))
    assert len(image.layers[0].blob) in asked


async def test_damaged_index_is_made_anew(staged_repository: Repository) -> None:
    repository = staged_repository
    await run_import(repository, make_image([make_chunked_layer(system(0))]), reference=OLD)
    path = repository.path / "extensions/bootcd/contents.sqlite"
    assert path.stat().st_size > 4096
    path.write_bytes(b"SQLite format 3\0" + noise(1, 5000))
    image = make_image([make_chunked_layer(system(1))])
    ranges = Ranges(image)
    opened: list[str] = []

    await run_import(
        repository, image, ranges=ranges, partial="always", open_blob=blobs_of(image, opened=opened)
    )

    assert opened == []
    assert ranges.size < len(image.layers[0].blob) / 3


async def test_object_that_is_not_what_the_index_says_is_not_used(
    staged_repository: Repository, tmp_path: Path
) -> None:
    repository = staged_repository
    await run_import(repository, make_image([make_chunked_layer(system(0))]), reference=OLD)
    layer = make_chunked_layer(system(1))
    image = make_image([layer])
    # Not an attribute of it: content, of the same size.
    victim = noise(0 * 100 + 100, 9001)
    path = next(p for p in (repository.path / "objects").rglob("*.file") if p.read_bytes() == victim)
    path.write_bytes(victim[:-1] + b"\0")
    opened: list[str] = []

    await run_import(
        repository, image, ranges=Ranges(image), partial="always", open_blob=blobs_of(image, opened=opened)
    )

    assert opened == [layer.digest]
    assert commits(repository, image) == await whole(tmp_path / "other", image)


async def test_wrong_bytes_have_the_layer_fetched_whole(
    staged_repository: Repository, tmp_path: Path
) -> None:
    repository = staged_repository
    await run_import(repository, make_image([make_chunked_layer(system(0))]), reference=OLD)
    layer = make_chunked_layer(system(1))
    image = make_image([layer])
    opened: list[str] = []
    progress = ImportProgress()

    ranges = Ranges(image, damaged=True)
    await run_import(
        repository,
        image,
        ranges=ranges,
        partial="always",
        open_blob=blobs_of(image, opened=opened),
        progress=progress,
    )

    assert opened == [layer.digest]
    assert commits(repository, image) == await whole(tmp_path / "other", image)
    assert len(layer.blob) < progress.bytes_done == progress.bytes_total <= len(layer.blob) + ranges.size
    assert progress.bytes_cached == 0
    ostree(repository, "fsck")


@pytest.mark.parametrize("refused_after", [0, 2])
async def test_server_without_ranges_gives_whole_layers(
    staged_repository: Repository, refused_after: int
) -> None:
    repository = staged_repository
    await run_import(repository, make_image([make_chunked_layer(system(0))]), reference=OLD)
    image = make_image(
        [make_chunked_layer(system(1)), make_chunked_layer([file("etc/more", noise(9, 300_000))])]
    )
    ranges = Ranges(image, refused_after=refused_after)

    opened: list[str] = []

    await run_import(
        repository, image, ranges=ranges, partial="always", open_blob=blobs_of(image, opened=opened)
    )

    assert sorted(opened) == sorted(layer.digest for layer in image.layers)
    ostree(repository, "fsck")


async def test_layer_of_which_nothing_is_here_is_fetched_whole_unless_parts_are_wanted(
    staged_repository: Repository,
) -> None:
    repository = staged_repository
    image = make_image([make_chunked_layer(system(0))])
    opened: list[str] = []
    ranges = Ranges(image)
    await run_import(repository, image, ranges=ranges, open_blob=blobs_of(image, opened=opened))
    assert opened == [image.layers[0].digest]
    assert len(ranges.asked) == 1

    image = make_image([make_chunked_layer(system(1))])
    ranges = Ranges(image)
    await run_import(repository, image, ranges=ranges, partial="always")
    assert len(ranges.asked) > 1


def lying(layer: Layer, kind: str) -> Layer:
    annotations = dict(layer.annotations)
    match kind:
        case "checksum":
            annotations[CHECKSUM] = f"sha256:{1:064x}"
        case "no tar-split":
            del annotations[TAR_SPLIT_POSITION]
        case "outside":
            annotations[TAR_SPLIT_POSITION] = f"{len(layer.blob)}:1:1"
        case "lengths":
            start, size, plain = annotations[TAR_SPLIT_POSITION].split(":")
            annotations[TAR_SPLIT_POSITION] = f"{start}:{int(size) - 1}:{plain}"
        case _:
            raise AssertionError(kind)
    return replace(layer, annotations=annotations)


@pytest.mark.parametrize("kind", ["checksum", "no tar-split", "outside", "lengths"])
async def test_tables_that_cannot_be_right_have_the_layer_fetched_whole(
    staged_repository: Repository, kind: str
) -> None:
    repository = staged_repository
    await run_import(repository, make_image([make_chunked_layer(system(0))]), reference=OLD)
    image = make_image([lying(make_chunked_layer(system(1)), kind)])
    opened: list[str] = []

    await run_import(
        repository, image, ranges=Ranges(image), partial="always", open_blob=blobs_of(image, opened=opened)
    )

    assert opened == [image.layers[0].digest]


async def test_table_of_another_archive_than_the_config_names_is_not_followed(
    staged_repository: Repository, tmp_path: Path
) -> None:
    """Who made the image cannot give different files to who reads the table and who reads the archive."""
    repository = staged_repository
    await run_import(repository, make_image([make_chunked_layer(system(0))]), reference=OLD)
    honest, other = make_tar(system(1)), make_tar([*system(1)[:-1], file("usr/share/59", b"evil" * 3000)])
    layer = chunked_layer(other)
    image = make_image([replace(layer, diff_id=chunked_layer(honest).diff_id)])

    with pytest.raises(Exception, match="image config says"):
        await run_import(repository, image, ranges=Ranges(image), partial="always")

    assert commits(repository, image) == [None, None]
    ostree(repository, "fsck")


async def test_failure_of_the_registry_between_ranges_ends_the_import(repository: Repository) -> None:
    await run_import(repository, make_image([make_chunked_layer(system(0))]), reference=OLD)
    image = make_image([make_chunked_layer(system(1))])
    ranges = Ranges(image)

    class Failing(Ranges):
        async def read(self, layer: Descriptor, start: int, size: int) -> bytes | None:
            if len(ranges.asked) >= 2:
                raise RegistryUnavailable("registry registry.example is gone")
            return await ranges.read(layer, start, size)

    with pytest.raises(RegistryUnavailable):
        await run_import(repository, image, ranges=Failing(image), partial="always")
    assert repository.resolve(image_ref(REFERENCE)) is None
    await run_import(repository, image, ranges=Ranges(image), partial="always")
    ostree(repository, "fsck")


async def test_what_was_fetched_is_not_fetched_again_after_a_failure(
    staged_repository: Repository,
) -> None:
    repository = staged_repository
    await run_import(repository, make_image([make_chunked_layer(system(0, 200))]), reference=OLD)
    image = make_image([make_chunked_layer(system(1, 200))])
    whole = Ranges(image)
    failing = Ranges(image)

    async def fail_late(layer: Descriptor, start: int, size: int) -> bytes | None:
        if len(failing.asked) > 15:
            # What was given before is on the disk by then.
            await arrived(repository, 8)
            raise RegistryUnavailable("registry registry.example is gone")
        return await Ranges.read(failing, layer, start, size)

    failing.read = fail_late  # type: ignore[method-assign]
    with pytest.raises(RegistryUnavailable):
        await run_import(repository, image, ranges=failing, partial="always")
    await run_import(repository, image, ranges=whole, partial="always")

    again = {part for part in whole.asked[1:] if part in failing.asked}
    assert len(again) <= 15 - 8
    ostree(repository, "fsck")


async def arrived(repository: Repository, count: int) -> None:
    """Return when so many files are staged."""
    async with asyncio.timeout(30):
        while len(list(repository.path.glob("tmp/bootcd-stage-vouched-*/content/*/*.file"))) < count:  # noqa: ASYNC110  # files tell nobody
            await asyncio.sleep(0.01)


async def test_what_a_killed_worker_had_written_is_kept_if_it_is_whole(
    staged_repository: Repository, tmp_path: Path
) -> None:
    repository = staged_repository
    await run_import(repository, make_image([make_chunked_layer(system(0, 200))]), reference=OLD)
    image = make_image([make_chunked_layer([*system(1, 200), *EVERYTHING])])
    hung = asyncio.Event()

    class Hanging(Ranges):
        async def read(self, layer: Descriptor, start: int, size: int) -> bytes | None:
            if len(self.asked) > 15:
                await hung.wait()
            return await super().read(layer, start, size)

    ranges = Hanging(image)
    job = asyncio.create_task(run_import(repository, image, ranges=ranges, partial="always"))
    await arrived(repository, 12)
    (stage,) = repository.path.glob("tmp/bootcd-stage-vouched-*")
    shutil.copytree(stage, tmp_path / "left", symlinks=True)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    other = new_repository(tmp_path / "other")
    await run_import(other, make_image([make_chunked_layer(system(0, 200))]), reference=OLD)
    left = other.path / "tmp" / stage.name
    subprocess.run(["cp", "-a", str(tmp_path / "left"), str(left)], check=True)
    files = sorted((left / "content").glob("*/*.file"))
    spoilt, cut = files[0], files[1]
    spoilt.write_bytes(spoilt.read_bytes()[::-1])
    os.truncate(cut, 1)
    again = Ranges(image)

    await run_import(other, image, ranges=again, partial="always")

    assert not left.exists()
    assert len(set(again.asked[1:]) & set(ranges.asked)) <= 15 - 12 + 2
    ostree(other, "fsck")
    assert commits(other, image) == await whole(tmp_path / "whole", image)


async def test_cancellation_between_ranges_leaves_nothing_behind(staged_repository: Repository) -> None:
    repository = staged_repository
    await run_import(repository, make_image([make_chunked_layer(system(0))]), reference=OLD)
    image = make_image([make_chunked_layer(system(1))])
    reached = asyncio.Event()

    class Endless(Ranges):
        async def read(self, layer: Descriptor, start: int, size: int) -> bytes | None:
            if len(self.asked) >= 2:
                reached.set()
                await asyncio.Event().wait()
            return await super().read(layer, start, size)

    job = asyncio.create_task(run_import(repository, image, ranges=Endless(image), partial="always"))
    await reached.wait()
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert not list((repository.path / "tmp").glob("bootcd-stage-*"))


async def test_tables_of_several_layers_are_fetched_side_by_side(staged_repository: Repository) -> None:
    repository = staged_repository
    await run_import(repository, make_image([make_chunked_layer(system(0))]), reference=OLD)
    image = make_image(
        [make_chunked_layer(system(1)), make_chunked_layer([file("etc/more", noise(9, 30_000))])]
    )
    both = asyncio.Barrier(2)

    class Meeting(Ranges):
        async def read(self, layer: Descriptor, start: int, size: int) -> bytes | None:
            if layer.digest not in {digest for digest, _, _ in self.asked}:
                self.asked.append((layer.digest, start, size))
                await both.wait()
            return await super().read(layer, start, size)

    async with asyncio.timeout(60):
        await run_import(repository, image, ranges=Meeting(image), partial="always")
    ostree(repository, "fsck")
