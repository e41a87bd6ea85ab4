"""Programs that pull an image, ours and others of their kind, each measured the same way.

A contender gets an empty file system and one version after the other. What it can reuse of the one before is
its own affair. bootcd is measured twice in one run: up to the moment everything is in the repository and on
the disk, and to the end of its job, which deploys.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import struct
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from bootcd.model.job import JobKind, Phase, WorkerMessage
from tests.bench.measure import Sample, cpu_secs_of, measure
from tests.support.host import PYTHON, REPOSITORY_NAME, prepare_job, worker_command
from tests.support.machine import Machine
from tests.support.registry import Registry

SKOPEO = "skopeo copy"
IMPORT = "bootcd: pull, import, publish"
DEPLOY = "bootcd: whole job, deployed"
PODMAN = "podman pull"
BOOTC = "the bootc way, emulated"

Samples = dict[str, Sample]


class Contender(AbstractAsyncContextManager["Contender"]):
    """Pulls from one registry onto one file system. `work` holds what must not be on that."""

    def __init__(self, registry: Registry, disk: Path, work: Path) -> None:
        self._registry = registry
        self._disk = disk
        self._work = work

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the file system."""

    async def pull(self, tag: str) -> Samples:
        """Bring a version here and return what it took, by what was done."""
        before = await self._registry.settled()
        samples = await self._pull(tag, self._reference(tag))
        wire = await self._registry.settled() - before
        return {name: replace(sample, wire_bytes=wire) for name, sample in samples.items()}

    async def _pull(self, tag: str, reference: str) -> Samples:
        raise NotImplementedError

    def _reference(self, tag: str) -> str:
        return f"{self._registry.host}/{REPOSITORY_NAME}:{tag}"

    async def _run(self, *command: str | Path) -> Sample:
        return await measure(command, self._work / "log")


class Skopeo(Contender):
    """Stores the compressed layers and unpacks nothing: what the download alone takes."""

    async def _pull(self, tag: str, reference: str) -> Samples:
        command = ["skopeo", "copy", "--quiet", "--insecure-policy", "--src-tls-verify=false"]
        target = f"oci:{self._disk}/layout:{tag}"
        return {SKOPEO: await self._run(*command, f"docker://{reference}", target)}


class Podman(Contender):
    async def _pull(self, tag: str, reference: str) -> Samples:
        # A store of its own; the machine's containers are nobody's business here.
        store: list[str | Path] = ["--root", self._disk / "root", "--runroot", self._disk / "run"]
        command = ["pull", "--quiet", "--tls-verify=false", reference]
        return {PODMAN: await self._run("podman", *store, *command)}

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # It leaves its store mounted over itself.
        await self._run(
            "sh", "-c", f"! mountpoint -q {self._disk}/root/overlay || umount {self._disk}/root/overlay"
        )


class BootcWay(Contender):
    async def _pull(self, tag: str, reference: str) -> Samples:
        script: list[str | Path] = [PYTHON, "-m", "tests.bench.bootc_way", self._disk / "repo"]
        return {BOOTC: await self._run(*script, reference.removesuffix(f":{tag}"), tag)}


class Bootcd(Contender):
    """The worker, as the daemon starts it; class members are settings of the section `[registry]`."""

    partial_pulls = "auto"
    partial_proof = "archive"
    max_bandwidth_bytes = 0

    async def __aenter__(self) -> Self:
        self._machine = await Machine.create(self._disk / "machine")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._machine.close()

    async def _pull(self, tag: str, reference: str) -> Samples:
        job, request = prepare_job(
            self._work,
            JobKind.SWITCH,
            image=reference,
            sysroot=self._machine.sysroot,
            registry=self._registry.host,
        )
        update = {
            "partial_pulls": self.partial_pulls,
            "partial_proof": self.partial_proof,
            "max_bandwidth_bytes": self.max_bandwidth_bytes,
        }
        settings = request.settings.model_copy(update=update)
        (job / "request.json").write_text(request.model_copy(update={"settings": settings}).model_dump_json())
        phases = _Phases(job / "socket")
        started = time.monotonic()
        try:
            whole = await self._run(*worker_command(job))
        finally:
            phases.close()
        outcome = json.loads((job / "outcome.json").read_text())
        if outcome["state"] != "done":
            raise RuntimeError(f"the worker failed: {outcome}")
        moment, cpu = phases.reached[Phase.STAGE]
        return {IMPORT: Sample(moment - started, cpu, whole.peak_bytes), DEPLOY: whole}


class BootcdTable(Bootcd):
    """With partial pulls that are proved by tables of contents."""

    partial_proof = "table"


class BootcdWhole(Bootcd):
    """Without partial pulls."""

    partial_pulls = "never"


def contenders() -> list[type[Contender]]:
    """Return all whose programs this machine has."""
    others = {"skopeo": Skopeo, "podman": Podman, "ostree": BootcWay}
    return [Bootcd, *(kind for program, kind in others.items() if shutil.which(program))]


class _Phases:
    """Hears the worker as the daemon does; when it got to a phase, and at what cost of CPU time."""

    def __init__(self, path: Path) -> None:
        self.reached: dict[Phase, tuple[float, float]] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.setblocking(False)
        self._socket.bind(str(path))
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        data, ancillary, _, _ = self._socket.recvmsg(8192, socket.CMSG_SPACE(12))
        (pid, _, _) = struct.unpack("3i", ancillary[0][2])
        message = WorkerMessage.model_validate_json(data)
        if message.progress is not None and message.progress.phase not in self.reached:
            self.reached[message.progress.phase] = time.monotonic(), cpu_secs_of(pid)
