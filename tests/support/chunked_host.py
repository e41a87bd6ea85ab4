"""A host of images made from ostree commits, with its registry and the place where the images are made."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bootcd.model.job import JobKind, Outcome
from tests.support.chunked_image import encapsulate
from tests.support.host import PYTHON, prepare_job, run_worker, worker_command
from tests.support.machine import Machine, Process, minimal_tree
from tests.support.oci_image import Image, Layer
from tests.support.registry import Registry

COMPONENTS = {
    "kernel": ["usr/lib/modules/"],
    "share": ["usr/share/"],
    "etc": ["usr/etc/"],
    "bin": ["usr/bin/"],
    "sbin": ["usr/sbin/"],
}
RANDOM = random.Random(42)


class Site:
    """A host, its registry, and where its images are made."""

    def __init__(self, directory: Path, machine: Machine, registry: Registry) -> None:
        self.directory = directory
        self.machine = machine
        self.registry = registry
        self.repo = directory / "build-repo"
        subprocess.run(["ostree", f"--repo={self.repo}", "init", "--mode=bare"], check=True)

    @property
    def reference(self) -> str:
        return f"{self.registry.host}/os:1"

    async def publish(
        self, version: str, *derived: Layer, files: int = 0, sign: Sequence[str] = ()
    ) -> tuple[Image, str]:
        """Commit and push a version, with this many files more; returns image and the commit it is of.

        `sign` is of options to `ostree commit`.
        """
        tree = minimal_tree(self.directory / f"tree-{version}", version)
        (tree / "usr/share").mkdir()
        (tree / "usr/share/same").write_text("the same in all versions\n" * 1000)
        for number in range(files):
            path = tree / f"usr/{('bin', 'lib', 'sbin')[number % 3]}/{number % 40}/{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(RANDOM.randbytes(RANDOM.randrange(20_000)))
        commit = ["commit", f"--tree=dir={tree}", "--branch=os", f"--add-metadata-string=version={version}"]
        done = subprocess.run(
            ["ostree", f"--repo={self.repo}", *commit, *sign], check=True, capture_output=True, text=True
        )
        checksum = done.stdout.strip()
        labels = {"org.opencontainers.image.version": version}
        image = encapsulate(self.repo, checksum, COMPONENTS).image(derived=derived, labels=labels)
        await self.registry.push("os", "1", image)
        return image, checksum

    async def deploy_and_boot(self) -> None:
        outcome = await run_worker(
            self.directory,
            JobKind.SWITCH,
            image=self.reference,
            sysroot=self.machine.sysroot,
            registry=self.registry.host,
        )
        assert outcome.error is None, outcome.error
        await self.machine.boot()

    async def start(self, kind: JobKind, **options: Any) -> tuple[Path, Process]:
        """Start a worker; returns its job directory and the process."""
        job, _ = prepare_job(self.machine.path("/run"), kind, registry=self.registry.host, **options)
        return job, await self.machine.popen(worker_command(Path("/run/jobs") / job.name))

    async def start_upgrade(self) -> tuple[Path, Process]:
        return await self.start(JobKind.UPGRADE)

    async def run(self, kind: JobKind, **options: Any) -> Outcome:
        """Run a worker to its end, whatever comes of it."""
        job, process = await self.start(kind, **options)
        await process.wait()
        return Outcome.model_validate_json((job / "outcome.json").read_bytes())

    async def upgrade(self) -> Outcome:
        outcome = await self.run(JobKind.UPGRADE)
        assert outcome.error is None, outcome.error
        return outcome

    async def status(self) -> dict[str, dict[str, dict[str, object]]]:
        done = await self.machine.run([str(PYTHON), "-m", "bootcd.worker", "inspect"])
        return dict(json.loads(done.stdout)["host"]["status"])

    async def refs(self) -> dict[str, str]:
        repo = f"--repo={self.machine.repo}"
        names = (await self.machine.ostree("refs", repo, "--list")).split()
        return {name: (await self.machine.ostree("rev-parse", repo, name)).strip() for name in names}
