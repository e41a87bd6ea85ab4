"""What every released version has left on disk is taken up: `states/<version>` is a state directory of each.

They are not changed once the version is released; a change of a document that cannot read them fails here.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from bootcd import __version__
from bootcd.model.job import JobKind, JobState
from tests.support.jobs import WorkerScript
from tests.support.service import ServiceBench

STATES = Path(__file__).with_name("states")


def test_version_of_now_has_left_a_state() -> None:
    assert (STATES / __version__).is_dir()


@pytest.mark.parametrize("version", sorted(path.name for path in STATES.iterdir()))
async def test_state_of_a_version_is_taken_up_whole(
    tmp_path: Path, script: WorkerScript, caplog: pytest.LogCaptureFixture, version: str
) -> None:
    shutil.copytree(STATES / version, tmp_path / "state")
    with caplog.at_level(logging.WARNING, "bootcd"):
        async with ServiceBench(tmp_path, script) as bench:
            await bench.service.host_ready()
            snapshot = bench.service.snapshot
            history = await bench.service.history(50)
    assert [text for text in caplog.messages if not text.startswith("job 5 ended: check interrupted")] == []
    assert not [path for path in (tmp_path / "state").rglob("*corrupt*")]
    ended = {record.number: (record.request.kind, record.state) for record in history}
    assert [ended[number] for number in range(1, 6)] == [
        (JobKind.CHECK, JobState.DONE),
        (JobKind.UPGRADE, JobState.FAILED),
        (JobKind.SWITCH, JobState.DONE),
        (JobKind.KERNEL_ARGUMENTS, JobState.DONE),  # its worker ended while no daemon was there
        (JobKind.CHECK, JobState.INTERRUPTED),
    ]
    failed = next(record for record in history if record.number == 2)
    assert failed.outcome
    assert failed.outcome.error
    assert failed.outcome.error.message == "no route"
    assert snapshot.available
    assert snapshot.available.version == "2.0"
    assert snapshot.generation > 7
    assert snapshot.paused
    assert snapshot.paused.uid == 1000
    assert snapshot.failed == ("sha256:" + "d" * 64,)
