"""A whole host under test: registry, booted machine, bus with polkit, daemon, client.

What the demo, the end-to-end tests and the bench have in common. Everything is real; see `machine`
for what a simulated boot leaves out.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from bootcd.model.job import JobKind, JobRequest, Outcome, WorkerSettings
from tests.support.bus import PrivateBus
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.machine import REPOSITORY, Machine, Process
from tests.support.os_image import OsImages, cached_os_images
from tests.support.registry import Registry

PYTHON = Path(sys.executable)
BOOTCCTL = PYTHON.with_name("bootcctl")
REPOSITORY_NAME = "example/os"
PERSON = 65534
"An unprivileged user the test system knows: nobody."

CONFIG = """\
[updates]
mode = "{mode}"
interval = "{interval}"

[registry]
insecure = ["{registry}"]
"""


class Host:
    """A machine with our service on it. `boot` starts everything a boot would start."""

    def __init__(self, machine: Machine, registry: Registry, images: OsImages) -> None:
        self.machine = machine
        self.registry = registry
        self.images = images
        self.bus: PrivateBus | None = None
        self.daemon: Process | None = None
        self.log = machine.directory / "daemon.log"
        self.mode = "off"
        self.interval = "1h"
        self.front = registry.host
        "What the host knows the registry by: itself, or a proxy before it."

    @property
    def reference(self) -> str:
        return f"{self.front}/{REPOSITORY_NAME}:stable"

    async def publish(self, tag: str, as_tag: str = "stable", name: str = REPOSITORY_NAME) -> str:
        """Push a version of the test system to the registry; returns its digest."""
        return await self.images.push(tag, self.registry.host, name, as_tag)

    async def deploy(self, reference: str = "") -> Outcome:
        """Deploy an image as the first system, with our own worker, on the system root not booted yet."""
        outcome = await run_worker(
            self.machine.directory,
            JobKind.SWITCH,
            image=reference or self.reference,
            sysroot=self.machine.sysroot,
            registry=self.front,
        )
        assert outcome.error is None, outcome.error
        return outcome

    async def boot(self) -> None:
        await self.machine.boot()
        await self.start_services()

    async def start_services(self) -> None:
        self.bus = await PrivateBus.start(self.machine)
        await self.bus.start_polkitd()
        await self.start_daemon()

    async def start_daemon(self) -> None:
        config = self.machine.path("/run/bootcd-config/10-test.toml")
        config.parent.mkdir(exist_ok=True)
        text = CONFIG.format(mode=self.mode, interval=self.interval, registry=self.front)
        config.write_text(text)
        with self.log.open("ab") as log:
            self.daemon = await self.machine.popen(
                [PYTHON, "-m", "bootcd", "--config-dir=/run/bootcd-config"],
                stdout=log.fileno(),
                stderr=log.fileno(),
            )
        assert self.bus is not None
        await self.bus.wait_for_name("org.bootcd1")

    async def reboot(self) -> None:
        """Shut down in good order, boot what the boot loader would boot, start the services."""
        self.bus = self.daemon = None
        await self.machine.reboot()
        await self.start_services()

    def layers(self, *tags: str) -> set[str]:
        """Return the digests of the layers of these versions."""
        found: set[str] = set()
        for tag in tags:
            manifest = self.images.layout / "blobs" / self.images.digest(tag).replace(":", "/")
            found |= {layer["digest"] for layer in json.loads(manifest.read_text())["layers"]}
        return found

    def stall_upgrade(self, proxy: FaultProxy) -> str:
        """Let an upgrade to version 2 hang in the middle of a layer until released; returns its digest."""
        layer = sorted(self.layers("v2") - self.layers("v1"))[0]
        proxy.inject(Fault(stall_after=1000), path=layer)
        return layer

    async def ctl(
        self, *arguments: str, user: int = 0, timeout: float = 120, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run bootcctl on the host."""
        command: Sequence[str | Path] = [BOOTCCTL, *arguments]
        return await self.machine.run(command, user=user, timeout=timeout, check=check)

    async def history(self) -> list[dict[str, Any]]:
        """Return the ended jobs, newest first."""
        return list(json.loads((await self.ctl("history", "--json")).stdout)["entries"])

    async def jobs(self) -> list[dict[str, Any]]:
        return list(json.loads((await self.ctl("jobs", "--json")).stdout)["jobs"])

    async def status(self, user: int = PERSON) -> dict[str, Any]:
        """Return the status part of the host document, as an ordinary user gets it."""
        done = await self.ctl("status", "--json", user=user)
        return dict(json.loads(done.stdout)["status"])


@asynccontextmanager
async def new_host(
    directory: Path, images: OsImages | None = None, *, template: Path | None = None
) -> AsyncGenerator[Host, None]:
    """Prepare a machine and a registry; nothing is booted yet, and without `template` nothing deployed.

    `template` is a copy of the directory of another host, made while it was not booted.
    """
    images = images or await asyncio.to_thread(cached_os_images, REPOSITORY / ".cache/os-image")
    if template:
        await copy_tree(template, directory)
    else:
        (directory / "registry").mkdir()
        await install(directory / "overlay")
    overlay, binds = directory / "overlay/usr", [PYTHON.parent.parent]
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(Registry(directory / "registry"))
        if template:
            machine = Machine(directory / "machine", overlay, binds, readonly_sysroot=True)
        else:
            machine = await Machine.create(directory / "machine", overlay=overlay, binds=binds)
        await stack.enter_async_context(machine)
        yield Host(machine, registry, images)


async def copy_tree(source: Path, target: Path) -> None:
    """Copy a directory's content with all attributes, hard links included."""
    process = await asyncio.create_subprocess_exec("cp", "--archive", f"{source}/.", str(target))
    if await process.wait():
        raise RuntimeError(f"{source} could not be copied")


async def install(target: Path) -> None:
    """Install what a distribution would have in /usr."""
    process = await asyncio.create_subprocess_exec(
        *("make", "--quiet", "-C", str(REPOSITORY), "install", f"DESTDIR={target}"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"make install failed:\n{output.decode()}")


async def run_worker(
    directory: Path,
    kind: JobKind,
    *,
    image: str = "",
    sysroot: Path,
    registry: str,
) -> Outcome:
    """Run one worker process to its end and return its outcome."""
    job, _ = prepare_job(directory, kind, image=image, sysroot=sysroot, registry=registry)
    process = await asyncio.create_subprocess_exec(*worker_command(job), env=dict(os.environ))
    try:
        await process.wait()
    finally:  # nobody may write into the directory once its owner removes it
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Outcome.model_validate_json((job / "outcome.json").read_bytes())


def prepare_job(
    directory: Path,
    kind: JobKind,
    *,
    image: str = "",
    sysroot: Path = Path("/"),
    registry: str = "",
    **options: Any,
) -> tuple[Path, JobRequest]:
    """Write a job directory as the daemon does; `options` are more of the request."""
    settings = WorkerSettings(sysroot=str(sysroot), insecure_registries=frozenset({registry}))
    request = JobRequest(uuid=str(uuid4()), kind=kind, image=image, settings=settings, **options)
    job = directory / "jobs" / request.uuid
    job.mkdir(parents=True)
    (job / "request.json").write_text(request.model_dump_json())
    return job, request


def worker_command(job: Path) -> list[str]:
    return [str(PYTHON), "-m", "bootcd.worker", "run", str(job), f"--socket={job}/socket"]
