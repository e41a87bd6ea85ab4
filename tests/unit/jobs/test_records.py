from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from uuid import uuid4

import pytest

from bootcd.jobs import records
from bootcd.jobs.records import JobStore
from bootcd.model.job import JobState, Outcome
from tests.support.jobs import ended_record


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "jobs")


def test_created_record_is_loaded_as_it_was(store: JobStore) -> None:
    record = ended_record(3, state=JobState.RUNNING, finished=None)
    store.create(record)
    assert store.load_all() == [record]
    request = (store.directory(record.request.uuid) / "request.json").read_bytes()
    assert type(record.request).model_validate_json(request) == record.request


def test_directories_are_closed_to_others(store: JobStore) -> None:
    record = ended_record(1)
    store.create(record)
    directory = store.directory(record.request.uuid)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "record.json").stat().st_mode & 0o777 == 0o600


def test_saved_record_replaces_the_old_one(store: JobStore) -> None:
    record = ended_record(1, state=JobState.RUNNING)
    store.create(record)
    changed = record.model_copy(update={"state": JobState.CANCELLING})
    store.save(changed)
    assert store.load_all() == [changed]


def test_records_load_by_number(store: JobStore) -> None:
    for number in (2, 3, 1):
        store.create(ended_record(number))
    assert [record.number for record in store.load_all()] == [1, 2, 3]


def test_nothing_there_loads_as_no_jobs(store: JobStore) -> None:
    assert store.load_all() == []
    store.prune()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"number": 1}', b"\xff" * 100, b"x" * (records.DOCUMENT_LIMIT + 1)],
    ids=["empty", "cut", "list", "incomplete", "binary", "huge"],
)
def test_corrupt_record_is_set_aside_and_others_load(
    store: JobStore, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = ended_record(1), ended_record(2)
    store.create(good)
    store.create(bad)
    directory = store.directory(bad.request.uuid)
    (directory / "record.json").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert store.load_all() == [good]
    assert "setting it aside" in caplog.text
    assert not directory.exists()
    assert (store.root / f"corrupt-{bad.request.uuid}" / "record.json").read_bytes() == content


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("number", -1),
        ("number", 2**63 - 1),
        ("created", "2026-03-01T12:00:00"),
        ("finished", "2026-03-01T12:00:00"),
    ],
    ids=["negative number", "number beyond SQLite", "local creation", "local end"],
)
def test_record_the_daemon_could_not_work_with_is_set_aside(
    store: JobStore, field: str, value: object
) -> None:
    record = ended_record(1)
    store.create(record)
    path = store.directory(record.request.uuid) / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    assert store.load_all() == []
    assert (store.root / f"corrupt-{record.request.uuid}").is_dir()


def test_record_of_another_job_is_set_aside(store: JobStore) -> None:
    record = ended_record(1)
    store.create(record)
    other = store.directory(str(uuid4()))
    store.directory(record.request.uuid).rename(other)
    assert store.load_all() == []
    assert not other.exists()


def test_half_made_job_is_removed(store: JobStore) -> None:
    directory = store.directory(str(uuid4()))
    directory.mkdir(parents=True)
    (directory / "request.json").write_text("{}")
    assert store.load_all() == []
    assert not directory.exists()


def test_prune_leaves_a_job_that_is_being_made_alone(store: JobStore) -> None:
    directory = store.directory(str(uuid4()))
    directory.mkdir(parents=True)
    (directory / ".request.json.0.new").write_text("{")
    store.prune()
    assert (directory / ".request.json.0.new").exists()


def test_create_that_fails_leaves_nothing(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records, "write_atomic", full)
    with pytest.raises(OSError, match="No space"):
        store.create(ended_record(1))
    assert list(store.root.iterdir()) == []


def test_outcome_that_is_missing_is_none(store: JobStore) -> None:
    record = ended_record(1)
    store.create(record)
    assert store.read_outcome(record.request.uuid) is None


def test_outcome_is_read(store: JobStore) -> None:
    record = ended_record(1)
    store.create(record)
    outcome = Outcome(state=JobState.DONE, changed=True, bytes_fetched=7)
    (store.directory(record.request.uuid) / "outcome.json").write_text(outcome.model_dump_json())
    assert store.read_outcome(record.request.uuid) == outcome


@pytest.mark.parametrize("text", ["", "{}", '{"state": "running"}', '{"state": "done", "x": 1}'])
def test_outcome_that_is_none_is_ignored_with_a_warning(
    store: JobStore, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    record = ended_record(1)
    store.create(record)
    (store.directory(record.request.uuid) / "outcome.json").write_text(text)
    assert store.read_outcome(record.request.uuid) is None
    assert "ignoring it" in caplog.text


def test_outcome_that_is_a_pipe_is_ignored(store: JobStore) -> None:
    record = ended_record(1)
    store.create(record)
    os.mkfifo(store.directory(record.request.uuid) / "outcome.json")
    assert store.read_outcome(record.request.uuid) is None


def test_prune_keeps_the_newest_ended_and_every_running_job(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "KEPT", 3)
    store.create(ended_record(1, state=JobState.RUNNING))
    for number in range(2, 8):
        store.create(ended_record(number))
    store.prune()
    assert [record.number for record in store.load_all()] == [1, 5, 6, 7]


def test_prune_bounds_what_was_set_aside(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "KEPT_CORRUPT", 2)
    for number in range(4):
        record = ended_record(number)
        store.create(record)
        (store.directory(record.request.uuid) / "record.json").write_text("{")
        store.load_all()
        os.utime(store.root / f"corrupt-{record.request.uuid}", (number, number))
    store.prune()
    assert sorted(path.stat().st_mtime for path in store.root.iterdir()) == [2, 3]


def test_log_beyond_its_limit_is_emptied_and_goes_on(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "LOG_LIMIT", 100)
    record = ended_record(1)
    store.create(record)
    uuid = record.request.uuid
    descriptor = store.open_log(uuid)
    try:
        os.write(descriptor, b"x" * 100)
        store.bound_log(uuid)
        assert (store.directory(uuid) / "log").stat().st_size == 100
        os.write(descriptor, b"x")
        store.bound_log(uuid)
        os.write(descriptor, b"on")
    finally:
        os.close(descriptor)
    assert (store.directory(uuid) / "log").read_bytes() == b"on"


def test_removing_a_job_twice_is_no_error(store: JobStore) -> None:
    record = ended_record(1)
    store.create(record)
    store.remove(record.request.uuid)
    store.remove(record.request.uuid)
    assert store.load_all() == []
