"""The verbs that change what a host has, and fetch nothing: kernel arguments, pins, drops, an overlay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from bootcd.engine.bound import BoundImages
from bootcd.engine.cleanup import clean_up
from bootcd.engine.lock import lock
from bootcd.engine.protocol import Report
from bootcd.host import process
from bootcd.model.errors import BackendFailed, NoSuchDeployment, Unsupported, WrongState
from bootcd.model.job import JobKind, JobRequest, JobState, Outcome, Phase, Progress, WorkerSettings
from bootcd.model.text import one_line
from bootcd.ostree.garbage import hand_back_image
from bootcd.ostree.selection import find_deployment
from bootcd.ostree.sysroot import Sysroot
from bootcd.ostree.view import deployment_id, kernel_arguments
from bootcd.ostreefmt.kargs_change import KargsChange, change_kargs, check_change

_UNLOCK_SECS = 30.0
_STAGING = Progress(phase=Phase.STAGE, cancellable=False)


class Changes:
    def __init__(self, sysroot: Sysroot, settings: WorkerSettings) -> None:
        self._sysroot = sysroot
        self._bound = BoundImages(sysroot, settings)
        self._chosen = ""

    # kernel arguments

    def prepare_kernel_arguments(self, request: JobRequest) -> None:
        change = _change(request)
        check_change(change)
        self._sysroot.require_writable()
        self._sysroot.require_booted()
        change_kargs(kernel_arguments(self._sysroot.newest), change)

    async def kernel_arguments(self, request: JobRequest, report: Report) -> Outcome:
        """Stage the newest deployment with other arguments, unless they are what they shall be."""
        report(_STAGING)

        def change() -> bool:
            current = kernel_arguments(self._sysroot.newest)
            wanted = change_kargs(current, _change(request))
            locked = self._sysroot.is_staged_locked() and not request.apply
            if wanted == current:
                if self._sysroot.staged is None or locked == self._sysroot.is_staged_locked():
                    return False
                self._sysroot.set_staged_lock(locked)
                return True
            self._sysroot.restage(wanted, locked=locked)
            return True

        return await self._locked(change, leaves_garbage=True)

    # pins

    def prepare_pin(self, request: JobRequest) -> None:
        self._sysroot.require_writable()
        deployment = self._choose(request.deployment or "booted")
        if deployment.is_staged():
            raise WrongState(
                "a staged deployment cannot be pinned", hint="pin it once it is booted: bootcctl pin"
            )

    async def pin(self, request: JobRequest, report: Report) -> Outcome:
        """Pin or unpin the deployment."""
        report(_STAGING)
        pinned = request.kind is JobKind.PIN

        def change() -> bool:
            deployment = self._still_there()
            if deployment.is_pinned() == pinned:
                return False
            self._sysroot.set_pinned(deployment, pinned)
            return True

        return await self._locked(change)

    # drops

    def prepare_drop(self, request: JobRequest) -> None:
        self._sysroot.require_writable()
        self._sysroot.require_booted()
        self._require_droppable(self._choose(request.deployment))

    async def drop(self, _: JobRequest, report: Report) -> Outcome:
        """Take the deployment off the host, and off the disk what it alone needed."""
        report(_STAGING)
        dropped = ""

        def change() -> bool:
            nonlocal dropped
            deployment = self._still_there()
            self._require_droppable(deployment)
            commit, image = str(deployment.get_csum()), self._sysroot.image(deployment)
            dropped = self._sysroot.image_digest(deployment) or commit
            self._sysroot.drop(deployment)
            hand_back_image(self._sysroot, image, commit)
            return True

        outcome = await self._locked(change, leaves_garbage=True)
        return outcome.model_copy(update={"dropped": dropped})

    def _require_droppable(self, deployment: Any) -> None:
        """Refuse what the host runs on, what it would start next, and what somebody wants kept."""
        if deployment.equal(self._sysroot.booted):
            raise WrongState("the booted deployment cannot be dropped: the host runs on it")
        if deployment.is_staged():
            return
        if self._sysroot.rollback_queued() and deployment.equal(self._sysroot.rollback_target()):
            raise WrongState(
                "this deployment is queued for the next boot", hint="take that back first: bootcctl rollback"
            )
        if deployment.is_pinned():
            raise WrongState("this deployment is pinned", hint="unpin it first: bootcctl unpin")

    # the overlay on /usr

    def prepare_usr_overlay(self, _: JobRequest) -> None:
        booted = self._sysroot.require_booted()
        state = booted.unlocked_state_to_string(booted.get_unlocked())
        if state != "none":
            raise WrongState(f"/usr has an overlay already: {state}", hint="it goes with the next reboot")

    async def usr_overlay(self, request: JobRequest, report: Report) -> Outcome:
        """Mount an overlay on /usr that is gone after a reboot.

        ostree does it, in the mount namespace of the host: what a worker mounts in its own nobody else sees.
        """
        report(_STAGING)
        command = ["nsenter", "--target=1", "--mount", "--", "ostree", "admin", "unlock"]
        command += ["--transient"] if request.read_only else []
        try:
            done = await process.run(command, deadline_secs=_UNLOCK_SECS, limit=16 << 10)
        except (OSError, TimeoutError) as error:
            raise BackendFailed("the overlay on /usr cannot be made: ostree does not run") from error
        if done.status != 0:
            text = one_line(done.stderr.decode(errors="replace").removeprefix("error: "))
            if "unknown option" in text.lower():
                raise Unsupported("the ostree of this host is too old for a read-only overlay")
            raise BackendFailed(f"the overlay on /usr cannot be made: {text}")
        self._sysroot.tell_watchers()
        return Outcome(state=JobState.DONE, changed=True)

    # what the verbs share

    def _choose(self, name: str) -> Any:
        """Return the deployment that is meant, and remember it: its number may change meanwhile."""
        deployment = find_deployment(self._sysroot, name)
        self._chosen = deployment_id(deployment)
        return deployment

    def _still_there(self) -> Any:
        for deployment in self._sysroot.deployments:
            if deployment_id(deployment) == self._chosen:
                return deployment
        raise NoSuchDeployment("another program has removed this deployment meanwhile")

    async def _locked(self, change: Callable[[], bool], *, leaves_garbage: bool = False) -> Outcome:
        async with lock(self._sysroot):
            changed = await asyncio.to_thread(change)
            if changed and leaves_garbage:
                await clean_up(self._sysroot, self._bound)
        return Outcome(state=JobState.DONE, changed=changed)


def _change(request: JobRequest) -> KargsChange:
    return KargsChange(delete=request.delete, replace=request.replace, append=request.append)
