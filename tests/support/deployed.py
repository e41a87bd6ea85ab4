"""A host bootc deployed, whose verbs are run by real worker processes and seen with ostree's eyes.

The host is made by `tests.support.foreign`; it is asked about with `ostree`, and with the status document
whose truth `tests.service.test_host_kinds` shows.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from bootcd.model.errors import ErrorInfo
from bootcd.model.job import JobKind, JobRequest, JobState, Outcome, WorkerSettings
from tests.support.foreign import PYTHON, commit_image, deploy, image_of_tree, refs
from tests.support.machine import Machine, minimal_tree
from tests.support.oci_image import Image
from tests.support.registry import Registry

REPOSITORY = "example/os"
REBOOT_REQUIRED = "/run/reboot-required"
BOOTC_ROOT = "ostree/bootc"


class Host:
    """A booted machine that bootc deployed version 1 on, and the registry it follows."""

    def __init__(self, machine: Machine, registry: Registry, directory: Path) -> None:
        self.machine = machine
        self.registry = registry
        self.front = registry.host
        self._directory = directory
        self._images: dict[str, Image] = {}

    @property
    def name(self) -> str:
        return f"{self.front}/{REPOSITORY}:stable"

    @property
    def origin(self) -> str:
        return f"[origin]\ncontainer-image-reference=ostree-unverified-registry:{self.name}\n"

    def tree(self, version: str) -> Path:
        path = self._directory / f"tree-{version}"
        return path if path.exists() else minimal_tree(path, version)

    def image(self, version: str) -> Image:
        if version not in self._images:
            self._images[version] = image_of_tree(self.tree(version), version=version)
        return self._images[version]

    async def publish(self, version: str, tag: str = "stable") -> str:
        return await self.registry.push(REPOSITORY, tag, self.image(version))

    async def commit(self, version: str) -> str:
        """Put a version into the repository as bootc pulls it."""
        return await commit_image(self.machine, self.tree(version), self.image(version), self.name)

    async def start(self, kind: JobKind, **request: Any) -> tuple[Path, Any]:
        settings = WorkerSettings(insecure_registries=frozenset({self.front}))
        asked = JobRequest(uuid=str(uuid4()), kind=kind, settings=settings, **request)
        job = self.machine.path(f"/run/jobs/{asked.uuid}")
        job.mkdir(parents=True)
        (job / "request.json").write_text(asked.model_dump_json())
        inside = f"/run/jobs/{asked.uuid}"
        command = [PYTHON, "-m", "bootcd.worker", "run", inside, f"--socket={inside}/socket"]
        return job, await self.machine.popen(command, stderr=subprocess.PIPE)

    async def run(self, kind: JobKind, **request: Any) -> Outcome:
        job, process = await self.start(kind, **request)
        return await finished(job, process)

    async def done(self, kind: JobKind, **request: Any) -> Outcome:
        outcome = await self.run(kind, **request)
        assert outcome.state is JobState.DONE, outcome.error
        return outcome

    async def refused(self, kind: JobKind, **request: Any) -> ErrorInfo:
        """Run a job that must fail and must leave deployments, boot entries and refs as they are."""
        before = await self.everything()
        outcome = await self.run(kind, **request)
        assert outcome.state is JobState.FAILED
        assert outcome.error is not None
        assert await self.everything() == before
        return outcome.error

    async def everything(self) -> tuple[str, set[str], list[Any]]:
        listed = await self.machine.run(["ostree", "admin", "status"])
        return listed.stdout, await refs(self.machine), self.machine.boot_entries()

    async def status(self) -> dict[str, Any]:
        done = await self.machine.run([PYTHON, "-m", "bootcd.worker", "inspect"])
        return dict(json.loads(done.stdout)["host"]["status"])

    async def versions(self) -> list[str]:
        """Return the deployments as ostree lists them: mark and version, such as `staged 2`."""
        listed = (await self.machine.run(["ostree", "admin", "status"])).stdout
        found = re.findall(r"^([ *]) \w+ ([0-9a-f]{64}\.\d+)(?: \((\w+)\))?", listed, re.MULTILINE)
        return [
            f"{'booted' if star == '*' else mark or 'other'} {self.version_of(name)}"
            for star, name, mark in found
        ]

    def version_of(self, deployment: str) -> str:
        (path,) = self.machine.sysroot.glob(f"ostree/deploy/*/deploy/{deployment}")
        return (path / "usr/lib/version").read_text().strip()

    async def reboot(self) -> str:
        """Reboot and return the version that runs."""
        entry = await self.machine.reboot()
        if self.machine.finalisation is not None:
            assert self.machine.finalisation.returncode == 0, self.machine.finalisation.stderr
        return self.version_of(entry.deployment.name)

    def read(self, path: str) -> str | None:
        try:
            return self.machine.path(path).read_text()
        except FileNotFoundError:
            return None

    def announced(self) -> bool:
        """Whether bootc's directory was touched since the last call."""
        root = self.machine.sysroot / BOOTC_ROOT
        touched = root.stat().st_mtime != 1
        os.utime(root, (1, 1))
        return touched


async def finished(job: Path, process: Any) -> Outcome:
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert b"Traceback" not in errors, errors.decode()
    return Outcome.model_validate_json((job / "outcome.json").read_bytes())


@asynccontextmanager
async def prepared_host(directory: Path) -> AsyncIterator[Host]:
    """Yield a host with nothing deployed."""
    (directory / "registry").mkdir()
    async with Registry(directory / "registry") as registry, await Machine.create(directory / "m") as machine:
        host = Host(machine, registry, directory)
        (machine.sysroot / BOOTC_ROOT).mkdir()
        host.announced()
        yield host


async def deploy_first(host: Host) -> None:
    """Deploy version 1, boot it, and have it in the registry."""
    await deploy(host.machine, await host.commit("1"), host.origin)
    await host.machine.boot()
    await host.publish("1")
