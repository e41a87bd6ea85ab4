"""What bootc prints, taken apart."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.bootc.output import failure, parse_progress, parse_status
from bootcd.model.errors import BackendFailed
from bootcd.model.job import LAYERS_SHOWN, Phase
from tests.support.bootc_stand_in import composefs_entry, composefs_host

DIGEST = "sha256:" + "a" * 64


def layer(number: int, kind: str = "layer") -> dict[str, Any]:
    id = f"sha256:{number:014x}"
    return {
        "subtask": kind,
        "description": "Layer",
        "id": id,
        "bytesCached": 0,
        "bytes": number,
        "bytesTotal": 100,
    }


PULLING = {
    "type": "ProgressBytes",
    "task": "pulling",
    "description": f"Pulling Image: {DIGEST}",
    "id": DIGEST,
    "bytesCached": 5,
    "bytes": 10,
    "bytesTotal": 30,
    "stepsCached": 1,
    "steps": 2,
    "stepsTotal": 3,
    "subtasks": [layer(1, "ostree chunk"), layer(2)],
}


def test_pulling_is_a_fetch_with_its_layers() -> None:
    progress = parse_progress(json.dumps(PULLING).encode())
    assert progress is not None
    assert (progress.phase, progress.digest) == (Phase.FETCH, DIGEST)
    assert (progress.bytes_done, progress.bytes_total, progress.bytes_cached) == (10, 30, 5)
    assert (progress.steps_done, progress.steps_total, progress.steps_cached) == (2, 3, 1)
    assert [(item.id, item.kind) for item in progress.layers] == [
        ("00000000000001", "chunk"),
        ("00000000000002", "layer"),
    ]


def test_only_the_last_layers_are_kept() -> None:
    progress = parse_progress(json.dumps({**PULLING, "subtasks": [layer(n) for n in range(500)]}).encode())
    assert progress is not None
    assert len(progress.layers) == LAYERS_SHOWN
    assert progress.layers[-1].bytes_done == 499


@pytest.mark.parametrize(("task", "phase"), [("importing", Phase.IMPORT), ("staging", Phase.STAGE)])
def test_steps_tell_their_phase(task: str, phase: Phase) -> None:
    event = {"type": "ProgressSteps", "task": task, "id": task, "steps": 1, "stepsTotal": 3, "subtasks": []}
    progress = parse_progress(json.dumps(event).encode())
    assert progress is not None
    assert (progress.phase, progress.steps_done, progress.steps_total) == (phase, 1, 3)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from([*PULLING, "x"]), JSON, max_size=4))
def test_any_event_is_progress_or_none(changes: dict[str, Any]) -> None:
    progress = parse_progress(json.dumps({**PULLING, **changes}).encode())
    assert progress is None or progress.bytes_done >= 0


@given(st.binary())
def test_any_line_is_progress_or_none(line: bytes) -> None:
    assert parse_progress(line) is None


def test_status_of_a_composefs_host_comes_back_as_it_was() -> None:
    document = composefs_host(staged=composefs_entry("staged", "2"))
    host = parse_status(json.dumps(document).encode())
    assert json.loads(host.to_json()) == document
    assert host.status.staged is not None
    assert host.status.staged.id == "cd" * 64


def test_status_of_a_newer_bootc_is_read_without_what_it_added() -> None:
    document = composefs_host()
    document["status"]["novelty"] = {"a": 1}
    document["status"]["booted"]["image"]["more"] = []
    host = parse_status(json.dumps(document).encode())
    assert json.loads(host.to_json()) == composefs_host()


@pytest.mark.parametrize("text", [b"", b"{}x", b"[]", b'{"kind": "Other"}', b"\xff"])
def test_status_that_is_none_is_an_error(text: bytes) -> None:
    with pytest.raises(BackendFailed):
        parse_status(text)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (
            "Initializing source docker://x: reading manifest 1 in x: unauthorized: authentication required",
            "RegistryAuth",
        ),
        ("reading manifest 1 in x: manifest unknown", "NotFound"),
        (
            "pinging container registry x: Get: dial tcp 127.0.0.1:1: connect: connection refused",
            "RegistryUnavailable",
        ),
        ("toomanyrequests: You have reached your pull rate limit", "RegistryRateLimited"),
        ("Source image rejected: A signature was required, but no signature exists", "SignatureRejected"),
        ("write: No space left on device (os error 28)", "OutOfSpace"),
        ("Target image does not have ostree.bootable label", "NotBootable"),
        ("No rollback available", "WrongState"),
        (
            "Deployment contains local rpm-ostree modifications; cannot upgrade via bootc",
            "LocalModifications",
        ),
        ("Something new", "BackendFailed"),
        ("", "BackendFailed"),
    ],
)
def test_failure_is_typed_by_what_bootc_says(words: str, name: str) -> None:
    error = failure("upgrade", 1, f"more\nerror: {words}\n".encode() if words else b"")
    assert error.name == name
    assert error.message == f"bootc cannot upgrade: {words or 'it ended with status 1'}"
