"""A host driven through the bootc command, which a recording stand-in takes the place of."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from bootcd.bootc import command
from bootcd.bootc.command import Bootc
from bootcd.engine import bootc as engine_module
from bootcd.engine.bootc import BootcEngine
from bootcd.host.composefs import choose_backend
from bootcd.model.errors import (
    BootcdError,
    InvalidArguments,
    NotFound,
    SignatureRejected,
    Stalled,
    Unsupported,
    WrongState,
)
from bootcd.model.job import JobKind, JobRequest, Phase, Progress
from tests.support.bootc_stand_in import BootcStandIn, composefs_entry, composefs_host

UUID = "7f2c1c0e-0000-4000-8000-000000000000"
DIGEST = "sha256:" + "a" * 64
PULLING = {
    "type": "ProgressBytes",
    "task": "pulling",
    "id": DIGEST,
    "bytes": 10,
    "bytesTotal": 30,
    "subtasks": [],
}
STAGING = {
    "type": "ProgressSteps",
    "task": "staging",
    "id": "staging",
    "steps": 1,
    "stepsTotal": 3,
    "subtasks": [],
}


@pytest.fixture
def bootc(tmp_path: Path) -> BootcStandIn:
    stand_in = BootcStandIn(tmp_path / "bin")
    stand_in.answer("host.json", composefs_host())
    return stand_in


def engine(bootc: BootcStandIn) -> BootcEngine:
    return BootcEngine(Bootc(str(bootc.program)))


def request(kind: JobKind, **options: object) -> JobRequest:
    return JobRequest.model_validate({"uuid": UUID, "kind": kind, **options})


async def test_upgrade_reports_progress_and_what_it_staged(bootc: BootcStandIn) -> None:
    lines = [{"type": "Start", "version": "0.1.0"}, PULLING, {**PULLING, "bytes": 30}, STAGING]
    bootc.answer("progress", "".join(json.dumps(line) + "\n" for line in lines))
    bootc.answer("after.json", composefs_host(staged=composefs_entry("staged", "2")))
    seen: list[Progress] = []
    outcome = await engine(bootc).run(request(JobKind.UPGRADE), seen.append)
    assert [progress.phase for progress in seen] == [Phase.RESOLVE, Phase.FETCH, Phase.FETCH, Phase.STAGE]
    assert seen[1].digest == DIGEST
    assert (outcome.changed, outcome.bytes_fetched, outcome.reboot) == (True, 30, False)
    assert outcome.update is not None
    assert (outcome.update.version, outcome.update.image) == ("2", "quay.io/example/os:1")
    (call,) = bootc.calls
    assert call[:2] == ["upgrade", "--quiet"]
    assert int(call[2].removeprefix("--progress-fd=")) > 2


async def test_upgrade_without_news_changes_nothing(bootc: BootcStandIn) -> None:
    outcome = await engine(bootc).run(request(JobKind.UPGRADE, download_only=True), lambda _: None)
    assert (outcome.changed, outcome.update) == (False, None)
    assert "--download-only" in bootc.calls[0]


async def test_switch_passes_image_and_transport(bootc: BootcStandIn) -> None:
    bootc.answer("after.json", composefs_host(staged=composefs_entry("staged", "2")))
    image = {"image": "/mnt/os", "transport": "oci"}
    outcome = await engine(bootc).run(request(JobKind.SWITCH, **image), lambda _: None)
    assert outcome.changed
    assert bootc.calls[0][:4] == ["switch", "--quiet", "--transport=oci", "/mnt/os"]


async def test_options_are_passed_by_bootcs_names(bootc: BootcStandIn) -> None:
    options = {"tag": "2", "soft_reboot": "auto"}
    await engine(bootc).run(request(JobKind.UPGRADE, **options), lambda _: None)
    assert {"--tag=2", "--soft-reboot=auto"} <= set(bootc.calls[0])
    options = {"image": "quay.io/x/y:1", "enforce_container_sigpolicy": True, "retain": True}
    await engine(bootc).run(request(JobKind.SWITCH, **options), lambda _: None)
    assert {"--enforce-container-sigpolicy", "--retain", "quay.io/x/y:1"} <= set(bootc.calls[-1])


async def test_rollback_names_what_it_dropped(bootc: BootcStandIn) -> None:
    staged = composefs_entry("staged", "2")
    bootc.answer("host.json", composefs_host(staged=staged, rollback=composefs_entry("rollback", "0")))
    outcome = await engine(bootc).run(request(JobKind.ROLLBACK), lambda _: None)
    assert outcome.dropped == staged["image"]["imageDigest"]
    assert bootc.calls == [["rollback"]]


async def test_apply_unlocks_what_was_only_downloaded_and_reboots(
    bootc: BootcStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    reboots: list[int] = []

    async def reboot(*, soft: bool = False) -> None:
        reboots.append(1)

    monkeypatch.setattr(engine_module, "reboot", reboot)
    bootc.answer("host.json", composefs_host(staged=composefs_entry("staged", "2", downloadOnly=True)))
    outcome = await engine(bootc).run(request(JobKind.APPLY), lambda _: None)
    assert (outcome.changed, outcome.reboot, len(reboots)) == (True, True, 1)
    assert bootc.calls == [["upgrade", "--from-downloaded"]]


async def test_failure_is_typed_and_nothing_is_said_to_have_changed(bootc: BootcStandIn) -> None:
    bootc.answer("fail", "error: Upgrading: reading manifest 1 in quay.io/example/os: manifest unknown\n")
    with pytest.raises(NotFound, match=r"bootc cannot upgrade: .*manifest unknown"):
        await engine(bootc).run(request(JobKind.UPGRADE), lambda _: None)


async def test_cancelled_pull_is_stopped_by_a_signal(bootc: BootcStandIn) -> None:
    bootc.answer("progress", json.dumps(PULLING) + "\n")
    bootc.answer("wait", "")
    pulling = asyncio.Event()

    def report(progress: Progress) -> None:
        if progress.phase is Phase.FETCH:
            pulling.set()

    job = asyncio.create_task(engine(bootc).run(request(JobKind.UPGRADE), report))
    await asyncio.wait_for(pulling.wait(), 30)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert (bootc.directory / "stopped").read_text() == "SIGTERM"


async def test_pull_that_says_nothing_is_stopped(
    bootc: BootcStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "IDLE_DEADLINE_SECS", 1.0)
    bootc.answer("wait", "")
    with pytest.raises(Stalled, match="nothing for 1 s"):
        await engine(bootc).run(request(JobKind.UPGRADE), lambda _: None)


async def test_line_longer_than_any_is_passed_over(
    bootc: BootcStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "MAX_LINE_BYTES", 1 << 16)
    long = json.dumps({**PULLING, "description": "x" * (1 << 18)})
    bootc.answer("progress", f"{long}\nnot json\n{json.dumps(STAGING)}\n")
    seen: list[Progress] = []
    await engine(bootc).run(request(JobKind.UPGRADE), seen.append)
    assert [progress.phase for progress in seen][-1] is Phase.STAGE


def prepared(bootc: BootcStandIn, kind: JobKind, **options: object) -> None:
    engine(bootc).prepare(request(kind, **options))


@pytest.mark.parametrize(
    ("kind", "options", "error"),
    [
        (JobKind.ROLLBACK, {}, WrongState),
        (JobKind.APPLY, {}, WrongState),
        (JobKind.SWITCH, {"image": "quay.io/x/y:1", "download_only": True}, Unsupported),
        (JobKind.SWITCH, {"image": "--help"}, InvalidArguments),
        (JobKind.UPGRADE, {"apply": True, "download_only": True}, InvalidArguments),
        (JobKind.PIN, {"deployment": "booted"}, Unsupported),
        (JobKind.APPLY, {"soft_reboot": "required"}, Unsupported),
        (JobKind.UPGRADE, {"verified_only": True}, SignatureRejected),
    ],
    ids=["rollback", "apply", "download-only", "option", "contradiction", "verb", "soft", "verified"],
)
def test_request_that_cannot_work_is_refused_before_anything_is_done(
    bootc: BootcStandIn, kind: JobKind, options: dict[str, object], error: type[BootcdError]
) -> None:
    with pytest.raises(error):
        prepared(bootc, kind, **options)
    assert bootc.calls == []


def test_host_without_bootc_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="bootc"):
        BootcEngine(Bootc(str(tmp_path / "bootc"))).prepare(request(JobKind.UPGRADE))


def test_report_is_what_bootc_says(bootc: BootcStandIn) -> None:
    report = engine(bootc).read_report()
    assert json.loads(report.host.to_json()) == composefs_host()


def test_backend_is_that_of_how_the_host_was_booted(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cmdline").write_text("root=UUID=x rw\n")
    assert choose_backend("auto", tmp_path) == "ostree"
    (tmp_path / "proc/cmdline").write_text(f"composefs=?{'ab' * 64} rw\n")
    assert choose_backend("auto", tmp_path) == "bootc"
    assert choose_backend("ostree", tmp_path) == "ostree"


async def test_worker_of_a_composefs_host_prints_what_bootc_says(bootc: BootcStandIn, tmp_path: Path) -> None:
    (tmp_path / "root/proc").mkdir(parents=True)
    (tmp_path / "root/proc/cmdline").write_text(f"composefs={'ab' * 64} rw\n")
    path = f"{bootc.directory}:{os.environ['PATH']}"
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bootcd.worker", "inspect", f"--sysroot={tmp_path}/root"),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PATH": path},
    )
    printed, _ = await child.communicate()
    assert json.loads(printed)["host"] == composefs_host()
