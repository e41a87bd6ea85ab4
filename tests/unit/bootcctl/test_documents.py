import json
from datetime import UTC, datetime

from bootcctl.documents import ended_job_properties, job_document, service_document
from bootcd.agent.publication import render_service
from bootcd.agent.snapshot import Snapshot


def test_job_document_of_an_object_without_properties_has_every_key() -> None:
    document = job_document("/org/bootcd1/job/_7", {})
    assert document["number"] == 7
    assert document["error"] is None
    assert document["progress"] == -1
    assert set(document) == {
        "number", "uuid", "kind", "image", "transport", "summary", "requester", "created", "finished",
        "state", "phase", "progress",
        "bytes-done", "bytes-total", "bytes-cached", "steps-done", "steps-total", "steps-cached",
        "digest", "layers", "eta-usec", "cancellable",
        "error", "outcome",
    }  # fmt: skip


def test_job_document_of_a_foreign_path_has_number_zero() -> None:
    assert job_document("/somewhere/else", {})["number"] == 0


def test_job_document_error_is_the_kind_of_the_bus_name() -> None:
    document = job_document(
        "/org/bootcd1/job/_1",
        {"ErrorName": "org.bootcd1.Error.NotFound", "ErrorMessage": "no such tag", "ErrorHint": "look"},
    )
    assert document["error"] == {"name": "NotFound", "message": "no such tag", "hint": "look"}


def test_history_entry_becomes_the_document_its_job_had() -> None:
    entry = {
        "uuid": "u", "kind": "upgrade", "image": "", "state": "failed", "created": 5, "finished": 9, "uid": 0,
        "requester": "agent", "changed": False, "digest": "", "version": "", "bytes-fetched": 3,
        "error-name": "org.bootcd1.Error.Stalled", "error-message": "no byte for 60 s", "hint": "",
        "warnings": [],
    }  # fmt: skip
    document = job_document("/org/bootcd1/job/_1", ended_job_properties(entry))
    assert document["state"] == "failed"
    assert document["finished"] == 9
    assert document["error"] == {"name": "Stalled", "message": "no byte for 60 s", "hint": ""}
    assert document["outcome"] == {"bytes-fetched": 3}


def test_service_document_turns_paths_into_ids_and_job() -> None:
    job = job_document("/org/bootcd1/job/_4", {"Uuid": "u", "Kind": "check"})
    document = service_document(
        {
            "Booted": "/org/bootcd1/deployment/_abc_0",
            "Staged": "/",
            "AvailableUpdate": {"digest": "sha256:1"},
            "NextAction": ["check", "interval", 77],
        },
        job,
    )
    assert document["booted"] == "abc.0"
    assert document["staged"] == ""
    assert document["active-job"] == {"uuid": "u", "number": 4, "kind": "check"}
    assert document["available"] == {"digest": "sha256:1"}
    assert document["next-action"] == {"action": "check", "reason": "interval", "when": 77}


def test_service_document_has_the_shape_of_the_file_the_service_writes() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    snapshot = Snapshot(version="1", backend="ostree", state="idle", state_since=now)
    assert set(service_document({})) == set(json.loads(render_service(snapshot, None)))


def test_service_document_of_a_quiet_service_has_nothing_available_and_no_job() -> None:
    document = service_document({"AvailableUpdate": {}})
    assert document["available"] is None
    assert document["active-job"] is None
