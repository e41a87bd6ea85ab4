"""Tests of SystemdRunner that need a user manager; run by test_systemd_runner.py inside one."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from bootcd.host import process
from bootcd.jobs.manager import Limits
from bootcd.jobs.records import JobStore
from bootcd.jobs.runner import HandleRunner, SubprocessRunner, SystemdRunner, unconfined
from bootcd.model.errors import BackendFailed
from bootcd.model.job import JobState, WorkerHandle
from tests.support.jobs import DONE, SOMEBODY, JobBench, WorkerScript, eventually

UNIT = "bootcd-job-{}.service"


def user_runner() -> SystemdRunner:
    return SystemdRunner(Path(os.environ["XDG_RUNTIME_DIR"], "worker.env"), "user")


def runner_of(store: JobStore) -> HandleRunner:
    units, processes = user_runner(), SubprocessRunner(store.open_log)
    return HandleRunner(units, units=units, processes=processes)


def show(unit: str, *names: str) -> dict[str, str]:
    options = [f"--property={name}" for name in names]
    done = subprocess.run(
        ["systemctl", "--user", "show", *options, unit], capture_output=True, text=True, check=True
    )
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


async def test_job_runs_in_a_unit_of_its_own(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["ready"], ["hold"], DONE)
    async with JobBench(tmp_path, runner=runner_of) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        unit = UNIT.format(record.request.uuid)
        assert record.worker == WorkerHandle(unit=unit)
        shown = show(unit, "MainPID", "KillMode", "Nice", "MemoryHigh", "TimeoutStopUSec", "Type")
        assert shown == {
            "MainPID": str(script.pids()[0]),
            "KillMode": "mixed",
            "Nice": "5",
            "MemoryHigh": str(512 << 20),
            "TimeoutStopUSec": "30s",
            "Type": "exec",
        }
        script.release()
        assert (await bench.manager.wait(record.request.uuid)).state is JobState.DONE
        await eventually(lambda: show(unit, "LoadState")["LoadState"] == "not-found")


async def test_command_outside_of_the_sandbox_answers_as_if_it_were_within() -> None:
    script = "echo $0; echo told >&2; exit 1"
    command = unconfined(("sh", "-c", script, "word"), "systemd", scope="user", limit_secs=60)
    done = await process.run(command, deadline_secs=60, limit=4096)
    assert (done.status, done.stdout.splitlines()[0], done.stderr) == (1, b"word", b"told\n")
    within = ("sh", "-c", "cat /proc/self/cgroup")
    elsewhere = await process.run(
        unconfined(within, "systemd", scope="user", limit_secs=60), deadline_secs=60, limit=4096
    )
    assert b"/run-" in elsewhere.stdout
    assert unconfined(within, "subprocess", limit_secs=60) == within
    long = unconfined(("sleep", "600"), "systemd", scope="user", limit_secs=0.5)
    assert (await process.run(long, deadline_secs=60, limit=4096)).status != 0


async def test_unit_outlives_the_daemon_and_is_adopted(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["ready"], ["hold"], ["progress", {"steps_done": 2}], ["hold"], DONE)
    async with JobBench(tmp_path, runner=runner_of) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
    async with JobBench(tmp_path, runner=runner_of) as bench:
        assert bench.manager.jobs() == (record,)
        script.release()
        await bench.until(lambda event: event.record.progress.steps_done == 2)
        script.release()
        assert (await bench.manager.wait(record.request.uuid)).state is JobState.DONE


async def test_unit_that_ended_without_a_daemon_ends_its_job_in_the_next(
    tmp_path: Path, script: WorkerScript
) -> None:
    script.steps(["ready"], ["hold"], DONE)
    async with JobBench(tmp_path, runner=runner_of) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        assert record.worker is not None
        unit = record.worker.unit
    script.release()
    await eventually(lambda: show(unit, "LoadState")["LoadState"] == "not-found")
    async with JobBench(tmp_path, runner=runner_of) as bench:
        assert bench.record(record.request.uuid).state is JobState.DONE


async def test_cancelled_unit_writes_its_outcome(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["ready"], ["hold"])
    async with JobBench(tmp_path, runner=runner_of) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        await bench.manager.cancel(record.request.uuid)
        ended = await bench.manager.wait(record.request.uuid)
        assert ended.state is JobState.CANCELLED
        assert await asyncio.to_thread(bench.store.read_outcome, record.request.uuid) == ended.outcome


async def test_deaf_unit_is_killed_with_its_children(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["deaf"], ["child"], ["ready"], ["hold"])
    async with JobBench(tmp_path, runner=runner_of, limits=Limits(cancel_secs=0.3)) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        await bench.manager.cancel(record.request.uuid)
        assert (await bench.manager.wait(record.request.uuid)).state is JobState.CANCELLED
        child = int((script.sysroot / "child").read_text())
        await eventually(lambda: not Path(f"/proc/{child}").exists())


async def test_killed_unit_is_interrupted_and_leaves_nothing_behind(
    tmp_path: Path, script: WorkerScript
) -> None:
    script.steps(["child"], ["ready"], ["kill"])
    async with JobBench(tmp_path, runner=runner_of) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        assert (await bench.manager.wait(record.request.uuid)).state is JobState.INTERRUPTED
        unit = UNIT.format(record.request.uuid)
        # Also failed units are gone, so that nothing piles up.
        await eventually(lambda: show(unit, "LoadState")["LoadState"] == "not-found")
        child = int((script.sysroot / "child").read_text())
        await eventually(lambda: not Path(f"/proc/{child}").exists())


async def test_job_of_the_other_runner_is_adopted_too(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["ready"], ["hold"], DONE)
    async with JobBench(tmp_path) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
    async with JobBench(tmp_path, runner=runner_of) as bench:
        assert bench.manager.busy
        script.release()
        assert (await bench.manager.wait(record.request.uuid)).state is JobState.DONE


async def test_proxy_of_the_daemon_reaches_the_worker_and_nobody_else(
    tmp_path: Path, script: WorkerScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = r"http://user:secret\"$HOME`x%n\\@proxy.example:3128"
    monkeypatch.setenv("https_proxy", address)
    script.steps(["ready"], ["hold"], DONE)
    async with JobBench(tmp_path, runner=runner_of) as bench:
        record = await bench.manager.create(script.request(), SOMEBODY)
        proc = Path("/proc") / str(script.pids()[0])
        assert f"https_proxy={address}\0".encode() in (proc / "environ").read_bytes()
        assert b"secret" not in (proc / "cmdline").read_bytes()
        unit = UNIT.format(record.request.uuid)
        everything = subprocess.run(
            ["systemctl", "--user", "show", "--all", unit], capture_output=True, text=True, check=True
        ).stdout
        assert "worker.env" in everything
        assert "secret" not in everything
        script.release()
        await bench.manager.wait(record.request.uuid)


async def test_command_that_does_not_exist_is_a_typed_error_and_no_job() -> None:
    async def journal(_: WorkerHandle) -> None:
        return

    with pytest.raises(BackendFailed, match="systemd-run failed"):
        await user_runner().start("00", ["/does/not/exist"], journal)


async def test_worker_that_a_slow_manager_starts_too_late_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real systemd-run has done its work when the time for it is over."""
    slow = tmp_path / "bin/systemd-run"
    slow.parent.mkdir()
    slow.write_text(
        f'#!/bin/sh\n{shutil.which("systemd-run")} "$@" && : >{tmp_path}/started\nexec sleep 600\n'
    )
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    real = process.run

    async def hurried(argv: Sequence[str], *, deadline_secs: float, limit: int) -> process.Completed:
        if argv[0] != "systemd-run":
            return await real(argv, deadline_secs=deadline_secs, limit=limit)
        running = asyncio.create_task(real(argv, deadline_secs=deadline_secs, limit=limit))
        while not await asyncio.to_thread((tmp_path / "started").exists):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)
        assert await user_runner().alive(WorkerHandle(unit=UNIT.format("late")))
        running.cancel()
        await asyncio.wait([running])
        raise TimeoutError

    monkeypatch.setattr(process, "run", hurried)

    async def journal(_: WorkerHandle) -> None:
        return

    with pytest.raises(BackendFailed, match="systemd-run did not answer within"):
        await user_runner().start("late", ["sleep", "600"], journal)
    await eventually(lambda: show(UNIT.format("late"), "LoadState")["LoadState"] == "not-found")


async def test_signals_to_a_unit_that_is_gone_are_no_error() -> None:
    runner, handle = user_runner(), WorkerHandle(unit=UNIT.format("gone"))
    assert not await runner.alive(handle)
    await runner.terminate(handle)
    await runner.kill(handle)
    await runner.wait(handle)


async def test_manager_that_does_not_answer_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere/bus")
    with pytest.raises(BackendFailed, match="systemctl failed"):
        await user_runner().alive(WorkerHandle(unit=UNIT.format("any")))
    assert await process.run(["true"], deadline_secs=5, limit=100)
