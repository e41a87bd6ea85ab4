"""A host that is driven through the `bootc` command: one that boots a composefs image, or one told to be.

libostree does not manage such a host, and its files are bootc's alone. What bootc has no option for is an
error before anything is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from bootcd.bootc.command import Bootc
from bootcd.engine.finding import find_update, followed_image
from bootcd.engine.hooks import Hooks, Point, Subject
from bootcd.engine.protocol import Report
from bootcd.engine.reboot import reboot
from bootcd.engine.source import open_source
from bootcd.model.errors import InvalidArguments, SignatureRejected, Unsupported, WrongState
from bootcd.model.host import BootEntry, Host
from bootcd.model.job import (
    ImageUpdate,
    JobKind,
    JobRequest,
    JobState,
    Outcome,
    Phase,
    Progress,
    SoftReboot,
    WorkerSettings,
)
from bootcd.model.report import HostReport
from bootcd.oci.timestamp import parse_timestamp

_Run = Callable[[JobRequest, Report], Awaitable[Outcome]]


class BootcEngine:
    """One worker's view of the host, as bootc tells it."""

    def __init__(self, bootc: Bootc | None = None, settings: WorkerSettings | None = None) -> None:
        self._bootc = bootc or Bootc()
        self._settings = settings or WorkerSettings()
        self._hooks = Hooks.of(self._settings)
        self._verbs: Mapping[JobKind, _Run] = {
            JobKind.CHECK: self._check,
            JobKind.UPGRADE: self._upgrade,
            JobKind.SWITCH: self._switch,
            JobKind.ROLLBACK: self._rollback,
            JobKind.APPLY: self._apply,
        }

    def read_report(self) -> HostReport:
        return HostReport(host=asyncio.run(self._bootc.status()))

    def prepare(self, request: JobRequest) -> None:
        request.require_sense()
        if request.kind not in self._verbs:
            raise Unsupported(f"bootc drives this host, and has no way to do this: {request.kind}")
        if request.verified_only:
            raise SignatureRejected(
                "bootc drives this host, and whether it verifies a signature is not known beforehand",
                hint="ask as somebody who may take updates that are not verified",
            )
        if request.expect_digest:
            raise Unsupported("bootc drives this host, and takes what is newest, whatever its digest")
        if request.kind is JobKind.APPLY and request.soft_reboot is not SoftReboot.NONE:
            raise Unsupported("bootc prepares a soft reboot only together with what it stages")
        if request.kind is JobKind.SWITCH and request.download_only:
            raise Unsupported("bootc cannot switch to an image without the next reboot applying it")
        if request.kind is JobKind.SWITCH and (not request.image or request.image.startswith("-")):
            raise InvalidArguments("an image to switch to is needed")
        self._bootc.require()
        host = asyncio.run(self._bootc.status())
        if request.kind is JobKind.ROLLBACK and host.status.rollback is None:
            raise WrongState("there is no deployment to roll back to")
        if request.kind is JobKind.APPLY and host.status.staged is None and not host.status.rollback_queued:
            raise WrongState("nothing is staged and no rollback is queued", hint="use bootcctl upgrade first")
        if request.kind in (JobKind.CHECK, JobKind.UPGRADE):
            followed = followed_image(host)
            if request.kind is JobKind.CHECK:
                open_source(followed, self._settings)

    async def run(self, request: JobRequest, report: Report) -> Outcome:
        if request.kind is JobKind.APPLY:
            await self._hooks.require_reboot(request, await self._bootc.status(), report)
        outcome = await self._verbs[request.kind](request, report)
        staged = request.apply and request.kind is not JobKind.ROLLBACK and not outcome.changed
        if staged:
            staged = (await self._bootc.status()).status.staged is not None
        if request.kind is JobKind.APPLY or (request.apply and (outcome.changed or staged)):
            if request.kind is not JobKind.APPLY:
                await self._hooks.require_reboot(request, await self._bootc.status(), report)
            report(Progress(phase=Phase.REBOOT, cancellable=False))
            await reboot()
            outcome = outcome.model_copy(update={"reboot": True})
        return outcome

    async def _check(self, _: JobRequest, report: Report) -> Outcome:
        report(Progress(phase=Phase.RESOLVE))
        update, notes = await find_update(await self._bootc.status(), self._settings)
        return Outcome(state=JobState.DONE, update=update, notes=notes)

    async def _upgrade(self, request: JobRequest, report: Report) -> Outcome:
        options = ["--download-only"] if request.download_only else []
        options += ["--from-downloaded"] if request.from_downloaded else []
        options += [f"--tag={request.tag}"] if request.tag else []
        arguments = ["upgrade", "--quiet", *options, *_soft_reboot(request)]
        return await self._pull(request, arguments, report)

    async def _switch(self, request: JobRequest, report: Report) -> Outcome:
        options = ["--enforce-container-sigpolicy"] if request.enforce_container_sigpolicy else []
        options += ["--retain"] if request.retain else []
        options += [f"--transport={request.transport}", *_soft_reboot(request)]
        return await self._pull(request, ["switch", "--quiet", *options, request.image], report)

    async def _pull(self, request: JobRequest, arguments: list[str], report: Report) -> Outcome:
        resolving = Progress(phase=Phase.RESOLVE)
        report(resolving)
        if not request.from_downloaded:
            # What bootc finds it takes at once, so nothing is known of it yet.
            subject = Subject(request.uuid, request.kind, request.image)
            await self._hooks.require(Point.PRE_STAGE, subject, report, resolving)
        before = (await self._bootc.status()).status.staged
        last = Progress()

        def relay(progress: Progress) -> None:
            nonlocal last
            last = progress if progress.phase is Phase.FETCH else last
            report(progress)

        await self._bootc.pull(request.kind, arguments, relay)
        after = (await self._bootc.status()).status.staged
        changed = after is not None and after != before
        update = _update(after)
        warnings: tuple[str, ...] = ()
        if changed and not request.from_downloaded:
            done = last.model_copy(update={"phase": Phase.CLEANUP, "cancellable": False})
            subject = Subject.of_update(request, update)
            warnings = await self._hooks.tell(Point.POST_STAGE, subject, report, done)
        return Outcome(
            state=JobState.DONE,
            changed=changed,
            update=update,
            warnings=warnings,
            bytes_fetched=last.bytes_done,
        )

    async def _rollback(self, request: JobRequest, report: Report) -> Outcome:
        report(Progress(phase=Phase.STAGE, cancellable=False))
        before: Host = await self._bootc.status()
        await self._bootc.run("roll back", "rollback", *_soft_reboot(request))
        dropped = before.status.staged.image if before.status.staged else None
        return Outcome(state=JobState.DONE, changed=True, dropped=dropped.image_digest if dropped else "")

    async def _apply(self, _: JobRequest, report: Report) -> Outcome:
        """Let the next boot be into what is staged."""
        report(Progress(phase=Phase.STAGE, cancellable=False))
        staged = (await self._bootc.status()).status.staged
        if staged is None or not staged.download_only:
            return Outcome(state=JobState.DONE)
        await self._bootc.run("unlock what is staged", "upgrade", "--from-downloaded")
        return Outcome(state=JobState.DONE, changed=True)


def _soft_reboot(request: JobRequest) -> list[str]:
    return [f"--soft-reboot={request.soft_reboot}"] if request.soft_reboot is not SoftReboot.NONE else []


def _update(entry: BootEntry | None) -> ImageUpdate | None:
    if entry is None or entry.image is None:
        return None
    image = entry.image
    return ImageUpdate(
        image=image.image.image,
        transport=image.image.transport,
        digest=image.image_digest,
        version=image.version or "",
        created=parse_timestamp(image.timestamp) if image.timestamp else None,
        download_bytes=0,
    )
