"""Layers proved by their table of contents: what is trusted, and what is noticed all the same."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from bootcd.oci.chunked import TAR_SPLIT_POSITION
from bootcd.ostree.contents import Noted
from bootcd.ostree.partial import Proof
from bootcd.ostree.repository import Repository
from bootcd.ostreefmt.refs import image_ref
from tests.adapter.ostree.conftest import Ranges, blobs_of, ostree, run_import
from tests.adapter.ostree.test_importer import REFERENCE
from tests.adapter.ostree.test_partial import OLD, commits, noise, system, whole
from tests.support.chunked_layer import chunked_layer, make_chunked_layer, tables_bytes
from tests.support.oci_image import Image, file, make_image, make_tar

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files get owners")

VICTIM = noise(100, 9001)
"Of usr/share/1, the same in both versions."


@pytest.fixture
async def repository(staged_repository: Repository) -> Repository:
    """A repository with the version before."""
    await run_import(staged_repository, make_image([make_chunked_layer(system(0))]), reference=OLD)
    return staged_repository


async def upgrade(repository: Repository, image: Image, proof: Proof = "table") -> tuple[Ranges, list[str]]:
    """Import what is missing of an image; return what was asked for, and the layers that came as a whole."""
    ranges = Ranges(image)
    opened: list[str] = []
    blobs = blobs_of(image, opened=opened)
    await run_import(repository, image, ranges=ranges, partial="always", proof=proof, open_blob=blobs)
    return ranges, opened


def object_of(repository: Repository, content: bytes) -> Path:
    files = (repository.path / "objects").glob("*/*.file")
    return next(path for path in files if not path.is_symlink() and path.read_bytes() == content)


def checksum_of(path: Path) -> bytes:
    return bytes.fromhex(path.parent.name + path.stem)


def index_of(repository: Repository) -> sqlite3.Connection:
    return sqlite3.connect(repository.path / "extensions/bootcd/contents.sqlite")


async def test_table_is_enough_without_tar_split(repository: Repository, tmp_path: Path) -> None:
    layer = make_chunked_layer(system(1))
    image = make_image([layer])
    ranges, opened = await upgrade(repository, image)
    assert opened == []
    assert sum(size for _, _, size in ranges.asked[:1]) < tables_bytes(layer)
    assert commits(repository, image) == await whole(tmp_path / "other", image)

    layer = make_chunked_layer(system(2))
    annotations = {key: value for key, value in layer.annotations.items() if key != TAR_SPLIT_POSITION}
    image = make_image([replace(layer, annotations=annotations)])
    _, opened = await upgrade(repository, image)
    assert opened == []
    assert commits(repository, image) == await whole(tmp_path / "more", image)
    ostree(repository, "fsck")


async def test_table_of_another_archive_is_taken_at_its_word(repository: Repository, tmp_path: Path) -> None:
    """What docs/partial-pulls.md says of it: two views of one image, if its author wants that."""
    honest, other = make_tar(system(1)), make_tar([*system(1)[:-1], file("usr/share/59", b"evil" * 3000)])
    listed = chunked_layer(other)
    image = make_image([replace(listed, diff_id=chunked_layer(honest).diff_id)])

    with pytest.raises(Exception, match="image config says"):
        await upgrade(repository, image, "archive")
    _, opened = await upgrade(repository, image)

    assert opened == []
    ostree(repository, "cat", image_ref(REFERENCE), "/usr/share/59")
    assert await whole(tmp_path / "other", make_image([listed])) != commits(repository, image)
    assert ostree(repository, "cat", image_ref(REFERENCE), "/usr/share/59") == "evil" * 3000


@pytest.mark.parametrize("damage", ["row", "size", "mode", "gone"])
async def test_file_of_which_index_or_object_is_odd_is_fetched(
    repository: Repository, tmp_path: Path, damage: str
) -> None:
    usual, _ = await upgrade(repository, make_image([make_chunked_layer(system(1))]))
    image = make_image([make_chunked_layer([*system(1), file("usr/share/more", b"m")])])
    place = object_of(repository, VICTIM)
    match damage:
        case "row":
            with index_of(repository) as database:
                other = checksum_of(object_of(repository, noise(200, 9002)))
                change = "UPDATE objects SET content = ? WHERE checksum = ?"
                database.execute(change, (hashlib.sha256(VICTIM).digest(), other))
                database.execute("DELETE FROM objects WHERE checksum = ?", (checksum_of(place),))
            place.unlink()
        case "size":
            place.write_bytes(VICTIM[:-1])
        case "mode":
            place.chmod(0o4777)
        case _:
            place.unlink()

    ranges, opened = await upgrade(repository, image)

    assert opened == []
    assert ranges.size < usual.size + 2 * len(VICTIM)
    assert commits(repository, image) == await whole(tmp_path / "other", image)
    ostree(repository, "fsck")


async def test_content_that_changed_in_its_place_is_noticed_when_it_is_copied(
    repository: Repository, tmp_path: Path
) -> None:
    object_of(repository, VICTIM).write_bytes(VICTIM[:-1] + b"\0")
    files = [file("usr/share/1", VICTIM, mode=0o755) if e.path == "usr/share/1" else e for e in system(0)]
    image = make_image([make_chunked_layer(files)])

    _, opened = await upgrade(repository, image)

    assert opened == [image.layers[0].digest]
    assert commits(repository, image) == await whole(tmp_path / "other", image)


async def test_content_that_changed_in_its_place_is_not_noticed_where_it_is(repository: Repository) -> None:
    """What docs/partial-pulls.md says of it: no byte of an object that is taken as it is is read."""
    place = object_of(repository, VICTIM)
    place.write_bytes(VICTIM[:-1] + b"\0")

    _, opened = await upgrade(repository, make_image([make_chunked_layer(system(1))]))

    assert opened == []
    assert checksum_of(place).hex() in ostree(repository, "ls", "-R", "-C", image_ref(REFERENCE))


async def test_wrong_bytes_are_not_taken(repository: Repository, tmp_path: Path) -> None:
    image = make_image([make_chunked_layer(system(1))])
    opened: list[str] = []
    ranges = Ranges(image, damaged=True)
    blobs = blobs_of(image, opened=opened)
    await run_import(repository, image, ranges=ranges, partial="always", proof="table", open_blob=blobs)

    assert opened == [image.layers[0].digest]
    assert commits(repository, image) == await whole(tmp_path / "other", image)
    ostree(repository, "fsck")


async def test_files_that_were_fetched_are_known_without_being_read(repository: Repository) -> None:
    await upgrade(repository, make_image([make_chunked_layer(system(1))]))
    fetched = noise(1, 9000)
    place = object_of(repository, fetched)
    with index_of(repository) as database:
        rows = database.execute("SELECT checksum, content, facts FROM objects").fetchall()
    assert (checksum_of(place), hashlib.sha256(fetched).digest()) in [Noted(*row)[:2] for row in rows]
