"""Inhibitors held by real descriptors, through the lives of a service."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from bootcd.agent.inhibition import Inhibition
from bootcd.model.errors import BackendFailed, Inhibited
from bootcd.model.job import JobKind, JobOptions
from bootcd.update.inhibit import How, What, Wish
from tests.support.blocking import no_blocking_calls as no_blocking_calls
from tests.support.jobs import SOMEBODY, Changes, SetClock, WorkerScript
from tests.support.service import ServiceBench

WISH = Wish(what=(What.STAGE,), who="backup", why="copying", how=How.BLOCK, uid=7)


class Watched:
    """An `Inhibition` whose changes can be awaited."""

    def __init__(self, directory: Path, clock: SetClock | None = None) -> None:
        changes = Changes()
        self.until = changes.until
        self.clock = clock or SetClock()
        self.inhibition = Inhibition(directory, self.clock, changes)

    @property
    def numbers(self) -> list[int]:
        return [inhibitor.number for inhibitor in self.inhibition.held]


async def test_inhibitor_lasts_until_the_last_copy_of_its_descriptor_is_closed(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "inhibitors")
    await watched.inhibition.start()
    taken = await watched.inhibition.take(WISH)
    copy = os.dup(taken)
    other = await watched.inhibition.take(WISH)
    os.close(taken)
    os.close(other)
    await watched.until(lambda: watched.numbers == [1])
    os.close(copy)
    await watched.until(lambda: watched.numbers == [])
    await watched.inhibition.stop()
    assert [path.name for path in (tmp_path / "inhibitors").iterdir()] == ["index.json"]


async def test_inhibitor_of_a_process_outlives_the_service_and_not_the_process(tmp_path: Path) -> None:
    directory = tmp_path / "inhibitors"
    first = Watched(directory)
    await first.inhibition.start()
    kept = await first.inhibition.take(WISH)
    given = await first.inhibition.take(WISH)
    holder = await asyncio.create_subprocess_exec("sleep", "600", pass_fds=[given])
    os.close(given)
    await first.inhibition.stop()

    second = Watched(directory, first.clock)
    await second.inhibition.start()
    assert second.numbers == [1, 2]
    holder.kill()
    await holder.wait()
    await second.until(lambda: second.numbers == [1])
    await second.inhibition.stop()

    os.close(kept)  # while there is no service
    third = Watched(directory, first.clock)
    await third.inhibition.start()
    assert third.numbers == []
    os.close(await third.inhibition.take(WISH))
    await third.inhibition.stop()


async def test_inhibitor_ends_at_its_time_however_long_it_is_held(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "inhibitors")
    await watched.inhibition.start()
    now = watched.clock.now()
    watched.clock.move(hours=-1)
    short = WISH.model_copy(update={"not_after": now})
    taken = await watched.inhibition.take(short)
    assert watched.numbers == [1]
    watched.clock.move(hours=1)
    os.close(await watched.inhibition.take(WISH))  # looks at the clock
    await watched.until(lambda: watched.numbers == [])
    os.close(taken)
    await watched.inhibition.stop()


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"held": 3}', b"\xff\0"], ids=["empty", "list", "type", "bytes"]
)
async def test_index_that_makes_no_sense_is_left_behind(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "index.json").write_bytes(content)
    watched = Watched(tmp_path)
    await watched.inhibition.start()
    assert watched.numbers == []
    os.close(await watched.inhibition.take(WISH))
    await watched.inhibition.stop()


async def test_inhibitor_that_cannot_be_made_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "missing" / "inhibitors")
    await watched.inhibition.start()
    with pytest.raises(BackendFailed, match="cannot make an inhibitor: No such file or directory"):
        await watched.inhibition.take(WISH)
    assert watched.numbers == []
    await watched.inhibition.stop()


async def test_service_refuses_what_is_blocked_and_does_it_when_told_to_ignore_that(
    tmp_path: Path, script: WorkerScript
) -> None:
    async with ServiceBench(tmp_path, script) as bench:
        await bench.shown(state="idle")
        taken = await bench.service.inhibit(WISH)
        assert [held.who for held in bench.service.snapshot.inhibitors] == ["backup"]
        with pytest.raises(Inhibited, match="backup inhibits stage: copying"):
            await bench.service.begin(JobKind.UPGRADE, SOMEBODY)
        assert bench.service.jobs() == ()
        record = await bench.service.begin(JobKind.UPGRADE, SOMEBODY, JobOptions(ignore_inhibitors=True))
        await bench.service.wait(record.request.uuid)
        os.close(taken)
        await bench.shown(inhibitors=())
        record = await bench.service.begin(JobKind.UPGRADE, SOMEBODY)
        await bench.service.wait(record.request.uuid)
