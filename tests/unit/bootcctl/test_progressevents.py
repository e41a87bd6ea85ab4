"""Events of an upgrade against what bootc's source sends, however few documents of the job were seen."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcctl.documents import job_document
from bootcctl.progressevents import ProgressEvents, end_event, failure_event, start_event
from tests.support.json_schema import violations

SCHEMA = json.loads((Path(__file__).resolve().parents[3] / "docs/progress-v0.schema.json").read_text())
DIGEST = "sha256:" + "ab" * 32
A, B = "a" * 21, "b" * 21


def job(phase: str, state: str = "running", *, changed: bool = True, **properties: Any) -> dict[str, Any]:
    outcome = {"changed": changed} if state == "done" else {}
    return job_document(
        "/org/bootcd1/job/_1",
        {"Phase": phase, "State": state, "Digest": DIGEST, "Outcome": outcome, **properties},
    )


def counts(done: int, *layers: tuple[str, str, int, int], steps: int = 0) -> dict[str, Any]:
    return {
        "BytesDone": done,
        "BytesTotal": 300,
        "BytesCached": 50,
        "StepsDone": steps,
        "StepsTotal": 2,
        "StepsCached": 7,
        "Layers": list(layers),
    }


def events_of(*jobs: dict[str, Any]) -> list[tuple[dict[str, Any], bool]]:
    events = ProgressEvents()
    found = [event for one in jobs for event in events.update(one)]
    for event, _ in found:
        assert violations(event, SCHEMA) == []
    return found


def pulling(done: int, steps: int, *subtasks: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "ProgressBytes",
        "task": "pulling",
        "description": f"Pulling Image: {DIGEST}",
        "id": DIGEST,
        "bytesCached": 50,
        "bytes": done,
        "bytesTotal": 300,
        "stepsCached": 7,
        "steps": steps,
        "stepsTotal": 2,
        "subtasks": list(subtasks),
    }


def layer(id: str, done: int, total: int, kind: str = "layer") -> dict[str, Any]:
    return {
        "subtask": kind,
        "description": f"{kind}: {id}",
        "id": id,
        "bytesCached": 0,
        "bytes": done,
        "bytesTotal": total,
    }


def steps(task: str, description: str, done: int, total: int, *subtasks: str) -> dict[str, Any]:
    """Write subtasks as `name`, with a `+` after the completed ones."""
    names = {
        "importing": ("Importing Image", "importing"),
        "merging": ("Merging Image", "fetching"),
        "deploying": ("Deploying Image", "deploying"),
        "bound_images": ("Pulling Bound Images", "bound_images"),
        "cleanup": ("Removing old images", "cleanup"),
    }
    return {
        "type": "ProgressSteps",
        "task": task,
        "description": description,
        "id": DIGEST,
        "stepsCached": 0,
        "steps": done,
        "stepsTotal": total,
        "subtasks": [
            {
                "subtask": name.rstrip("+"),
                "description": names[name.rstrip("+")][0],
                "id": names[name.rstrip("+")][1],
                "completed": name.endswith("+"),
            }
            for name in subtasks
        ],
    }


AFTER_PULLING = [
    steps("importing", "Importing Image", 0, 1, "importing"),
    steps("importing", "Importing Image", 1, 1, "importing+"),
    steps("staging", "Deploying Image", 0, 3, "merging"),
    steps("staging", "Deploying Image", 1, 3, "merging+", "deploying"),
    steps("staging", "Deploying Image", 1, 3, "merging+", "deploying+", "bound_images"),
    steps("staging", "Deploying Image", 2, 3, "merging+", "deploying+", "bound_images+", "cleanup"),
    steps("staging", "Deploying Image", 3, 3, "merging+", "deploying+", "bound_images+", "cleanup+"),
]


def test_upgrade_gives_the_events_of_bootc_in_their_order() -> None:
    found = events_of(
        job("resolve", Digest=""),
        job("fetch", **counts(10, (A, "layer", 10, 100))),
        job("fetch", **counts(150, (A, "layer", 100, 100), (B, "chunk", 50, 200), steps=1)),
        job("import", **counts(300, (A, "layer", 100, 100), (B, "chunk", 200, 200), steps=2)),
        job("stage", **counts(300, steps=2)),
        job("cleanup", **counts(300, steps=2)),
        job("cleanup", "done", **counts(300, steps=2)),
    )
    assert found == [
        (pulling(10, 0, layer(A, 10, 100)), True),
        (pulling(150, 1, layer(A, 100, 100), layer(B, 50, 200, "ostree chunk")), False),
        (pulling(300, 2, layer(B, 200, 200, "ostree chunk")), False),
        *((event, False) for event in AFTER_PULLING),
    ]


def test_layer_that_vanished_in_flight_is_completed_once() -> None:
    found = events_of(
        job("fetch", **counts(10, (A, "layer", 10, 100))),
        job("fetch", **counts(150, (B, "layer", 50, 200))),
        job("fetch", **counts(160, (B, "layer", 60, 200), steps=1)),
        job("fetch", **counts(170, (B, "layer", 70, 200), steps=1)),
    )
    assert found[1:] == [
        (pulling(150, 0, layer(A, 100, 100), layer(B, 50, 200)), False),
        (pulling(160, 1, layer(B, 60, 200)), False),
        (pulling(170, 1, layer(B, 70, 200)), True),
    ]


def test_more_layers_than_a_line_holds_take_several() -> None:
    ids = [f"{number:021}" for number in range(40)]
    events = ProgressEvents()
    for start in (0, 10, 20):
        flying = [(id, "layer", 1, 10) for id in ids[start : start + 16]]
        list(events.update(job("fetch", **counts(1, *flying))))
    found = [
        event
        for event, _ in events.update(job("import", **counts(1, *((i, "layer", 5, 10) for i in ids[30:]))))
    ]
    pulled = [event for event in found if event["task"] == "pulling"]
    assert max(len(event["subtasks"]) for event in pulled) == 16
    assert all(len(json.dumps(event)) < 4096 for event in pulled)
    told = [task["id"] for event in pulled for task in event["subtasks"]]
    assert len(told) == len(set(told))
    assert set(ids[30:]) <= set(told)


@given(st.sets(st.integers(0, 4)))
def test_events_that_complete_something_come_whatever_was_not_seen(seen: set[int]) -> None:
    documents = [
        job("fetch", **counts(10, (A, "layer", 10, 100))),
        job("fetch", **counts(150, (B, "layer", 50, 200), steps=1)),
        job("import", **counts(300, steps=2)),
        job("stage", **counts(300, steps=2)),
        job("cleanup", **counts(300, steps=2)),
    ]
    last = job("cleanup", "done", **counts(300, steps=2))
    found = [event for event, _ in events_of(*(documents[at] for at in sorted(seen)), last)]
    assert found[-len(AFTER_PULLING) :] == AFTER_PULLING
    pulled = found[: -len(AFTER_PULLING)]
    assert pulled[-1]["bytes"] == pulled[-1]["bytesTotal"]
    begun = {task["id"] for event in pulled for task in event["subtasks"]}
    tasks = list(itertools.chain.from_iterable(event["subtasks"] for event in pulled))
    assert all(sum(t["id"] == id and t["bytes"] == t["bytesTotal"] for t in tasks) == 1 for id in begun)


@pytest.mark.parametrize(
    "documents",
    [
        [job("resolve", Digest=""), job("resolve", "done", changed=False, Digest="")],
        [job("stage", Digest=""), job("stage", "done", Digest="")],
    ],
    ids=["up to date", "only the lock of what is staged"],
)
def test_job_that_imports_nothing_gives_no_progress(documents: list[dict[str, Any]]) -> None:
    assert events_of(*documents) == []


def test_job_that_fails_completes_nothing() -> None:
    error = {"ErrorName": "org.bootcd1.Error.OutOfSpace", "ErrorMessage": "full", "ErrorHint": "tidy"}
    last = job("fetch", "failed", **counts(20, (A, "layer", 20, 100)), **error)
    found = events_of(job("fetch", **counts(10, (A, "layer", 10, 100))), last)
    assert [event["bytes"] for event, _ in found] == [10, 20]
    assert end_event(last) == {
        "type": "End",
        "result": "failed",
        "changed": False,
        "error": {"name": "OutOfSpace", "message": "full", "hint": "tidy"},
    }


def test_events_around_the_progress_fit_the_schema() -> None:
    lost = {"name": "Unreachable", "message": "gone", "hint": ""}
    for event in (
        start_event(),
        end_event(job("cleanup", "done")),
        failure_event(lost),
        failure_event({**lost, "name": "Detached"}),
    ):
        assert violations(event, SCHEMA) == []
    assert failure_event({**lost, "name": "Detached"})["result"] == "detached"
