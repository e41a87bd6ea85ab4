"""`--progress-fd` on a whole host: what a graphical program reads that was written for bootc."""

from __future__ import annotations

import asyncio
import json
import subprocess
from typing import Any

import pytest

from tests.support.faultproxy import FaultProxy
from tests.support.host import BOOTCCTL, Host
from tests.support.json_schema import violations
from tests.support.machine import REPOSITORY

pytestmark = [pytest.mark.machine, pytest.mark.timeout(300)]

SCHEMA = json.loads((REPOSITORY / "docs/progress-v0.schema.json").read_text())
STAGES = [
    ("importing", 0, 1),
    ("importing", 1, 1),
    ("staging", 0, 3),
    ("staging", 1, 3),
    ("staging", 1, 3),
    ("staging", 2, 3),
    ("staging", 3, 3),
]


def parse(line: bytes) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(line)
    assert violations(event, SCHEMA) == []
    canonical = json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert line.decode() == canonical + "\n"
    return event


async def events_of(host: Host, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Return the exit code of a command and what it wrote to the descriptor."""
    command = ["bash", "-c", '"$@" --progress-fd 3 3>&1 >/dev/null', "bash", BOOTCCTL, *arguments]
    done = await host.machine.run(command, timeout=120, check=False)
    return done.returncode, [parse(line.encode()) for line in done.stdout.splitlines(keepends=True)]


async def test_progress_of_an_upgrade_has_events_and_order_of_bootc(host: Host, proxy: FaultProxy) -> None:
    v2 = await host.publish("v2")
    stalled = host.stall_upgrade(proxy).partition(":")[2][:21]
    command = ["bash", "-c", f"{BOOTCCTL} upgrade --progress-fd 3 3>&1 >/dev/null"]
    upgrade = await host.machine.popen(command, stdout=subprocess.PIPE)
    assert upgrade.stdout is not None
    events = []
    async with asyncio.timeout(120):
        while line := await upgrade.stdout.readline():
            events.append(parse(line))
            flying = {task["id"]: task["bytes"] for task in events[-1].get("subtasks", ()) if "bytes" in task}
            if flying.get(stalled, 0) > 0:
                proxy.release()
    assert await upgrade.wait() == 0

    assert events[0] == {"type": "Start", "version": "0.1.0"}
    assert events[-1] == {"type": "End", "result": "done", "changed": True, "error": None}
    pulled = [event for event in events if event["type"] == "ProgressBytes"]
    steps = [event for event in events if event["type"] == "ProgressSteps"]
    assert events == [events[0], *pulled, *steps, events[-1]]
    assert [(event["task"], event["steps"], event["stepsTotal"]) for event in steps] == STAGES
    assert {event["id"] for event in [*pulled, *steps]} == {v2}

    new, all_layers = host.layers("v2") - host.layers("v1"), host.layers("v2")
    last = pulled[-1]
    assert (last["steps"], last["stepsTotal"], last["stepsCached"]) == (
        len(new),
        len(new),
        len(all_layers) - len(new),
    )
    assert last["bytes"] == last["bytesTotal"] > 0
    assert last["bytesCached"] > 0
    tasks = [task for event in pulled for task in event["subtasks"]]
    assert {task["id"] for task in tasks} == {layer.partition(":")[2][:21] for layer in new}
    complete = [task["id"] for task in tasks if task["bytes"] == task["bytesTotal"]]
    assert sorted(complete) == sorted({task["id"] for task in tasks})

    # There is nothing more to do, and nobody has to guess so from silence.
    again = await events_of(host, "upgrade")
    assert again == (0, [{"type": "End", "result": "done", "changed": False, "error": None}])


async def test_progress_of_what_cannot_be_done_ends_with_the_reason(host: Host) -> None:
    code, events = await events_of(host, "switch", f"{host.front}/example/absent:1")
    assert code == 8
    assert [event["type"] for event in events] == ["End"]
    assert (events[0]["result"], events[0]["error"]["name"]) == ("failed", "NotFound")
