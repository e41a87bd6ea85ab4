"""Deployments of the host changed: stage, lock, roll back, clean up.

Everything is libostree's own doing: the three-way merge of /etc, boot entries, finalisation at shutdown.
The conventions on top are bootc's: the origin file, kernel arguments of host and image, what is garbage, what
other programs are told.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bootcd.host.files import read_bounded
from bootcd.model.errors import BootcdError, Busy, Unsupported, WrongState
from bootcd.ostree.kargs import read_deployed_kargs, read_kargs
from bootcd.ostree.libostree import GLib, OSTree, has, host_errors
from bootcd.ostree.notices import announce_boot_order, tell_watchers
from bootcd.ostree.view import LEGACY_LOCK, SysrootView, kernel_arguments
from bootcd.ostreefmt.kargs import merge_kargs
from bootcd.ostreefmt.origin import Origin, TrackedImage

log = logging.getLogger(__name__)

LOCK_WAIT_SECS = 5.0
_LOCK_POLL_SECS = 0.25
_STAGED = "run/ostree/staged-deployment"
_DEPLOYMENTS = "ostree/deploy"
_STAGED_LIMIT = 64 << 10
_FIRST_KARGS = ["rw"]
"Of a host that has none yet."


class Sysroot(SysrootView):
    """The host's system root, to be changed under its lock. Not for several threads at a time."""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock that ostree, bootc and rpm-ostree take too.

        Raises:
            Busy: another program keeps it.
            ReadOnlyHost: the disk is read-only, as on a live medium.
        """
        deadline = time.monotonic() + LOCK_WAIT_SECS
        while True:
            with host_errors("lock the system root", path=str(self.path)):
                _, acquired = self.sysroot.try_lock()
            if acquired:
                break
            if time.monotonic() > deadline:
                raise Busy(
                    "another program is changing the deployments of this host",
                    hint="wait until it has ended: look for a running bootc, ostree or rpm-ostree",
                )
            time.sleep(_LOCK_POLL_SECS)
        try:
            self.reload()
            yield
        finally:
            self.sysroot.unlock()

    # changes, all under the lock

    def stage(self, commit: str, image: TrackedImage, *, locked: bool) -> None:
        """Make a commit the next boot's deployment, replacing a staged one.

        On a system root that is not the booted one, deploy it at once.

        Raises:
            NotBootable: the image lists kernel arguments that cannot be taken; nothing has changed.
        """
        origin = _keyfile(Origin.fresh(image).to_keyfile())
        booted = self.booted
        if booted is None:
            self._deploy(commit, origin)
            return
        arguments = self._kernel_arguments(self._merge_deployment(), commit)
        self._stage_tree(commit, origin, arguments, locked=locked)

    def restage(self, arguments: list[str], *, locked: bool) -> None:
        """Stage what the newest deployment is once more, with other kernel arguments.

        Raises:
            Unsupported: the deployment adds files to its initrd, which would be lost.
        """
        self.require_booted()
        newest = self.newest
        if newest.get_bootconfig().get_overlay_initrds():
            raise Unsupported(
                "this host adds files to its initrd, which a change of kernel arguments would lose",
                hint="use rpm-ostree kargs, or rpm-ostree initramfs-etc --untrack-all first",
            )
        origin = _keyfile(newest.get_origin().to_data()[0]) if newest.get_origin() else GLib.KeyFile()
        OSTree.Deployment.origin_remove_transient_state(origin)
        self._stage_tree(newest.get_csum(), origin, arguments, locked=locked)

    def _merge_deployment(self) -> Any:
        """Return the deployment whose /etc goes on, and whose boot entry others have marked."""
        return self.sysroot.get_merge_deployment(self.booted.get_osname())

    def _stage_tree(self, commit: str, origin: Any, arguments: list[str], *, locked: bool) -> None:
        stateroot = self.booted.get_osname()
        merge = self._merge_deployment()
        if merge is not None:
            keep_staged_marks(self.path, merge.get_bootconfig())
        was_locked = self.is_staged_locked()
        with host_errors("stage the deployment", path=str(self.path)):
            # Locked first and unlocked last: killed in between, nothing is applied that should not be.
            if locked:
                self._set_legacy_lock(True)
            try:
                self.sysroot.stage_tree(stateroot, commit, origin, merge, arguments, None)
            except GLib.Error:
                self._set_legacy_lock(was_locked)
                raise
        self.reload()
        self.set_staged_lock(locked)
        announce_boot_order(self)

    def _deploy(self, commit: str, origin: Any) -> None:
        stateroot = self._single_stateroot()
        merge = self.sysroot.get_merge_deployment(stateroot)
        arguments = self._kernel_arguments(merge, commit)
        with host_errors("deploy the image", path=str(self.path)):
            _, deployment = self.sysroot.deploy_tree(stateroot, commit, origin, merge, arguments, None)
            flags = OSTree.SysrootSimpleWriteDeploymentFlags.NO_CLEAN
            self.sysroot.simple_write_deployment(stateroot, deployment, merge, flags, None)
        self.reload()

    def _kernel_arguments(self, merge: Any, commit: str) -> list[str]:
        """Return the arguments for a commit that follows the deployment `merge`, or none."""
        new = read_kargs(self.repository, commit)
        if merge is None:
            return merge_kargs(_FIRST_KARGS, [], new)
        deployed = read_deployed_kargs(self.repository, merge.get_csum())
        current = kernel_arguments(merge)
        if (staged := self.staged) is not None:
            listed = read_deployed_kargs(self.repository, staged.get_csum())
            arguments = kernel_arguments(staged)
            # What the staged image alone did to them counts for nothing; what somebody did since is kept.
            if sorted(arguments) != sorted(merge_kargs(current, deployed, listed)):
                return merge_kargs(arguments, listed, new)
        return merge_kargs(current, deployed, new)

    def _single_stateroot(self) -> str:
        names = sorted(p.name for p in (self.path / "ostree/deploy").iterdir() if p.is_dir())
        if len(names) != 1:
            raise WrongState(f"{self.path} has {len(names)} state roots, one is needed")
        return names[0]

    def set_staged_lock(self, locked: bool) -> None:
        """Lock or unlock the staged deployment's finalisation.

        Raises:
            WrongState: nothing is staged.
        """
        if self.staged is None:
            raise WrongState("nothing is staged")
        with host_errors("change the staged deployment", path=str(self.path)):
            if has(self.sysroot, "change_finalization"):
                # It toggles what was loaded, which may be old: neither it nor others who call it set the
                # time that tells load() of a change.
                self._mark_changed()
                self.reload()
                if bool(self.staged.is_finalization_locked()) != locked:
                    self.sysroot.change_finalization(self.staged)
                    self._mark_changed()
            self._set_legacy_lock(locked)
        self.reload()

    def _mark_changed(self) -> None:
        now = time.time_ns()
        os.utime(self.path / _DEPLOYMENTS, ns=(now, now))

    def _set_legacy_lock(self, locked: bool) -> None:
        """Set the lock every libostree obeys, the newer ones beside their own."""
        path = self.path / LEGACY_LOCK
        if locked:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o640)
        else:
            path.unlink(missing_ok=True)

    def rollback(self) -> None:
        """Swap the boot order of booted and rollback; a staged deployment is dropped by it.

        Raises:
            WrongState: there is nothing to roll back to.
        """
        booted, target = self.require_booted(), self.rollback_target()
        if target is None:
            raise WrongState("there is no deployment to roll back to")
        pair = [booted, target] if self.rollback_queued() else [target, booted]
        others = [
            d for d in self.deployments if not d.is_staged() and not d.equal(booted) and not d.equal(target)
        ]
        with host_errors("change the boot order", path=str(self.path)):
            self.sysroot.write_deployments([*pair, *others], None)
            self._set_legacy_lock(False)
        self.reload()
        announce_boot_order(self)

    def drop_followed_ref(self) -> None:
        """Delete the plain ostree ref the booted deployment followed, as bootc does at a switch.

        Its content goes once no deployment needs it.
        """
        try:
            refspec = self.origin(self.booted).refspec if self.booted is not None else None
            if refspec is not None:
                self.repository.delete_refspec(refspec)
        except BootcdError as error:
            # The switch is done, whatever stays behind.
            log.warning("the ref followed before stays: %s", error.message)

    def drop(self, deployment: Any) -> None:
        """Take a deployment off the host, which then starts what it would start without it."""
        kept = [d for d in self.deployments if not d.equal(deployment)]
        with host_errors("drop the deployment", path=str(self.path)):
            self.sysroot.write_deployments(kept, None)
            if deployment.is_staged():
                self._set_legacy_lock(False)
            self.reload()
            # Its own refs follow the deployments, and would hold what the dropped one needed.
            self.sysroot.prepare_cleanup(None)
        announce_boot_order(self)

    def set_pinned(self, deployment: Any, pinned: bool) -> None:
        with host_errors("pin the deployment" if pinned else "unpin the deployment", path=str(self.path)):
            self.sysroot.deployment_set_pinned(deployment, pinned)
        self._mark_changed()
        self.reload()
        self.tell_watchers()

    def cleanup(self) -> None:
        """Remove what no deployment needs: undeployed trees, unreferenced objects."""
        with host_errors("clean up the system root", path=str(self.path)):
            self.sysroot.cleanup(None)

    def tell_watchers(self) -> None:
        tell_watchers(self.path)


def keep_staged_marks(root: Path, bootconfig: Any) -> None:
    """Put the marks that were staged on the boot entry of the deployment the next staging merges with.

    Keys of an entry that are not libostree's, such as bootc's `x-options-source-NAME`, say whose kernel
    arguments are whose. libostree takes those of the merge deployment over, from 2026.1 on; which of two
    stagings it believes differs between its versions, unless the keys are set anew.
    https://ostreedev.github.io/ostree/bootconfig-extra/
    """
    try:
        data = read_bounded(root / _STAGED, _STAGED_LIMIT)
    except OSError:
        return
    staged = GLib.Variant.new_from_bytes(GLib.VariantType("a{sv}"), GLib.Bytes.new(data), False)
    for key, value in staged.get_normal_form().unpack().get("bootconfig-extra", {}).items():
        bootconfig.set(key, value)


def _keyfile(text: str) -> Any:
    keyfile = GLib.KeyFile()
    keyfile.load_from_data(text, len(text.encode()), GLib.KeyFileFlags.NONE)
    return keyfile
