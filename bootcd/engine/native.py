"""A host whose deployments are libostree's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from bootcd.engine.changes import Changes
from bootcd.engine.deployments import Deployments
from bootcd.engine.hooks import Hooks
from bootcd.engine.lock import locked
from bootcd.engine.protocol import Report
from bootcd.engine.pull import Pulls
from bootcd.engine.reboot import reboot
from bootcd.host.clock import Clock
from bootcd.model.errors import Unsupported
from bootcd.model.job import JobKind, JobRequest, Outcome, Phase, Progress, SoftReboot, WorkerSettings
from bootcd.model.report import HostReport
from bootcd.ostree.softreboot import prepare_soft_reboot, require_soft_reboot
from bootcd.ostree.status import read_host, read_report
from bootcd.ostree.sysroot import Sysroot

_Prepare = Callable[[JobRequest], None]
_Run = Callable[[JobRequest, Report], Awaitable[Outcome]]


class NativeEngine:
    """One worker's view of the host."""

    def __init__(self, settings: WorkerSettings, clock: Clock, *, own_mounts: bool) -> None:
        """Open the system root; for `own_mounts` see `Sysroot`. Blocks briefly."""
        self._root = Path(settings.sysroot)
        self._sysroot = Sysroot(self._root, own_mounts=own_mounts)
        pulls, deployments = Pulls(self._sysroot, settings, clock), Deployments(self._sysroot)
        changes = Changes(self._sysroot, settings)
        self._hooks = Hooks.of(settings)
        self._verbs: Mapping[JobKind, tuple[_Prepare, _Run]] = {
            JobKind.CHECK: (pulls.prepare_check, pulls.check),
            JobKind.UPGRADE: (pulls.prepare_upgrade, pulls.upgrade),
            JobKind.SWITCH: (pulls.prepare_switch, pulls.switch),
            JobKind.ROLLBACK: (deployments.prepare_rollback, deployments.rollback),
            JobKind.APPLY: (deployments.prepare_apply, deployments.unlock),
            JobKind.KERNEL_ARGUMENTS: (changes.prepare_kernel_arguments, changes.kernel_arguments),
            JobKind.PIN: (changes.prepare_pin, changes.pin),
            JobKind.UNPIN: (changes.prepare_pin, changes.pin),
            JobKind.DROP: (changes.prepare_drop, changes.drop),
            JobKind.USR_OVERLAY: (changes.prepare_usr_overlay, changes.usr_overlay),
        }
        self._from_downloaded = (deployments.prepare_from_downloaded, deployments.unlock)

    def read_report(self) -> HostReport:
        return read_report(self._sysroot)

    def prepare(self, request: JobRequest) -> None:
        request.require_sense()
        if request.soft_reboot is SoftReboot.REQUIRED:
            require_soft_reboot(self._sysroot.sysroot)
        if self._root == Path("/"):
            self._sysroot.require_booted()
        prepare, _ = self._verb(request)
        prepare(request)

    async def run(self, request: JobRequest, report: Report) -> Outcome:
        prepare, run = self._verb(request)
        if request.kind is JobKind.APPLY:
            prepare(request)
            await self._hooks.require_reboot(request, read_host(self._sysroot), report)
        outcome = await run(request, report)
        # What an upgrade or a switch leaves staged is what was asked for, be it staged from before.
        staged = request.kind is not JobKind.ROLLBACK and self._sysroot.staged is not None
        if request.kind is not JobKind.APPLY and not outcome.changed and not staged:
            return outcome
        if request.kind is not JobKind.APPLY and request.apply:
            await self._hooks.require_reboot(request, read_host(self._sysroot), report)
        if request.soft_reboot is not SoftReboot.NONE:
            soft = await locked(self._sysroot, lambda: self._prepare_soft_reboot(request.soft_reboot))
            outcome = outcome.model_copy(update={"soft_reboot": soft})
        if request.kind is JobKind.APPLY or request.apply:
            report(Progress(phase=Phase.REBOOT, cancellable=False))
            await reboot(soft=outcome.soft_reboot)
            outcome = outcome.model_copy(update={"reboot": True})
        return outcome

    def _verb(self, request: JobRequest) -> tuple[_Prepare, _Run]:
        return self._from_downloaded if request.from_downloaded else self._verbs[request.kind]

    def _prepare_soft_reboot(self, wanted: SoftReboot) -> bool:
        """Make the next reboot a soft one, if it can be."""
        soft = prepare_soft_reboot(self._sysroot.sysroot, self._sysroot.deployments[0])
        if not soft and wanted is SoftReboot.REQUIRED:
            raise Unsupported(
                "a soft reboot cannot reach this system, whose kernel, initrd or kernel arguments differ",
                hint="it comes at the next reboot all the same",
            )
        return soft
