"""The life of jobs, each with a real process behind it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from bootcd.host import process
from bootcd.host.process import identify
from bootcd.jobs import manager as manager_module
from bootcd.jobs.events import JobAdded, JobChanged, JobEvent, JobForgotten
from bootcd.jobs.manager import Limits
from bootcd.model.errors import (
    Busy,
    Cancelled,
    Interrupted,
    InvalidArguments,
    NoSuchJob,
    NotCancellable,
    OutOfSpace,
    RegistryAuthRequired,
)
from bootcd.model.job import JobKind, JobState, Phase, WorkerHandle
from tests.support.jobs import DONE, SOMEBODY, JobBench, SetClock, WorkerScript, ended_record, eventually


def progress_of(**wanted: Any) -> Callable[[JobEvent], bool]:
    def match(event: JobEvent) -> bool:
        return all(getattr(event.record.progress, name) == value for name, value in wanted.items())

    return match


def has_ended(event: JobEvent) -> bool:
    return isinstance(event, JobChanged) and event.record.state.ended


async def test_job_runs_to_its_end(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["ready"], ["outcome", {"state": "done", "changed": True, "bytes_fetched": 9}])
    async with JobBench(tmp_path) as bench:
        request = script.request(JobKind.UPGRADE)
        record = await bench.manager.create(request, SOMEBODY)
        assert (record.number, record.request, record.requester) == (1, request, SOMEBODY)
        ended = await bench.manager.wait(request.uuid)
    assert ended.state is JobState.DONE
    assert ended.outcome is not None
    assert ended.outcome.bytes_fetched == 9
    assert ended.finished == bench.clock.now()
    assert [type(event) for event in bench.events] == [JobAdded, JobChanged]
    assert bench.settled == [ended]
    assert await bench.stored() == [ended]
    assert await bench.remembered() == [ended]
    assert not bench.manager.busy


async def test_job_is_journaled_with_its_worker_before_the_worker_runs(
    tmp_path: Path, script: WorkerScript
) -> None:
    script.steps(["ready"], ["hold"], DONE)
    async with JobBench(tmp_path) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        [pid] = script.pids()
        assert record.worker is not None
        assert record.worker.pid == pid
        assert (await bench.stored())[0].worker == record.worker
        script.release()
        await bench.manager.wait(record.request.uuid)


async def test_failed_check_is_the_callers_error_and_leaves_no_job(
    tmp_path: Path, script: WorkerScript
) -> None:
    error = {
        "name": "RegistryAuth",
        "message": "no credential",
        "hint": "log in",
        "fields": {"registry": "r"},
    }
    script.steps(["outcome", {"state": "failed", "error": error}])
    async with JobBench(tmp_path) as bench:
        with pytest.raises(RegistryAuthRequired, match="no credential") as raised:
            await bench.manager.create(script.request(), SOMEBODY)
        assert raised.value.hint == "log in"
        assert raised.value.fields == {"registry": "r"}
        assert bench.manager.jobs() == ()
        assert not bench.manager.busy
    assert bench.events == []
    assert list(bench.store.root.iterdir()) == []
    assert await bench.remembered() == []


async def test_worker_that_dies_in_its_checks_is_interrupted(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["kill"])
    async with JobBench(tmp_path) as bench:
        with pytest.raises(Interrupted):
            await bench.manager.create(script.request(), SOMEBODY)
    assert await bench.stored() == []


async def test_worker_cancelled_from_outside_in_its_checks_is_cancelled(
    tmp_path: Path, script: WorkerScript
) -> None:
    script.steps(["outcome", {"state": "cancelled"}])
    async with JobBench(tmp_path) as bench:
        with pytest.raises(Cancelled):
            await bench.manager.create(script.request(), SOMEBODY)


async def test_checks_that_take_long_are_accepted_as_a_job(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["hold"])
    async with JobBench(tmp_path, limits=Limits(ready_secs=0.3)) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        assert record.state is JobState.RUNNING
        await bench.manager.cancel(record.request.uuid)
        assert (await bench.manager.wait(record.request.uuid)).state is not JobState.RUNNING


async def test_checks_that_do_not_end_are_killed(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["deaf"], ["hold"])
    limits = Limits(ready_secs=0.3, stall_secs=0.3, cancel_secs=0.2, look_secs=0.1)
    async with JobBench(tmp_path, limits=limits) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        ended = await bench.manager.wait(record.request.uuid)
        assert ended.outcome is not None
        assert ended.outcome.error is not None
        assert ended.outcome.error.name == "Stalled"
        script.steps(["ready"], DONE)
        record = await bench.manager.create(script.request(), SOMEBODY)
        await bench.manager.wait(record.request.uuid)
    assert [await asyncio.to_thread(identify, pid) for pid in script.pids()] == [None, None]


async def test_job_that_ends_at_once_is_still_a_job(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(DONE)  # not even a word that it is ready
    async with JobBench(tmp_path) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        assert (await bench.manager.wait(record.request.uuid)).state is JobState.DONE


async def test_failure_after_the_checks_is_a_failed_job(tmp_path: Path, script: WorkerScript) -> None:
    error = {"name": "DigestMismatch", "message": "wrong", "hint": "", "fields": {}}
    script.steps(["ready"], ["outcome", {"state": "failed", "error": error}])
    async with JobBench(tmp_path) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        ended = await bench.manager.wait(record.request.uuid)
    assert ended.state is JobState.FAILED
    assert ended.outcome is not None
    assert ended.outcome.error is not None
    assert ended.outcome.error.name == "DigestMismatch"


@pytest.mark.parametrize(
    "last", [["kill"], ["raw-outcome", "{"], ["raw-outcome", '{"state":"running"}']], ids=str
)
async def test_worker_without_a_usable_outcome_is_interrupted(
    tmp_path: Path, script: WorkerScript, last: list[str]
) -> None:
    script.steps(["ready"], last)
    async with JobBench(tmp_path) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        ended = await bench.manager.wait(record.request.uuid)
    assert ended.state is JobState.INTERRUPTED
    assert ended.outcome is not None
    assert ended.outcome.error is not None
    assert ended.outcome.error.name == "Interrupted"
    assert await bench.remembered() == [ended]


# One at a time


async def test_fifty_identical_requests_at_once_start_one_worker(
    tmp_path: Path, script: WorkerScript
) -> None:
    script.steps(["ready"], ["hold"], DONE)
    async with JobBench(tmp_path) as bench:
        records = await asyncio.gather(*(bench.manager.create(script.request(), SOMEBODY) for _ in range(50)))
        assert len({record.request.uuid for record in records}) == 1
        assert len(script.pids()) == 1
        script.release()
        ends = await asyncio.gather(*(bench.manager.wait(records[0].request.uuid) for _ in range(50)))
    assert {end.state for end in ends} == {JobState.DONE}
    assert len(script.pids()) == 1


async def test_mixed_requests_at_once_start_one_worker_and_refuse_the_others(
    tmp_path: Path, script: WorkerScript
) -> None:
    script.steps(["ready"], ["hold"], DONE)
    kinds = [*JobKind] * 10
    async with JobBench(tmp_path) as bench:
        answers = await asyncio.gather(
            *(bench.manager.create(script.request(kind), SOMEBODY) for kind in kinds), return_exceptions=True
        )
        accepted = [answer for answer in answers if not isinstance(answer, BaseException)]
        refused = [answer for answer in answers if isinstance(answer, Busy)]
        assert (len(accepted), len(refused)) == (10, len(kinds) - 10)
        assert {record.request.kind for record in accepted} == {JobKind.CHECK}
        assert {error.fields["uuid"] for error in refused} == {accepted[0].request.uuid}
        assert {error.fields["number"] for error in refused} == {1}
        assert len(script.pids()) == 1
        script.release()
        await bench.manager.wait(accepted[0].request.uuid)


async def test_identical_request_joins_the_job_at_work(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["ready"], ["hold"], DONE)
    async with JobBench(tmp_path) as bench:
        first = await bench.manager.create(script.request(JobKind.SWITCH, image="r/a:1"), SOMEBODY)
        second = await bench.manager.create(script.request(JobKind.SWITCH, image="r/a:1"), SOMEBODY)
        assert second == first
        with pytest.raises(Busy):
            await bench.manager.create(script.request(JobKind.SWITCH, image="r/a:2"), SOMEBODY)
        with pytest.raises(Busy):
            await bench.manager.create(script.request(JobKind.SWITCH, image="r/a:1", apply=True), SOMEBODY)
        script.release()
        await bench.manager.wait(first.request.uuid)


async def test_identical_requests_share_the_error_of_the_checks(tmp_path: Path, script: WorkerScript) -> None:
    error = {"name": "RegistryAuth", "message": "no credential", "hint": "", "fields": {}}
    script.steps(["hold"], ["outcome", {"state": "failed", "error": error}])
    async with JobBench(tmp_path) as bench:
        asked = [asyncio.ensure_future(bench.manager.create(script.request(), SOMEBODY)) for _ in range(5)]
        await eventually(lambda: bool(script.pids()))
        script.release()
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers] == [RegistryAuthRequired] * 5


async def test_caller_that_goes_away_does_not_stop_the_job(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["hold"], ["ready"], DONE)
    async with JobBench(tmp_path) as bench:
        request = script.request()
        caller = asyncio.ensure_future(bench.manager.create(request, SOMEBODY))
        await eventually(lambda: bool(script.pids()))
        caller.cancel()
        await asyncio.wait([caller])
        script.release()
        await bench.until(has_ended)
        assert (await bench.manager.wait(request.uuid)).state is JobState.DONE


# Progress


async def test_last_progress_of_a_burst_is_told_and_not_each(tmp_path: Path, script: WorkerScript) -> None:
    burst = [["progress", {"phase": "fetch", "bytes_done": n, "bytes_total": 500}] for n in range(1, 501)]
    script.steps(["ready"], *burst, ["hold"], DONE)
    async with JobBench(tmp_path, limits=Limits(notify_secs=0.2)) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        begun = asyncio.get_running_loop().time()
        await bench.until(progress_of(bytes_done=500))
        took = asyncio.get_running_loop().time() - begun
        told = [event for event in bench.events if isinstance(event, JobChanged)]
        assert len(told) <= 2 + took / 0.2
        assert told[-1].record.progress.phase is Phase.FETCH
        script.release()
        await bench.manager.wait(record.request.uuid)


async def test_end_is_one_change_with_the_last_progress(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["ready"], ["progress", {"steps_done": 1}], ["progress", {"steps_done": 2}], DONE)
    async with JobBench(tmp_path, limits=Limits(notify_secs=60)) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        ended = await bench.manager.wait(record.request.uuid)
        await asyncio.sleep(0)
    assert ended.progress.steps_done == 2
    assert [has_ended(event) for event in bench.events].count(True) == 1
    assert has_ended(bench.events[-1])


async def test_estimate_comes_with_the_progress(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(
        ["ready"],
        ["progress", {"bytes_done": 0, "bytes_total": 1000}],
        ["hold"],
        ["progress", {"bytes_done": 500, "bytes_total": 1000}],
        ["hold"],
        DONE,
    )
    async with JobBench(tmp_path, limits=Limits(notify_secs=0)) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        begun = asyncio.get_running_loop().time()
        await bench.until(progress_of(bytes_done=0, bytes_total=1000))
        await asyncio.sleep(0.1)  # the fetch is to take a moment
        script.release()
        half = await bench.until(progress_of(bytes_done=500))
        took = asyncio.get_running_loop().time() - begun
        assert isinstance(half, JobChanged)
        assert 0.05 < half.eta_secs <= took * 1.5
        script.release()
        await bench.manager.wait(record.request.uuid)


async def test_messages_that_make_no_sense_are_ignored(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(
        ["ready"],
        ["send", ""],
        ["send", "nonsense"],
        ["send", "x" * 20_000],
        ["send", '{"uuid": "not-a-uuid", "ready": true}'],
        ["send", f'{{"uuid": "{uuid4()}", "progress": {{"steps_done": 9}}}}'],
        ["progress", {"steps_done": 3}],
        ["hold"],
        DONE,
    )
    async with JobBench(tmp_path) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        await bench.until(progress_of(steps_done=3))
        script.release()
        assert (await bench.manager.wait(record.request.uuid)).state is JobState.DONE


async def test_worker_socket_is_closed_to_others(tmp_path: Path) -> None:
    async with JobBench(tmp_path):
        assert (tmp_path / "worker.sock").stat().st_mode & 0o777 == 0o600


async def test_socket_of_a_killed_daemon_is_taken_over(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as leftover:
        leftover.bind(str(tmp_path / "worker.sock"))
    async with JobBench(tmp_path):
        pass


# Cancel


async def test_cancelled_job_says_so_before_and_after(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["ready"], ["hold"])
    async with JobBench(tmp_path) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        await bench.manager.cancel(record.request.uuid)
        ended = await bench.manager.wait(record.request.uuid)
    states = [event.record.state for event in bench.events]
    assert states == [JobState.RUNNING, JobState.CANCELLING, JobState.CANCELLED]
    assert ended.state is JobState.CANCELLED
    assert [await asyncio.to_thread(identify, pid) for pid in script.pids()] == [None]


async def test_worker_deaf_to_cancelling_is_killed_with_its_children(
    tmp_path: Path, script: WorkerScript
) -> None:
    script.steps(["deaf"], ["child"], ["ready"], ["hold"])
    async with JobBench(tmp_path, limits=Limits(cancel_secs=0.2)) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        child = await asyncio.to_thread(identify, int((script.sysroot / "child").read_text()))
        assert child is not None
        await bench.manager.cancel(record.request.uuid)
        await bench.manager.cancel(record.request.uuid)  # again is no error
        with pytest.raises(Busy):  # and does not join a job on its way out
            await bench.manager.create(script.request(), SOMEBODY)
        ended = await bench.manager.wait(record.request.uuid)
    assert ended.state is JobState.CANCELLED
    async with asyncio.timeout(10):  # killed at once with the worker, though not dead at the very same moment
        await process.wait(child)


async def test_job_that_finishes_in_spite_of_cancelling_is_done(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["deaf"], ["ready"], ["hold"], DONE)
    async with JobBench(tmp_path) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        await bench.manager.cancel(record.request.uuid)
        script.release()
        assert (await bench.manager.wait(record.request.uuid)).state is JobState.DONE


async def test_step_that_must_run_to_its_end_is_not_cancelled(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["ready"], ["progress", {"phase": "stage", "cancellable": False}], ["hold"], DONE)
    async with JobBench(tmp_path) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        await bench.until(progress_of(cancellable=False))
        with pytest.raises(NotCancellable, match="stage"):
            await bench.manager.cancel(record.request.uuid)
        script.release()
        assert (await bench.manager.wait(record.request.uuid)).state is JobState.DONE
        with pytest.raises(NotCancellable, match="ended"):
            await bench.manager.cancel(record.request.uuid)


async def test_job_that_is_not_there_is_a_typed_error(tmp_path: Path) -> None:
    async with JobBench(tmp_path) as bench:
        with pytest.raises(NoSuchJob):
            await bench.manager.cancel(str(uuid4()))
        with pytest.raises(NoSuchJob):
            await bench.manager.wait(str(uuid4()))


# Watchdog and bounds


@pytest.mark.parametrize("deaf", [False, True], ids=["hears", "deaf"])
async def test_silent_worker_is_stopped_as_stalled(tmp_path: Path, script: WorkerScript, deaf: bool) -> None:
    script.steps(*([["deaf"]] if deaf else []), ["ready"], ["hold"])
    async with JobBench(tmp_path, limits=Limits(stall_secs=0.3, cancel_secs=0.2)) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        ended = await bench.manager.wait(record.request.uuid)
    assert ended.state is JobState.FAILED
    assert ended.outcome is not None
    assert ended.outcome.error is not None
    assert ended.outcome.error.name == "Stalled"


async def test_worker_that_speaks_is_not_stalled(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["ready"], *([["hold"], ["progress", {"steps_done": 1}]] * 4), DONE)
    async with JobBench(tmp_path, limits=Limits(stall_secs=0.6)) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        for _ in range(4):
            await asyncio.sleep(0.25)  # in all longer than the patience, at a time shorter
            script.release()
        assert (await bench.manager.wait(record.request.uuid)).state is JobState.DONE


async def test_log_of_a_chatty_worker_is_bounded(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["ready"], ["print", 1500], ["progress", {"steps_done": 1}], ["hold"], ["print", 2], DONE)
    async with JobBench(tmp_path, limits=Limits(look_secs=0.05)) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        await bench.until(progress_of(steps_done=1))
        log = bench.store.directory(record.request.uuid) / "log"
        await eventually(lambda: log.stat().st_size == 0)
        script.release()
        await bench.manager.wait(record.request.uuid)
    assert log.stat().st_size == 2000


async def test_full_disk_is_the_callers_error(
    tmp_path: Path, script: WorkerScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    async with JobBench(tmp_path) as bench:
        monkeypatch.setattr(bench.store, "create", full)
        with pytest.raises(OutOfSpace):
            await bench.manager.create(script.request(), SOMEBODY)
        assert not bench.manager.busy
    assert script.pids() == []


# Lingering


async def test_ended_job_lingers_and_is_then_forgotten(tmp_path: Path, script: WorkerScript) -> None:
    async with JobBench(tmp_path, limits=Limits(linger_secs=0.2)) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        ended = await bench.manager.wait(record.request.uuid)
        assert bench.manager.jobs() == (ended,)
        assert await bench.manager.wait(record.request.uuid) == ended
        await bench.until(lambda event: isinstance(event, JobForgotten))
        assert bench.manager.jobs() == ()
        with pytest.raises(NoSuchJob):
            await bench.manager.wait(record.request.uuid)
        assert await bench.manager.history(10) == [ended]


async def test_uuid_of_a_job_that_was_forgotten_begins_no_other(tmp_path: Path, script: WorkerScript) -> None:
    long_ago = ended_record(1, script.request())
    async with JobBench(tmp_path, limits=Limits(linger_secs=0.2)) as bench:
        await asyncio.to_thread(bench.history.add, long_ago)
        assert await bench.manager.retried(script.request(), SOMEBODY) is None
        kept = await bench.manager.create(script.request(), SOMEBODY)
        await bench.until(lambda event: isinstance(event, JobForgotten))
        for request in (kept.request, long_ago.request):
            with pytest.raises(InvalidArguments, match="ended long ago"):
                await bench.manager.retried(request, SOMEBODY)


async def test_lingering_jobs_are_bounded(
    tmp_path: Path, script: WorkerScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager_module, "LINGERING", 2)
    async with JobBench(tmp_path) as bench:
        for _ in range(4):
            record = await bench.manager.create(script.request(), SOMEBODY)
            await bench.manager.wait(record.request.uuid)
        await asyncio.sleep(0)
        assert [record.number for record in bench.manager.jobs()] == [3, 4]


# The next daemon


async def test_job_goes_on_without_the_daemon_and_is_adopted(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["ready"], ["hold"], ["progress", {"steps_done": 5}], ["hold"], DONE)
    async with JobBench(tmp_path) as bench:
        record = await bench.manager.create(script.request(JobKind.UPGRADE), SOMEBODY)
    async with JobBench(tmp_path) as bench:
        assert bench.manager.jobs() == (record,)
        assert bench.manager.busy
        with pytest.raises(Busy):
            await bench.manager.create(script.request(JobKind.CHECK), SOMEBODY)
        assert await bench.manager.create(script.request(JobKind.UPGRADE), SOMEBODY) == record
        script.release()
        await bench.until(progress_of(steps_done=5))
        script.release()
        ended = await bench.manager.wait(record.request.uuid)
        assert ended.state is JobState.DONE
        assert bench.settled == [ended]
        assert (await bench.manager.create(script.request(), SOMEBODY)).number == 2
        script.release()
        script.release()
        await bench.until(lambda event: has_ended(event) and event.record.number == 2)


async def test_adopted_job_can_be_cancelled(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["ready"], ["hold"])
    async with JobBench(tmp_path) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
    async with JobBench(tmp_path) as bench:
        await bench.manager.cancel(record.request.uuid)
        assert (await bench.manager.wait(record.request.uuid)).state is JobState.CANCELLED


async def test_cancelling_goes_on_in_the_next_daemon(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["deaf"], ["ready"], ["hold"])
    async with JobBench(tmp_path) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        await bench.manager.cancel(record.request.uuid)
    async with JobBench(tmp_path, limits=Limits(cancel_secs=0.1)) as bench:
        assert (await bench.manager.wait(record.request.uuid)).state is JobState.CANCELLED


@pytest.mark.parametrize(
    ("last", "state"),
    [(DONE, JobState.DONE), (["kill"], JobState.INTERRUPTED)],
    ids=["with-outcome", "without"],
)
async def test_job_that_ended_without_a_daemon_ends_in_the_next(
    tmp_path: Path, script: WorkerScript, last: list[Any], state: JobState
) -> None:
    script.steps(["ready"], ["hold"], last)
    async with JobBench(tmp_path) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
    script.release()
    await asyncio.to_thread(os.waitpid, script.pids()[0], 0)
    async with JobBench(tmp_path) as bench:
        assert [type(event) for event in bench.events] == [JobAdded, JobChanged]
        ended = await bench.manager.wait(record.request.uuid)
        assert ended.state is state
        assert not bench.manager.busy
    assert await bench.remembered() == [ended]
    assert await bench.stored() == [ended]


async def test_process_that_got_the_pid_of_a_worker_is_left_alone(
    tmp_path: Path, script: WorkerScript
) -> None:
    bench = JobBench(tmp_path)
    mine = await asyncio.to_thread(identify, os.getpid())
    assert mine is not None
    handle = WorkerHandle(pid=mine.pid, start_ticks=mine.start_ticks - 1)
    record = ended_record(1, script.request(), state=JobState.CANCELLING, finished=None, worker=handle)
    await asyncio.to_thread(bench.store.create, record)
    async with bench:
        ended = await bench.manager.wait(record.request.uuid)
        assert ended.state is JobState.CANCELLED


@pytest.mark.parametrize(
    "worker", [None, WorkerHandle(), WorkerHandle(pid=-1)], ids=["none", "empty", "bad-pid"]
)
async def test_job_that_never_got_a_worker_is_interrupted(
    tmp_path: Path, script: WorkerScript, worker: WorkerHandle | None
) -> None:
    bench = JobBench(tmp_path)
    record = ended_record(4, script.request(), state=JobState.RUNNING, finished=None, worker=worker)
    await asyncio.to_thread(bench.store.create, record)
    async with bench:
        assert bench.record(record.request.uuid).state is JobState.INTERRUPTED
        assert (await bench.manager.create(script.request(), SOMEBODY)).number == 5


async def test_ended_job_lingers_over_a_restart_for_the_rest_of_its_time(
    tmp_path: Path, script: WorkerScript
) -> None:
    clock = SetClock()
    async with JobBench(tmp_path, clock=clock) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        ended = await bench.manager.wait(record.request.uuid)
    clock.move(minutes=4)
    async with JobBench(tmp_path, clock=clock) as bench:
        assert bench.manager.jobs() == (ended,)
        assert await bench.manager.wait(record.request.uuid) == ended
    clock.move(minutes=2)
    async with JobBench(tmp_path, clock=clock) as bench:
        assert bench.manager.jobs() == ()
        assert await bench.manager.history(5) == [ended]


async def test_numbers_go_on_where_history_left_off(tmp_path: Path, script: WorkerScript) -> None:
    bench = JobBench(tmp_path)
    await asyncio.to_thread(bench.history.add, ended_record(41))
    async with bench:
        assert (await bench.manager.create(script.request(), SOMEBODY)).number == 42


async def test_history_that_is_a_directory_does_not_stop_jobs(tmp_path: Path, script: WorkerScript) -> None:
    (tmp_path / "history.sqlite").mkdir()
    async with JobBench(tmp_path) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        assert (await bench.manager.wait(record.request.uuid)).state is JobState.DONE


async def test_worker_killed_at_any_time_always_ends_its_job(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["ready"], ["hold"], DONE)
    async with JobBench(tmp_path) as bench:
        for _ in range(5):
            record = await bench.manager.create(script.request(), SOMEBODY)
            os.kill(script.pids()[-1], signal.SIGKILL)
            assert (await bench.manager.wait(record.request.uuid)).state is JobState.INTERRUPTED
