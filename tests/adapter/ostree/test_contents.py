"""The index of contents against a repository that others write to."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from pathlib import Path

import pytest

from bootcd.model.errors import Cancelled
from bootcd.ostree.contents import ContentIndex, Noted
from bootcd.ostree.repository import Repository
from tests.adapter.ostree.conftest import ostree

CONTENT = {"usr/a": b"content of a", "usr/b": b"content of b", "usr/c": b"other"}


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@pytest.fixture
def index(staged_repository: Repository) -> ContentIndex:
    return ContentIndex(staged_repository.path)


def commit(repository: Repository, directory: Path, content: dict[str, bytes], branch: str) -> None:
    for name, data in content.items():
        path = directory / branch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (directory / branch / "link").symlink_to("usr/a")
    ostree(repository, "commit", f"--branch={branch}", str(directory / branch))


def found(index: ContentIndex, *contents: bytes) -> list[bytes]:
    """Return the contents of those objects that the index leads to, after it was closed and opened."""
    places = index.find([(sha256(content), len(content)) for content in contents])
    index.close()
    read = {
        content: Path(index.path_of(held.checksum)).read_bytes()
        for content, objects in places.items()
        for held in objects
    }
    assert all(sha256(data) == content for content, data in read.items())
    return sorted(read.values())


def test_what_others_wrote_is_found_and_what_they_pruned_is_not(
    staged_repository: Repository, index: ContentIndex, tmp_path: Path
) -> None:
    assert found(index, *CONTENT.values()) == []
    commit(staged_repository, tmp_path, CONTENT, "one")
    assert found(index, *CONTENT.values(), b"nowhere") == sorted(CONTENT.values())

    commit(staged_repository, tmp_path, {"usr/d": b"content of d"}, "two")
    ostree(staged_repository, "refs", "--delete", "one")
    ostree(staged_repository, "prune", "--refs-only")
    assert found(index, *CONTENT.values(), b"content of d") == [b"content of d"]


def test_only_objects_of_a_size_that_is_wanted_are_read(
    staged_repository: Repository, index: ContentIndex, tmp_path: Path
) -> None:
    commit(staged_repository, tmp_path, CONTENT, "one")
    assert found(index, b"other") == [b"other"]

    path = staged_repository.path / "extensions/bootcd/contents.sqlite"
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT content FROM objects WHERE content != x''").fetchall()
    assert rows == [(sha256(b"other"),)]


@pytest.mark.parametrize("damage", ["text", "newer", "directory", "no write"])
def test_file_that_cannot_be_used_is_made_anew_or_done_without(
    staged_repository: Repository, index: ContentIndex, tmp_path: Path, damage: str
) -> None:
    commit(staged_repository, tmp_path, CONTENT, "one")
    path = staged_repository.path / "extensions/bootcd/contents.sqlite"
    path.parent.mkdir(parents=True)
    if damage == "text":
        path.write_text("no database, whatever its name is" * 1000)
    elif damage == "newer":
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA user_version = 99")
    elif damage == "directory":
        path.mkdir()
    else:
        path.parent.rmdir()
        path.parent.write_text("in the way")

    assert found(index, *CONTENT.values()) == sorted(CONTENT.values())
    assert found(index, b"other") == [b"other"]


def test_notes_are_remembered(staged_repository: Repository, index: ContentIndex, tmp_path: Path) -> None:
    commit(staged_repository, tmp_path, CONTENT, "one")
    ((held,),) = index.find([(sha256(b"other"), 5)]).values()
    path = staged_repository.path / "extensions/bootcd/contents.sqlite"
    index.close()
    path.unlink()

    index.note([Noted(held.checksum, sha256(b"other"), held.facts)])
    index.close()
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT checksum, content, facts FROM objects").fetchall()
    assert (held.checksum, sha256(b"other"), held.facts) in rows


@pytest.mark.parametrize("rot", ["content", "facts", "mark", "type"])
def test_row_that_is_not_as_it_was_written_leads_nowhere(
    staged_repository: Repository, index: ContentIndex, tmp_path: Path, rot: str
) -> None:
    commit(staged_repository, tmp_path, CONTENT, "one")
    assert found(index, *CONTENT.values()) == sorted(CONTENT.values())
    change = {
        "content": ("content = ?", sha256(b"elsewhere")),
        "facts": ("facts = cast(substr(facts, 1, 35) || ? AS BLOB)", b"\1"),
        "mark": ("mark = mark + ?", 1),
        "type": ("facts = ?", "text"),
    }[rot]
    with sqlite3.connect(staged_repository.path / "extensions/bootcd/contents.sqlite") as database:
        database.execute(f"UPDATE objects SET {change[0]} WHERE content = ?", (change[1], sha256(b"other")))

    assert found(index, *CONTENT.values(), b"elsewhere") == sorted({*CONTENT.values()} - {b"other"})


@pytest.mark.parametrize("change", ["size", "owner", "mode", "link", "gone"])
def test_object_that_is_not_as_it_was_noted_is_not_given_out(
    staged_repository: Repository, index: ContentIndex, tmp_path: Path, change: str
) -> None:
    commit(staged_repository, tmp_path, CONTENT, "one")
    ((held,),) = index.find([(sha256(b"other"), 5)]).values()
    place = Path(index.path_of(held.checksum))
    match change:
        case "size":
            place.write_bytes(b"other things")
        case "owner":
            os.chown(place, 7, 7)
        case "mode":
            place.chmod(0o4755)
        case "link":
            place.unlink()
            place.symlink_to("/etc/passwd")
        case "gone":
            place.unlink()

    for again in (index, ContentIndex(staged_repository.path)):
        assert again.find([(sha256(b"other"), 5)]) == {}
        again.close()


def test_object_that_is_not_what_its_name_says_is_not_taken_in(
    staged_repository: Repository, index: ContentIndex, tmp_path: Path
) -> None:
    """Its name would be that of a file with another owner, or with other content."""
    commit(staged_repository, tmp_path, CONTENT, "one")
    objects = (staged_repository.path / "objects").glob("*/*.file")
    place = next(path for path in objects if not path.is_symlink() and path.read_bytes() == b"other")
    os.chown(place, 7, 7)
    assert index.find([(sha256(b"other"), 5)]) == {}
    assert index.damaged == {str(place.relative_to(staged_repository.path / "objects"))}


def test_search_ends_when_it_is_stopped(
    staged_repository: Repository, index: ContentIndex, tmp_path: Path
) -> None:
    commit(staged_repository, tmp_path, CONTENT, "one")
    index.stop()
    with pytest.raises(Cancelled):
        index.find([(sha256(b"other"), 5)])


def test_index_is_for_root_alone(staged_repository: Repository, index: ContentIndex, tmp_path: Path) -> None:
    commit(staged_repository, tmp_path, CONTENT, "one")
    found(index, b"other")
    assert (staged_repository.path / "extensions/bootcd").stat().st_mode & 0o777 == 0o700
