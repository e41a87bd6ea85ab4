"""Hooks: programs of image and administrator that are run around what changes a host.

    /etc/bootcd/hooks.d/pre-stage       a new image is about to be fetched and staged; may refuse
    /etc/bootcd/hooks.d/post-stage      it is staged
    /etc/bootcd/hooks.d/pre-reboot      the host is about to be rebooted; may refuse
    /etc/bootcd/hooks.d/post-boot       the boot was good
    /usr/lib/bootcd/hooks.d/...         of the image

For what takes the place of what see `bootcd.host.programs`, for what they are told bootcd(8).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bootcd.engine.protocol import Report
from bootcd.host.programs import find_programs, run_program
from bootcd.model.errors import HookFailed
from bootcd.model.host import BootEntry, Host
from bootcd.model.job import ImageUpdate, JobKind, JobRequest, Phase, Progress, WorkerSettings
from bootcd.model.text import one_line

log = logging.getLogger(__name__)

_PLACES = ("usr/lib/bootcd/hooks.d", "etc/bootcd/hooks.d")
"What counts most comes last."
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LONGEST_VALUE = 1024
_HEARTBEAT_SECS = 20.0
"Far less than after what a silent job counts as stalled."


class Point(StrEnum):
    """When a hook is run, and the name of its directory."""

    PRE_STAGE = "pre-stage"
    POST_STAGE = "post-stage"
    PRE_REBOOT = "pre-reboot"
    POST_BOOT = "post-boot"


@dataclass(frozen=True, slots=True)
class Subject:
    """What hooks are told of; each part is empty where it is not known."""

    job: str = ""
    kind: str = ""
    image: str = ""
    digest: str = ""
    version: str = ""

    @classmethod
    def of_update(cls, request: JobRequest, update: ImageUpdate | None) -> Subject:
        if update is None:
            return cls(request.uuid, request.kind)
        return cls(request.uuid, request.kind, update.image, update.digest, update.version)

    @classmethod
    def of_next_boot(cls, request: JobRequest, host: Host) -> Subject:
        """Return what the next boot of a host is into."""
        queued = host.status.rollback if host.status.rollback_queued else None
        entry: BootEntry | None = host.status.staged or queued
        image = entry.image if entry is not None else None
        if image is None:
            return cls(request.uuid, request.kind)
        return cls(request.uuid, request.kind, image.image.image, image.image_digest, image.version or "")


class Hooks:
    """Runs the hooks found below `root`, one after the other, each with a deadline."""

    def __init__(self, root: Path, *, deadline_secs: float) -> None:
        self._root = root
        self._deadline_secs = deadline_secs

    @classmethod
    def of(cls, settings: WorkerSettings) -> Hooks:
        return cls(Path(settings.hooks_root), deadline_secs=settings.hook_timeout_secs)

    async def require(self, point: Point, subject: Subject, report: Report, progress: Progress) -> None:
        """Run hooks that may refuse. Raises HookFailed at the first that does; the rest is not run."""
        for path in await asyncio.to_thread(self._find, point):
            async with _heard(report, progress):
                problem = await self._run(path, point, subject)
            if problem:
                raise HookFailed(
                    f"the {point} hook {path} refused: {problem}",
                    hint="see what it printed in the journal; a link to /dev/null of its name in"
                    f" /etc/bootcd/hooks.d/{point} switches it off",
                    hook=str(path),
                )

    async def require_reboot(self, request: JobRequest, host: Host, report: Report) -> None:
        """Ask whether the host may be rebooted now. Raises HookFailed."""
        subject = Subject.of_next_boot(request, host)
        # What a job has staged stays staged, so it cannot be said to have been cancelled.
        progress = Progress(phase=Phase.REBOOT, cancellable=request.kind is JobKind.APPLY)
        await self.require(Point.PRE_REBOOT, subject, report, progress)

    async def tell(
        self, point: Point, subject: Subject, report: Report | None = None, progress: Progress | None = None
    ) -> tuple[str, ...]:
        """Run hooks of what has happened already; returns a sentence about each that failed."""
        try:
            paths = await asyncio.to_thread(self._find, point)
        except HookFailed as error:
            return (error.message,)
        warnings = []
        for path in paths:
            async with _heard(report, progress):
                problem = await self._run(path, point, subject)
            if problem:
                warnings.append(f"the {point} hook {path} failed: {problem}")
        return tuple(warnings)

    def _find(self, point: Point) -> list[Path]:
        try:
            return find_programs(self._root, _PLACES, point)
        except OSError as error:
            # What cannot be listed may hold one that refuses.
            raise HookFailed(f"{error.filename} cannot be listed: {error.strerror}") from error

    async def _run(self, path: Path, point: Point, subject: Subject) -> str:
        log.debug("running the %s hook %s", point, path)
        environment = _environment(point, subject)
        return await run_program(path, deadline_secs=self._deadline_secs, environment=environment)


def _environment(point: Point, subject: Subject) -> dict[str, str]:
    """Return all that a hook gets: nothing of ours, where addresses of proxies may hold a password."""
    values = {
        "HOOK": point.value,
        "JOB": subject.job,
        "KIND": subject.kind,
        "IMAGE": subject.image,
        "DIGEST": subject.digest,
        "VERSION": subject.version,
    }
    told = {f"BOOTCD_{name}": one_line(value, _LONGEST_VALUE) for name, value in values.items()}
    return {"PATH": os.environ.get("PATH", _PATH), "LANG": "C.UTF-8", **told}


@asynccontextmanager
async def _heard(report: Report | None, progress: Progress | None) -> AsyncGenerator[None, None]:
    """Show that the job is at work while the block runs, however silent hooks are."""

    async def beat() -> None:
        while report is not None and progress is not None:
            report(progress)
            await asyncio.sleep(_HEARTBEAT_SECS)

    heart = asyncio.create_task(beat())
    try:
        yield
    finally:
        heart.cancel()
