"""A worker that dies with a registry's credential in its memory, where others would leave a core dump."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import resource
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from bootcd.model.job import JobKind
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.host import prepare_job, worker_command
from tests.support.machine import REPOSITORY
from tests.support.oci_image import file, make_image, make_layer
from tests.support.registry import PASSWORD, USER, Registry

LOGIN = base64.b64encode(f"{USER}:{PASSWORD}".encode())
SECRETS = (PASSWORD.encode(), LOGIN)


def start(command: Sequence[str], directory: Path) -> subprocess.Popen[bytes]:
    """Start a program that may dump as much of a core as this machine allows, into an empty directory."""
    directory.mkdir()
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    return subprocess.Popen(
        command,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (hard, hard)),
    )


def dumps_core(process: subprocess.Popen[bytes]) -> bool:
    """Let a process die as by a fault of its own; whether the kernel dumped its core."""
    process.send_signal(signal.SIGABRT)
    _, status = os.waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == -signal.SIGABRT
    return os.WCOREDUMP(status)


def in_memory(pid: int, secrets: Sequence[bytes]) -> bool:
    """Whether a process has one of these in its memory, as a core dump would show it."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, mode, *_ = line.split()
            if not mode.startswith("rw"):
                continue
            start, end = (int(number, 16) for number in span.split("-"))
            memory.seek(start)
            try:
                data = memory.read(end - start)
            except OSError:
                continue
            if any(secret in data for secret in secrets):
                return True
    return False


@pytest.mark.timeout(120)
async def test_worker_that_dies_with_a_credential_in_its_memory_leaves_no_core(tmp_path: Path) -> None:
    layer = make_layer([file("usr/lib/modules/6.1/vmlinuz", b"kernel")])
    (tmp_path / "auth.json").touch(mode=0o600)
    (tmp_path / "registry").mkdir()
    sysroot = tmp_path / "sysroot"
    sysroot.mkdir()
    subprocess.run(["ostree", "admin", "init-fs", "--modern", sysroot], check=True)
    subprocess.run(["ostree", "admin", f"--sysroot={sysroot}", "os-init", "default"], check=True)
    async with (
        Registry(tmp_path / "registry", basic_auth=True) as registry,
        FaultProxy(registry.url) as proxy,
    ):
        await registry.push("os", "1", make_image([layer]))
        (tmp_path / "auth.json").write_text(json.dumps({"auths": {proxy.host: {"auth": LOGIN.decode()}}}))
        proxy.inject(Fault(silent=True), path=layer.digest, always=True)
        job, request = prepare_job(
            tmp_path, JobKind.SWITCH, image=f"{proxy.host}/os:1", sysroot=sysroot, registry=proxy.host
        )
        settings = request.settings.model_copy(update={"auth_files": (str(tmp_path / "auth.json"),)})
        (job / "request.json").write_text(request.model_copy(update={"settings": settings}).model_dump_json())
        worker = await asyncio.to_thread(start, worker_command(job), tmp_path / "worker")
        other = await asyncio.to_thread(start, ["sleep", "600"], tmp_path / "other")
        try:
            async with asyncio.timeout(60):
                await proxy.wait_for(layer.digest)
            # What would be in a core, and that this machine writes one: else nothing is shown here.
            assert in_memory(worker.pid, SECRETS)
            assert dumps_core(other)
            assert not dumps_core(worker)
        finally:
            for process in (worker, other):
                if process.returncode is None:
                    process.kill()
                    process.wait()
    assert list((tmp_path / "worker").iterdir()) == []
