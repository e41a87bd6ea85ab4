"""A host whose deployments are libostree's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from bootcd.engine.deployments import Deployments
from bootcd.engine.protocol import Report
from bootcd.engine.pull import Pulls
from bootcd.host import process
from bootcd.host.clock import Clock
from bootcd.model.errors import BackendFailed, InvalidArguments
from bootcd.model.job import JobKind, JobRequest, Outcome, Phase, Progress, WorkerSettings
from bootcd.model.report import HostReport
from bootcd.ostree.status import read_report
from bootcd.ostree.sysroot import Sysroot

_REBOOT_DEADLINE_SECS = 30

_Prepare = Callable[[JobRequest], None]
_Run = Callable[[JobRequest, Report], Awaitable[Outcome]]


class NativeEngine:
    """One worker's view of the host."""

    def __init__(self, settings: WorkerSettings, clock: Clock, *, own_mounts: bool) -> None:
        """Open the system root; for `own_mounts` see `Sysroot`. Blocks briefly."""
        self._root = Path(settings.sysroot)
        self._sysroot = Sysroot(self._root, own_mounts=own_mounts)
        pulls, deployments = Pulls(self._sysroot, settings, clock), Deployments(self._sysroot)
        self._verbs: Mapping[JobKind, tuple[_Prepare, _Run]] = {
            JobKind.CHECK: (pulls.prepare_check, pulls.check),
            JobKind.UPGRADE: (pulls.prepare_upgrade, pulls.upgrade),
            JobKind.SWITCH: (pulls.prepare_switch, pulls.switch),
            JobKind.ROLLBACK: (deployments.prepare_rollback, deployments.rollback),
            JobKind.APPLY: (deployments.prepare_apply, deployments.unlock),
        }

    def read_report(self) -> HostReport:
        return read_report(self._sysroot)

    def prepare(self, request: JobRequest) -> None:
        if request.apply and request.download_only:
            raise InvalidArguments("what is only downloaded cannot be applied at once")
        if self._root == Path("/"):
            self._sysroot.require_booted()
        prepare, _ = self._verbs[request.kind]
        prepare(request)

    async def run(self, request: JobRequest, report: Report) -> Outcome:
        _, run = self._verbs[request.kind]
        outcome = await run(request, report)
        # What an upgrade or a switch leaves staged is what was asked for, be it staged from before.
        staged = request.kind is not JobKind.ROLLBACK and self._sysroot.staged is not None
        if request.kind is JobKind.APPLY or (request.apply and (outcome.changed or staged)):
            report(Progress(phase=Phase.REBOOT, cancellable=False))
            await _reboot()
            outcome = outcome.model_copy(update={"reboot": True})
        return outcome


async def _reboot() -> None:
    command = ["systemctl", "reboot", "--message=Initiated by bootcd"]
    try:
        done = await process.run(command, deadline_secs=_REBOOT_DEADLINE_SECS, limit=4096)
    except (OSError, TimeoutError) as error:
        raise BackendFailed("the system manager could not be asked to reboot") from error
    if done.status != 0:
        raise BackendFailed(
            "the system manager refused to reboot", hint="what is staged stays so; reboot by hand"
        )
