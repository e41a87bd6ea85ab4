"""The first pull of an image: ours and those of its kind, one after another, round by round.

Every contender gets the image from the same registry onto a new file system. bootcd is measured twice in
one run: up to the moment everything is in the repository and on the disk, and to the end of its job, which
deploys. skopeo stores the compressed layers and unpacks nothing; it says what the download alone takes.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bootcd.model.job import JobKind, Phase, WorkerMessage
from tests.bench.filesystem import Ground
from tests.bench.floor import plan
from tests.bench.measure import Sample, cpu_secs_of, measure
from tests.bench.report import MIB, Comparison, Figure
from tests.support.host import PYTHON, REPOSITORY_NAME, prepare_job, worker_command
from tests.support.machine import Machine
from tests.support.os_image import OsImages
from tests.support.registry import Registry

SKOPEO = "skopeo copy to dir:"
IMPORT = "bootcd: pull, import, publish"
DEPLOY = "bootcd: whole job, deployed"
PODMAN = "podman pull"
FLOOR = "floor: hash, unpack, write"

_FLOOR_FACTOR = 1.7
_FLOOR_CORES = 2
"As many as the limit is stated for; more are no help to an image whose largest layer is half of it."

Contender = Callable[[Path], Awaitable[None]]


class ColdPull:
    """The scenario. `work` holds what must not be on the file systems measured."""

    def __init__(self, registry: Registry, images: OsImages, tag: str, work: Path) -> None:
        layers = plan(images.layout, images.digest(tag))
        megabytes = sum(layer["bytes"] for layer in layers) / MIB
        files = sum(len(layer["files"]) for layer in layers)
        title = (
            f"cold pull: {tag} of the test system, {megabytes:.0f} MiB in {len(layers)} layers, {files} files"
        )
        self.comparison = Comparison(title, SKOPEO)
        self._registry = registry
        self._reference = f"{registry.host}/{REPOSITORY_NAME}:{tag}"
        self._work = work
        self._plan = work / "plan.json"
        self._plan.write_text(json.dumps(layers))
        self._spent: dict[str, list[float]] = {}
        self._contenders: list[Contender] = [self._skopeo, self._bootcd, self._floor]
        if shutil.which("podman"):
            self._contenders.append(self._podman)

    async def round(self, number: int, ground: Ground) -> None:
        """Run every contender once, each time another one first."""
        turn = number % len(self._contenders)
        for contender in self._contenders[turn:] + self._contenders[:turn]:
            async with ground.new("cold") as disk:
                await contender(disk)

    def figures(self) -> list[Figure]:
        found = self.comparison
        floor = found.median(FLOOR, "cpu_secs")
        parts = ", ".join(f"{part} {sorted(secs)[len(secs) // 2]:.2f}" for part, secs in self._spent.items())
        found.notes = [
            f"floor: {floor:.2f} CPU s = {parts}, start of the interpreter; /{_FLOOR_CORES} cores",
            "only bootcd flushes what it wrote to the disk; peak is that of the largest process",
        ]
        wall = found.median(IMPORT, "wall_secs") / (floor / _FLOOR_CORES)
        cpu = found.median(IMPORT, "cpu_secs") / floor
        peak = max(sample.peak_bytes for sample in found.samples[DEPLOY]) / MIB
        return [
            Figure("pull and import, wall / (CPU floor / 2)", wall, "x", _FLOOR_FACTOR),
            Figure("pull and import, CPU / CPU floor", cpu, "x"),
            Figure("worker, peak memory", peak, "MiB", 200),
        ]

    async def _skopeo(self, disk: Path) -> None:
        command = ["skopeo", "copy", "--quiet", "--insecure-policy", "--src-tls-verify=false"]
        sample = await measure(
            [*command, f"docker://{self._reference}", f"dir:{disk}/copy"], self._work / "skopeo"
        )
        self.comparison.add(SKOPEO, sample)

    async def _podman(self, disk: Path) -> None:
        # A store of its own; the machine's containers are nobody's business here.
        command: list[str | Path] = [
            "podman",
            "--root",
            disk / "root",
            "--runroot",
            disk / "run",
            "pull",
            "--quiet",
        ]
        sample = await measure([*command, "--tls-verify=false", self._reference], self._work / "podman")
        self.comparison.add(PODMAN, sample)

    async def _floor(self, disk: Path) -> None:
        log = self._work / "floor"
        command: list[str | Path] = [PYTHON, "-m", "tests.bench.floor", self._plan, disk]
        self.comparison.add(FLOOR, await measure(command, log))
        for part, secs in json.loads(log.read_text()).items():
            self._spent.setdefault(part, []).append(secs)

    async def _bootcd(self, disk: Path) -> None:
        machine = await Machine.create(disk / "machine")
        job, _ = prepare_job(
            self._work,
            JobKind.SWITCH,
            image=self._reference,
            sysroot=machine.sysroot,
            registry=self._registry.host,
        )
        phases = _Phases(job / "socket")
        started = time.monotonic()
        try:
            whole = await measure(worker_command(job), self._work / "worker")
        finally:
            phases.close()
        outcome = json.loads((job / "outcome.json").read_text())
        if outcome["state"] != "done":
            raise RuntimeError(f"the worker failed: {outcome}")
        moment, cpu = phases.reached[Phase.STAGE]
        self.comparison.add(IMPORT, Sample(moment - started, cpu, whole.peak_bytes))
        self.comparison.add(DEPLOY, whole)
        await machine.close()


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
