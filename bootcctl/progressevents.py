"""Progress of an upgrade or switch as the events bootc writes to its `--progress-fd`. Pure.

The events follow from the documents of one job, in this order, whatever was missed between two of them:

    pulling    ProgressBytes   again and again, the last one with everything complete
    importing  ProgressSteps   0 of 1, 1 of 1
    staging    ProgressSteps   0, 1, 1, 2 and 3 of 3
    End                        ours: how it ended; bootc tells by closing the descriptor

A job that has nothing to import gives none but End. Schema: docs/progress-v0.schema.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

VERSION = "0.1.0"
"Of bootc's protocol."

SUBTASKS = 16
"In one event, so that a line is written to a pipe as a whole."

_PHASES = {"fetch": 1, "import": 2, "stage": 3, "cleanup": 4, "reboot": 5}
_END = 5
_KINDS = {"chunk": "ostree chunk", "layer": "layer"}
_STAGING = (
    ("merging", "Merging Image", "fetching"),
    ("deploying", "Deploying Image", "deploying"),
    ("bound_images", "Pulling Bound Images", "bound_images"),
    ("cleanup", "Removing old images", "cleanup"),
)

Event = dict[str, Any]


class ProgressEvents:
    """The events of one job; each comes with whether it may be left out when there is no time for it."""

    def __init__(self) -> None:
        self._reached = 0
        "Phase whose events were given."
        self._steps = 0
        self._open: dict[str, Event] = {}
        "Subtasks that were told and not completed, by id."
        self._completed: set[str] = set()

    def update(self, job: dict[str, Any]) -> Iterator[tuple[Event, bool]]:
        """Yield what is new in a job's document, with True for what may be left out."""
        if not job["digest"]:
            return
        done = job["state"] == "done" and job["outcome"].get("changed")
        phase = _END if done else _PHASES.get(job["phase"], 0)
        if self._reached <= 1 <= phase:
            yield from self._pulling(job, complete=phase > 1)
        for reached in range(max(self._reached, 1) + 1, phase + 1):
            yield from ((event, False) for event in _steps(reached, job["digest"]))
        self._reached = max(self._reached, phase)

    def _pulling(self, job: dict[str, Any], *, complete: bool) -> Iterator[tuple[Event, bool]]:
        subtasks = self._subtasks(job, complete=complete)
        news = any(task["bytes"] == task["bytesTotal"] for task in subtasks)
        news = news or complete or job["steps-done"] > self._steps
        self._steps = job["steps-done"]
        while True:
            yield _bytes(job, subtasks[:SUBTASKS], complete=complete), not news
            subtasks = subtasks[SUBTASKS:]
            if not subtasks:
                return

    def _subtasks(self, job: dict[str, Any], *, complete: bool) -> list[Event]:
        """Return the layers in flight, and once those that were completed, noticed in flight or not."""
        now = {layer["id"]: _subtask(layer) for layer in job["layers"] if layer["id"] not in self._completed}
        tasks = {**self._open, **now}
        for id, task in tasks.items():
            if complete or id not in now:
                tasks[id] = {**task, "bytes": task["bytesTotal"]}
        finished = {id for id, task in tasks.items() if task["bytes"] == task["bytesTotal"]}
        self._completed |= finished
        self._open = {id: task for id, task in tasks.items() if id not in finished}
        return list(tasks.values())


def end_event(job: dict[str, Any]) -> Event:
    """Return the last event of a job that has ended."""
    return _end(job["state"], job["error"], changed=bool(job["outcome"].get("changed")))


def failure_event(error: dict[str, str]) -> Event:
    """Return the last event where there was no job, or it could not be followed to its end."""
    return _end("detached" if error["name"] == "Detached" else "failed", error)


def start_event() -> Event:
    return {"type": "Start", "version": VERSION}


def _end(result: str, error: dict[str, str] | None, *, changed: bool = False) -> Event:
    return {"type": "End", "result": result, "changed": changed, "error": error}


def _subtask(layer: dict[str, Any]) -> Event:
    kind = _KINDS.get(layer["kind"], layer["kind"])
    return {
        "subtask": kind,
        "description": f"{kind}: {layer['id']}",
        "id": layer["id"],
        "bytesCached": 0,
        "bytes": min(layer["bytes-done"], layer["bytes-total"]),
        "bytesTotal": layer["bytes-total"],
    }


def _bytes(job: dict[str, Any], subtasks: list[Event], *, complete: bool) -> Event:
    return {
        "type": "ProgressBytes",
        "task": "pulling",
        "description": f"Pulling Image: {job['digest']}",
        "id": job["digest"],
        "bytesCached": job["bytes-cached"],
        "bytes": job["bytes-total"] if complete else job["bytes-done"],
        "bytesTotal": job["bytes-total"],
        "stepsCached": job["steps-cached"],
        "steps": job["steps-total"] if complete else job["steps-done"],
        "stepsTotal": job["steps-total"],
        "subtasks": subtasks,
    }


def _steps(phase: int, digest: str) -> list[Event]:
    """Return the events that come when a phase is reached."""
    match phase:
        case 2:
            return [_importing(digest, 0)]
        case 3:
            return [_importing(digest, 1), _staging(digest, 0, 0), _staging(digest, 1, 1)]
        case 4:
            return [_staging(digest, 1, 2), _staging(digest, 2, 3)]
        case _:
            return [_staging(digest, 3, 4)]


def _importing(digest: str, steps: int) -> Event:
    task = _step_task("importing", "Importing Image", "importing", completed=steps == 1)
    return _step_event("importing", "Importing Image", digest, steps, 1, [task])


def _staging(digest: str, steps: int, completed: int) -> Event:
    tasks = [_step_task(*names, completed=at < completed) for at, names in enumerate(_STAGING)]
    return _step_event("staging", "Deploying Image", digest, steps, 3, tasks[: completed + 1])


def _step_task(subtask: str, description: str, id: str, *, completed: bool) -> Event:
    return {"subtask": subtask, "description": description, "id": id, "completed": completed}


def _step_event(
    task: str, description: str, digest: str, steps: int, total: int, subtasks: list[Event]
) -> Event:
    return {
        "type": "ProgressSteps",
        "task": task,
        "description": description,
        "id": digest,
        "stepsCached": 0,
        "steps": steps,
        "stepsTotal": total,
        "subtasks": subtasks,
    }
