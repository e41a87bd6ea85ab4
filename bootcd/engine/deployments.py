"""The verbs that work on the deployments a host has: no network, a moment under the lock."""

from __future__ import annotations

from bootcd.engine.lock import locked
from bootcd.engine.protocol import Report
from bootcd.model.errors import WrongState
from bootcd.model.job import ImageUpdate, JobRequest, JobState, Outcome, Phase, Progress
from bootcd.oci.manifest import parse_timestamp
from bootcd.ostree.status import read_host
from bootcd.ostree.sysroot import Sysroot


class Deployments:
    def __init__(self, sysroot: Sysroot) -> None:
        self._sysroot = sysroot

    def prepare_rollback(self, _: JobRequest) -> None:
        self._sysroot.require_writable()
        if self._sysroot.rollback_target() is None:
            raise WrongState("there is no deployment to roll back to")

    async def rollback(self, _: JobRequest, report: Report) -> Outcome:
        report(Progress(phase=Phase.STAGE, cancellable=False))

        def swap() -> str:
            staged = self._sysroot.staged
            dropped = self._sysroot.image_digest(staged) if staged is not None else ""
            self._sysroot.rollback()
            return dropped

        return Outcome(state=JobState.DONE, changed=True, dropped=await locked(self._sysroot, swap))

    def prepare_apply(self, _: JobRequest) -> None:
        if self._sysroot.staged is None and not self._sysroot.rollback_queued():
            raise WrongState("nothing is staged and no rollback is queued", hint="use bootcctl upgrade first")

    def prepare_from_downloaded(self, _: JobRequest) -> None:
        self._sysroot.require_writable()
        self._sysroot.require_booted()
        if self._sysroot.staged is None:
            raise WrongState(
                "nothing is downloaded: no update is staged", hint="use: bootcctl upgrade --download-only"
            )

    async def unlock(self, request: JobRequest, report: Report) -> Outcome:
        """Let the next boot be into what is staged."""
        report(Progress(phase=Phase.STAGE, cancellable=False))
        self.prepare_from_downloaded(request) if request.from_downloaded else self.prepare_apply(request)
        update = self._staged_image()
        if not self._sysroot.is_staged_locked():
            return Outcome(state=JobState.DONE, update=update)
        await locked(self._sysroot, lambda: self._sysroot.set_staged_lock(False))
        return Outcome(state=JobState.DONE, changed=True, update=update)

    def _staged_image(self) -> ImageUpdate | None:
        staged = read_host(self._sysroot).status.staged
        if staged is None or staged.image is None:
            return None
        return ImageUpdate(
            image=staged.image.image.image,
            digest=staged.image.image_digest,
            version=staged.image.version or "",
            created=parse_timestamp(staged.image.timestamp),
            download_bytes=0,
        )
