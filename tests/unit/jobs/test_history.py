from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bootcd.jobs.history import History
from bootcd.model.errors import Unsupported
from bootcd.model.job import JobState, Outcome
from tests.support.jobs import ended_record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite"


def test_empty_history_has_nothing(path: Path) -> None:
    assert History(path).recent(10) == []
    assert History(path).last_number() == 0


def test_added_jobs_come_back_newest_first(path: Path) -> None:
    records = [ended_record(n, outcome=Outcome(state=JobState.DONE, bytes_fetched=n)) for n in (1, 2, 3)]
    for record in records:
        History(path).add(record)
    assert History(path).recent(10) == records[::-1]
    assert History(path).recent(2) == records[:0:-1]
    assert History(path).last_number() == 3


def test_adding_a_job_again_replaces_it(path: Path) -> None:
    record = ended_record(1, state=JobState.INTERRUPTED)
    History(path).add(record)
    again = record.model_copy(update={"state": JobState.DONE})
    History(path).add(again)
    assert History(path).recent(10) == [again]


def test_columns_are_readable_by_people(path: Path) -> None:
    History(path).add(ended_record(7))
    with sqlite3.connect(path) as database:
        row = database.execute("SELECT number, kind, state, finished FROM jobs").fetchone()
        version = database.execute("PRAGMA user_version").fetchone()
    database.close()
    assert row == (7, "check", "done", "2026-03-01T12:00:00+00:00")
    assert version == (1,)


def test_oldest_rows_go_beyond_the_cap(path: Path) -> None:
    history = History(path, rows=3)
    for number in range(1, 7):
        history.add(ended_record(number))
    assert [record.number for record in history.recent(10)] == [6, 5, 4]


@pytest.mark.parametrize(
    "content",
    [b"this is no database, and never was one" * 100, b"SQLite format 3\0" + b"\xff" * 4096],
    ids=["text", "header-only"],
)
def test_corrupt_file_is_set_aside_and_a_new_one_begun(
    path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(content)
    record = ended_record(1)
    History(path).add(record)
    assert History(path).recent(10) == [record]
    assert path.with_name("history.sqlite.corrupt-1").read_bytes() == content
    assert "is corrupt" in caplog.text


def test_truncated_file_is_set_aside(path: Path) -> None:
    for number in range(40):
        History(path).add(ended_record(number))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    History(path).add(ended_record(999))
    assert 999 in [record.number for record in History(path).recent(10)]


def test_corrupt_files_kept_are_bounded(path: Path) -> None:
    for number in range(1, 8):
        path.write_bytes(b"corrupt" * 200)
        History(path).add(ended_record(number))
    kept = sorted(entry.name for entry in path.parent.glob("*.corrupt-*"))
    assert kept == [f"history.sqlite.corrupt-{n}" for n in (4, 5, 6, 7)]


def test_file_of_a_newer_version_is_read_but_not_written(path: Path) -> None:
    record = ended_record(1)
    History(path).add(record)
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
        database.execute("ALTER TABLE jobs ADD COLUMN news TEXT")
    database.close()
    before = path.read_bytes()
    with pytest.raises(Unsupported, match="newer version"):
        History(path).add(ended_record(2))
    assert History(path).recent(10) == [record]
    assert path.read_bytes() == before


def test_entry_that_cannot_be_understood_is_left_out(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = [ended_record(1), ended_record(2)]
    for record in records:
        History(path).add(record)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE jobs SET record = '{}' WHERE number = 2")
    database.close()
    assert History(path).recent(10) == records[:1]
    assert "ignoring it" in caplog.text


def test_directory_that_is_missing_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot be used"):
        History(tmp_path / "nowhere" / "history.sqlite").add(ended_record(1))


def test_first_use_from_many_threads_at_once_works(path: Path) -> None:
    history = History(path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(history.add, [ended_record(number) for number in range(1, 9)]))
    assert history.last_number() == 8
