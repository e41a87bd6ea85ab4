"""Hooks found in their directories and run for real, by themselves and around a job."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from bootcd.bootc.command import Bootc
from bootcd.engine import bootc as bootc_module
from bootcd.engine.bootc import BootcEngine
from bootcd.engine.hooks import Hooks, Point, Subject
from bootcd.model.errors import HookFailed
from bootcd.model.job import JobKind, JobRequest, Progress, WorkerSettings
from tests.support.bootc_stand_in import BootcStandIn, composefs_entry, composefs_host

UUID = "7f2c1c0e-0000-4000-8000-000000000000"
SUBJECT = Subject(UUID, "upgrade", "quay.io/example/os:1", "sha256:" + "a" * 64, "2")


def hook(path: Path, text: str, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return path


def of_etc(root: Path, point: Point, name: str = "10-test") -> Path:
    return root / "etc/bootcd/hooks.d" / point / name


def hooks(root: Path, *, deadline_secs: float = 60) -> Hooks:
    return Hooks(root, deadline_secs=deadline_secs)


async def ask(root: Path, *, deadline_secs: float = 60) -> None:
    one = hooks(root, deadline_secs=deadline_secs)
    await one.require(Point.PRE_STAGE, SUBJECT, lambda _: None, Progress())


async def test_hook_is_told_the_version_and_nothing_of_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://user:password@proxy.example")
    hook(of_etc(tmp_path, Point.PRE_STAGE), f"env >{tmp_path}/told")

    await ask(tmp_path)

    told = dict(line.split("=", 1) for line in (tmp_path / "told").read_text().splitlines())
    assert {name: value for name, value in told.items() if name.startswith("BOOTCD_")} == {
        "BOOTCD_HOOK": "pre-stage",
        "BOOTCD_JOB": UUID,
        "BOOTCD_KIND": "upgrade",
        "BOOTCD_IMAGE": "quay.io/example/os:1",
        "BOOTCD_DIGEST": SUBJECT.digest,
        "BOOTCD_VERSION": "2",
    }
    # The first four are the shell's own.
    own = {"PWD", "OLDPWD", "SHLVL", "_", "PATH", "LANG"}
    assert {name for name in told if not name.startswith("BOOTCD_")} <= own
    assert "password" not in (tmp_path / "told").read_text()


async def test_version_of_an_image_is_told_as_one_bounded_line(tmp_path: Path) -> None:
    hook(of_etc(tmp_path, Point.POST_STAGE), f'printf %s "$BOOTCD_VERSION" >{tmp_path}/told')

    hostile = Subject(version="1\0\nLD_PRELOAD=x" + "9" * 5000)
    assert await hooks(tmp_path).tell(Point.POST_STAGE, hostile) == ()

    told = (tmp_path / "told").read_text()
    assert told.startswith("1? LD_PRELOAD=x9")
    assert len(told) == 1024


async def test_hook_that_refuses_is_named_with_its_last_line_and_ends_it(tmp_path: Path) -> None:
    first = hook(of_etc(tmp_path, Point.PRE_STAGE), "echo asking; echo no backup yet >&2; exit 4")
    hook(of_etc(tmp_path, Point.PRE_STAGE, "20-later"), f"touch {tmp_path}/ran")

    with pytest.raises(HookFailed) as raised:
        await ask(tmp_path)

    assert raised.value.message == f"the pre-stage hook {first} refused: exit status 4: no backup yet"
    assert raised.value.fields == {"hook": str(first)}
    assert not (tmp_path / "ran").exists()


async def test_hook_that_hangs_is_killed_and_refuses(tmp_path: Path) -> None:
    hook(of_etc(tmp_path, Point.PRE_STAGE), "sleep 600 & wait")

    with pytest.raises(HookFailed, match=r"has not ended after 0\.2 s"):
        await ask(tmp_path, deadline_secs=0.2)


async def test_hook_ends_with_the_job_that_is_cancelled(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    hook(of_etc(tmp_path, Point.PRE_STAGE), f"echo $$ >{tmp_path}/pipe; exec sleep 600")
    job = asyncio.create_task(ask(tmp_path))
    async with asyncio.timeout(40):
        pid = (await asyncio.to_thread((tmp_path / "pipe").read_text)).strip()

    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job

    assert not Path("/proc", pid).exists()


async def test_hook_of_the_image_is_replaced_and_switched_off_by_etc(tmp_path: Path) -> None:
    image = tmp_path / "usr/lib/bootcd/hooks.d/pre-stage"
    hook(image / "10-test", "exit 1")
    hook(image / "20-off", "exit 1")
    hook(of_etc(tmp_path, Point.PRE_STAGE), "true")
    of_etc(tmp_path, Point.PRE_STAGE, "20-off").symlink_to("/dev/null")

    await ask(tmp_path)


async def test_all_hooks_of_what_has_happened_run_and_those_that_fail_are_told(tmp_path: Path) -> None:
    first = hook(of_etc(tmp_path, Point.POST_STAGE), "echo full; exit 1")
    plain = hook(of_etc(tmp_path, Point.POST_STAGE, "20-plain"), "true", 0o644)
    hook(of_etc(tmp_path, Point.POST_STAGE, "30-last"), f"touch {tmp_path}/ran")

    assert await hooks(tmp_path).tell(Point.POST_STAGE, SUBJECT) == (
        f"the post-stage hook {first} failed: exit status 1: full",
        f"the post-stage hook {plain} failed: is not executable",
    )
    assert (tmp_path / "ran").exists()


async def test_directory_that_cannot_be_listed_refuses(tmp_path: Path) -> None:
    place = of_etc(tmp_path, Point.PRE_STAGE).parent
    place.parent.mkdir(parents=True)
    place.touch()

    with pytest.raises(HookFailed, match="cannot be listed"):
        await ask(tmp_path)


# Around jobs of a host that bootc drives


@pytest.fixture
def bootc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BootcStandIn:
    stand_in = BootcStandIn(tmp_path / "bin")
    stand_in.answer("host.json", composefs_host())

    async def reboot() -> None:
        (tmp_path / "rebooted").touch()

    monkeypatch.setattr(bootc_module, "reboot", reboot)
    return stand_in


def engine(bootc: BootcStandIn, root: Path) -> BootcEngine:
    return BootcEngine(Bootc(str(bootc.program)), WorkerSettings(hooks_root=str(root)))


def request(kind: JobKind, **options: object) -> JobRequest:
    return JobRequest.model_validate({"uuid": UUID, "kind": kind, **options})


async def test_upgrade_that_a_hook_refuses_is_not_begun(tmp_path: Path, bootc: BootcStandIn) -> None:
    hook(of_etc(tmp_path, Point.PRE_STAGE), "exit 1")

    with pytest.raises(HookFailed):
        await engine(bootc, tmp_path).run(request(JobKind.UPGRADE), lambda _: None)

    assert bootc.calls == []


async def test_upgrade_is_done_whatever_hooks_after_it_do(tmp_path: Path, bootc: BootcStandIn) -> None:
    bootc.answer("after.json", composefs_host(staged=composefs_entry("staged", "2")))
    hook(of_etc(tmp_path, Point.POST_STAGE), 'echo "not told of $BOOTCD_VERSION"; exit 1')

    outcome = await engine(bootc, tmp_path).run(request(JobKind.UPGRADE), lambda _: None)

    assert outcome.changed
    assert [warning.rpartition(": ")[2] for warning in outcome.warnings] == ["not told of 2"]


@pytest.mark.parametrize("kind", [JobKind.APPLY, JobKind.UPGRADE])
async def test_host_is_not_rebooted_if_a_hook_refuses(
    tmp_path: Path, bootc: BootcStandIn, kind: JobKind
) -> None:
    staged = composefs_host(staged=composefs_entry("staged", "2"))
    bootc.answer("host.json" if kind is JobKind.APPLY else "after.json", staged)
    path = hook(of_etc(tmp_path, Point.PRE_REBOOT), 'echo "$BOOTCD_KIND to $BOOTCD_VERSION"; exit 1')

    with pytest.raises(HookFailed, match=f"{kind} to 2"):
        await engine(bootc, tmp_path).run(request(kind, apply=True), lambda _: None)
    assert not (tmp_path / "rebooted").exists()

    path.unlink()
    assert (await engine(bootc, tmp_path).run(request(kind, apply=True), lambda _: None)).reboot
    assert (tmp_path / "rebooted").exists()
