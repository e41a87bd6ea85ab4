"""Deployments of the host: stage, lock, roll back, clean up.

Everything is libostree's own doing: the three-way merge of /etc, boot entries, finalisation at shutdown.
The conventions on top are bootc's: the origin file, the merge deployment's kernel arguments kept, what is
garbage, what other programs are told.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bootcd.model.errors import (
    Busy,
    LocalModifications,
    NotBootcSystem,
    ReadOnlyHost,
    WrongState,
)
from bootcd.ostree.libostree import Gio, GLib, OSTree, has, host_errors
from bootcd.ostree.repository import Repository
from bootcd.ostreefmt.origin import Origin, TrackedImage, parse_origin

LOCK_WAIT_SECS = 5.0
_LOCK_POLL_SECS = 0.25
_LEGACY_LOCK = "run/ostree/staged-deployment-locked"
_REBOOT_REQUIRED = "run/reboot-required"
_BOOTC_ROOT = "sysroot/ostree/bootc"
_KARG = re.compile(r'(?:"[^"]*"|[^\s"])+')


class Sysroot:
    """The host's system root. Not for several threads at a time."""

    def __init__(self, path: Path, *, own_mounts: bool = False) -> None:
        """Open it for reading; nothing is locked or changed.

        Args:
            own_mounts: this process has a mount namespace of its own, in which libostree may make /sysroot
                and /boot writable.
        Raises:
            NotBootcSystem: there is no ostree system root.
        """
        self.path = path
        self.sysroot = OSTree.Sysroot.new(Gio.File.new_for_path(os.fspath(path)))
        if not (path / "ostree/repo").exists():
            raise NotBootcSystem(
                f"{path} is not an ostree system root", hint="only image-based hosts can be updated this way"
            )
        if own_mounts:
            self.sysroot.set_mount_namespace_in_use()
        with host_errors("read the deployments", path=str(path)):
            self.sysroot.load(None)
            _, repo = self.sysroot.get_repo(None)
        self.repository = Repository(repo)

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

    def reload(self) -> None:
        with host_errors("read the deployments", path=str(self.path)):
            self.sysroot.load(None)

    # what is there

    @property
    def deployments(self) -> list[Any]:
        """All deployments in boot order, a staged one first."""
        return list(self.sysroot.get_deployments())

    @property
    def booted(self) -> Any:
        return self.sysroot.get_booted_deployment()

    @property
    def staged(self) -> Any:
        return self.sysroot.get_staged_deployment()

    def require_booted(self) -> Any:
        """Return the booted deployment.

        Raises:
            NotBootcSystem: this system was not booted from one.
        """
        if (booted := self.booted) is None:
            raise NotBootcSystem(
                "this system was not booted from an ostree deployment",
                hint="only image-based hosts can be updated this way",
            )
        return booted

    def origin(self, deployment: Any) -> Origin:
        keyfile = deployment.get_origin()
        return parse_origin(keyfile.to_data()[0]) if keyfile is not None else Origin()

    def tracked_image(self) -> TrackedImage:
        """Return the image the next upgrade pulls: the staged deployment's, else the booted one's.

        Raises:
            LocalModifications: packages were layered or overridden, an upgrade would lose them.
            WrongState: the host was not deployed from an image.
        """
        deployment = self.staged or self.require_booted()
        origin = self.origin(deployment)
        if origin.incompatible:
            raise LocalModifications(
                "this host has layered packages or overrides, which an image update would lose",
                hint="remove them with rpm-ostree reset, or keep updating with rpm-ostree",
            )
        if origin.image is None:
            raise WrongState(
                "this host was not deployed from a container image", hint="use: bootcctl switch IMAGE"
            )
        return origin.image

    def rollback_target(self) -> Any:
        """Return the deployment a rollback would boot next, or None."""
        booted = self.require_booted()
        same = [
            d
            for d in self.deployments
            if d.get_osname() == booted.get_osname() and not d.is_staged() and not d.equal(booted)
        ]
        return same[0] if same else None

    def rollback_queued(self) -> bool:
        booted, target = self.booted, self.rollback_target() if self.booted else None
        return bool(target and target.get_index() < booted.get_index())

    def is_staged_locked(self) -> bool:
        """Whether a reboot would leave the staged deployment unapplied (download-only)."""
        staged = self.staged
        if staged is None:
            return False
        if has(staged, "is_finalization_locked"):
            return bool(staged.is_finalization_locked())
        return (self.path / _LEGACY_LOCK).exists()

    def require_writable(self) -> None:
        """Refuse a medium that can never be written, such as a live image."""
        if device_is_read_only(self.repository.path):
            raise ReadOnlyHost("the disk of this host is read-only", hint="is this a live medium?")

    # changes, all under the lock

    def stage(self, commit: str, image: TrackedImage, *, locked: bool) -> None:
        """Make a commit the next boot's deployment, replacing a staged one.

        On a system root that is not the booted one, deploy it at once.
        """
        origin = _keyfile(Origin.fresh(image).to_keyfile())
        booted = self.booted
        if booted is None:
            self._deploy(commit, origin)
            return
        stateroot = booted.get_osname()
        merge = self.sysroot.get_merge_deployment(stateroot)
        with host_errors("stage the deployment", path=str(self.path)):
            self._set_legacy_lock(locked)
            self.sysroot.stage_tree(stateroot, commit, origin, merge, _kernel_arguments(merge), None)
        self.reload()
        if locked != self.is_staged_locked():
            self.set_staged_lock(locked)
        self._announce()

    def _deploy(self, commit: str, origin: Any) -> None:
        stateroot = self._single_stateroot()
        merge = self.sysroot.get_merge_deployment(stateroot)
        arguments = _kernel_arguments(merge) if merge is not None else ["rw"]
        with host_errors("deploy the image", path=str(self.path)):
            _, deployment = self.sysroot.deploy_tree(stateroot, commit, origin, merge, arguments, None)
            flags = OSTree.SysrootSimpleWriteDeploymentFlags.NO_CLEAN
            self.sysroot.simple_write_deployment(stateroot, deployment, merge, flags, None)
        self.reload()

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
        staged = self.staged
        if staged is None:
            raise WrongState("nothing is staged")
        if self.is_staged_locked() == locked:
            return
        with host_errors("change the staged deployment", path=str(self.path)):
            if has(self.sysroot, "change_finalization"):
                self.sysroot.change_finalization(staged)
            else:
                self._set_legacy_lock(locked)
        self.reload()

    def _set_legacy_lock(self, locked: bool) -> None:
        path = self.path / _LEGACY_LOCK
        if not locked:
            path.unlink(missing_ok=True)
        elif not has(self.sysroot, "change_finalization"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o640)

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
            self._set_legacy_lock(False)
            self.sysroot.write_deployments([*pair, *others], None)
        self.reload()
        self._announce()

    def cleanup(self) -> None:
        """Remove what no deployment needs: undeployed trees, unreferenced objects."""
        with host_errors("clean up the system root", path=str(self.path)):
            self.sysroot.cleanup(None)

    def _announce(self) -> None:
        """Tell other programs: kured reads the one, users of bootc watch the other."""
        root = self.path / _BOOTC_ROOT
        with host_errors("announce the change"):
            if root.is_dir():
                os.utime(root)
            notice = self.path / _REBOOT_REQUIRED
            first = self.deployments[0]
            if first.equal(self.booted):
                notice.unlink(missing_ok=True)
            elif notice.parent.is_dir():
                digest = self.repository.commit_metadata(first.get_csum()).get("ostree.manifest-digest", "")
                notice.write_text(f"bootc: Reboot required for image: {digest}\n")


def device_is_read_only(path: Path) -> bool:
    """Whether the block device below is read-only; a read-only mount says nothing, libostree remounts."""
    device = path.stat().st_dev
    flag = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/ro")
    try:
        return flag.read_text().strip() == "1"
    except OSError:
        return False


def _kernel_arguments(deployment: Any) -> list[str]:
    """Return a deployment's kernel arguments, without the one libostree sets itself."""
    options = deployment.get_bootconfig().get("options") or ""
    return [argument for argument in _KARG.findall(options) if not argument.startswith("ostree=")]


def _keyfile(text: str) -> Any:
    keyfile = GLib.KeyFile()
    keyfile.load_from_data(text, len(text.encode()), GLib.KeyFileFlags.NONE)
    return keyfile
