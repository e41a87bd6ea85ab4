"""Progress of a job over the bus as lines in a pipe."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from bootcd.bus import progress as progress_module
from bootcd.model.errors import OutOfSpace
from bootcd.model.job import JobKind, JobState, LayerProgress, Outcome, Phase
from tests.support.blocking import no_blocking_calls as no_blocking_calls
from tests.support.bus_front import ERROR, JOB_NAME, JOB_PATH
from tests.support.bus_front import bus as bus
from tests.support.bus_front import front as front
from tests.support.bus_front import peer as peer
from tests.support.bus_front import service as service
from tests.support.bus_peers import Peer
from tests.support.json_schema import violations
from tests.support.machine import REPOSITORY
from tests.support.scripted_agent import ScriptedService, done, failed

SCHEMA = json.loads((REPOSITORY / "docs/progress-v0.schema.json").read_text())
DIGEST = "sha256:" + "b" * 64


async def opened(peer: Peer, path: str = JOB_PATH) -> int:
    reply = await peer.reply(path, JOB_NAME, "OpenProgress")
    assert reply.error_name is None, reply.body
    return int(reply.unix_fds[0])


async def events_in(descriptor: int) -> list[dict[str, Any]]:
    """Return all there is to the end of the pipe, each line checked."""
    os.set_blocking(descriptor, True)

    def read() -> bytes:
        with open(descriptor, "rb") as file:
            return file.read()

    async with asyncio.timeout(30):
        text = await asyncio.to_thread(read)
    events = [json.loads(line) for line in text.splitlines()]
    for event in events:
        assert violations(event, SCHEMA) == [], event
    assert text.endswith(b"\n")
    return events


def fetching(service: ScriptedService, record: Any, done_bytes: int, layer: str = "l1") -> None:
    service.progress(
        record,
        phase=Phase.FETCH,
        digest=DIGEST,
        bytes_done=done_bytes,
        bytes_total=100,
        steps_total=2,
        layers=(LayerProgress(id=layer, kind="layer", bytes_done=min(done_bytes, 50), bytes_total=50),),
    )


async def test_progress_begins_with_what_there_is_and_ends_with_the_end(
    peer: Peer, service: ScriptedService
) -> None:
    record = service.add()
    fetching(service, record, 10)
    descriptor = await opened(peer)
    fetching(service, record, 50)
    service.progress(record, phase=Phase.IMPORT, digest=DIGEST, bytes_done=100, bytes_total=100)
    service.end(record, done(changed=True))
    events = await events_in(descriptor)
    assert [event["type"] for event in events[:2]] == ["Start", "ProgressBytes"]
    assert events[1]["bytes"] == 10
    staged = [event["steps"] for event in events if event.get("task") == "staging"]
    assert staged == [0, 1, 1, 2, 3]
    assert events[-1] == {"type": "End", "result": "done", "changed": True, "error": None}


async def test_progress_of_a_job_that_has_ended_is_told_at_once(peer: Peer, service: ScriptedService) -> None:
    record = service.add(JobKind.CHECK)
    service.end(record, failed(OutOfSpace("no space on /sysroot", hint="free some")))
    assert await events_in(await opened(peer)) == [
        {
            "type": "End",
            "result": "failed",
            "changed": False,
            "error": {"name": "OutOfSpace", "message": "no space on /sysroot", "hint": "free some"},
        }
    ]


async def test_reader_that_does_not_read_loses_lines_but_not_the_last(
    peer: Peer, service: ScriptedService
) -> None:
    record = service.add()
    slow, quick = await opened(peer), await opened(peer)
    for number in range(1000):
        fetching(service, record, 50, layer=f"l{number}")  # each completes something
    service.end(record, Outcome(state=JobState.CANCELLED))
    events = await events_in(slow)
    assert events[-1]["result"] == "cancelled"
    assert 64 < len(events) < 1000
    assert (await events_in(quick))[-1] == events[-1]


async def test_pipes_are_few_per_user_and_one_that_is_closed_makes_room(
    peer: Peer, service: ScriptedService
) -> None:
    service.add()
    held = [await opened(peer) for _ in range(progress_module.PER_USER)]
    refused = await peer.call(JOB_PATH, JOB_NAME, "OpenProgress")
    assert refused.error == ERROR + "LimitsExceeded"
    os.close(held.pop())
    async with asyncio.timeout(30):
        while not (reply := await peer.reply(JOB_PATH, JOB_NAME, "OpenProgress")).unix_fds:
            pass
    held += reply.unix_fds
    for descriptor in held:
        os.close(descriptor)
