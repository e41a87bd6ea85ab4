"""Deployments of the host: stage, lock, roll back, clean up.

Everything is libostree's own doing: the three-way merge of /etc, boot entries, finalisation at shutdown.
The conventions on top are bootc's: the origin file, kernel arguments of host and image, what is garbage, what
other programs are told.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bootcd.host.composefs import booted_composefs
from bootcd.host.files import read_bounded, write_atomic
from bootcd.model.errors import (
    BackendFailed,
    BootcdError,
    Busy,
    LocalModifications,
    NotBootcSystem,
    ReadOnlyHost,
    Unsupported,
    WrongState,
)
from bootcd.ostree.kargs import read_deployed_kargs, read_kargs
from bootcd.ostree.libostree import Gio, GLib, OSTree, has, host_errors
from bootcd.ostree.repository import Repository
from bootcd.ostreefmt.kargs import DEPLOYMENT_KARG, merge_kargs, split_kargs
from bootcd.ostreefmt.metadata import MANIFEST_DIGEST, parse_merge_metadata
from bootcd.ostreefmt.origin import LOCAL_CHANGE_GROUPS, Origin, TrackedImage, parse_origin

log = logging.getLogger(__name__)

LOCK_WAIT_SECS = 5.0
_LOCK_POLL_SECS = 0.25
_STAGED = "run/ostree/staged-deployment"
_LEGACY_LOCK = "run/ostree/staged-deployment-locked"
_DEPLOYMENTS = "ostree/deploy"
_REBOOT_REQUIRED = "run/reboot-required"
_NOTICE_LIMIT = 64 << 10
_NOTICE_PREFIX = "bootc: "
_BOOTC_ROOT = "sysroot/ostree/bootc"
_FIRST_KARGS = ["rw"]
"Of a host that has none yet."


class Sysroot:
    """The host's system root. Not for several threads at a time."""

    def __init__(self, path: Path, *, own_mounts: bool = False) -> None:
        """Open it for reading; nothing is locked or changed.

        Args:
            own_mounts: this process has a mount namespace of its own, in which libostree may make /sysroot
                and /boot writable.
        Raises:
            NotBootcSystem: there is no ostree system root.
            Unsupported: the host boots a composefs image instead.
        """
        if booted_composefs(path) is not None:
            raise Unsupported(
                "this host boots a composefs image, which is not kept by ostree",
                hint="manage it with bootc",
            )
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
        """The staged deployment of the booted state root, or None; another root's does not replace ours."""
        staged, booted = self.sysroot.get_staged_deployment(), self.booted
        if staged is None or booted is None or staged.get_osname() != booted.get_osname():
            return None
        return staged

    @property
    def newest(self) -> Any:
        """What the next upgrade starts from: the staged deployment, else the booted one, else None."""
        return self.staged or self.booted

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
        """Return a deployment's origin; for errors see `parse_origin`."""
        keyfile = deployment.get_origin()
        return parse_origin(keyfile.to_data()[0]) if keyfile is not None else Origin()

    def image(self, deployment: Any) -> TrackedImage | None:
        """Return the image a deployment tracks, None also where its origin cannot be understood."""
        try:
            return self.origin(deployment).image
        except BootcdError as error:
            log.warning("deployment %s: %s", deployment.get_csum(), error.message)
            return None

    def image_digest(self, deployment: Any) -> str:
        """Return the digest of a deployment's image, empty if it has none that can be read."""
        try:
            known = parse_merge_metadata(self.repository.commit_metadata(deployment.get_csum()))
        except BackendFailed as error:
            log.warning("deployment %s: %s", deployment.get_csum(), error.message)
            return ""
        return known.manifest_digest if known else ""

    def is_modified(self, deployment: Any) -> bool:
        """Whether packages were layered or overridden in a deployment, whatever else its origin says."""
        keyfile = deployment.get_origin()
        return keyfile is not None and not LOCAL_CHANGE_GROUPS.isdisjoint(keyfile.get_groups()[0])

    def require_unmodified(self) -> None:
        """Refuse where the next deployment would lose what was changed in the newest one.

        Raises:
            LocalModifications: packages were layered or overridden.
        """
        if self.newest is not None and self.is_modified(self.newest):
            raise LocalModifications(
                "this host has layered packages or overrides, which an image update would lose",
                hint="remove them with rpm-ostree reset, or keep updating with rpm-ostree",
            )

    def tracked_image(self) -> TrackedImage:
        """Return the image the next upgrade pulls: the newest deployment's.

        Raises:
            LocalModifications: packages were layered or overridden, an upgrade would lose them.
            WrongState: the host was not deployed from an image.
            NotBootcSystem: this system was not booted from a deployment.
        """
        self.require_booted()
        self.require_unmodified()
        origin = self.origin(self.newest)
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
        """Whether a reboot would leave what is staged unapplied (download-only)."""
        staged = self.sysroot.get_staged_deployment()
        if staged is None:
            return False
        if has(staged, "is_finalization_locked") and staged.is_finalization_locked():
            return True
        return (self.path / _LEGACY_LOCK).exists()

    def require_writable(self) -> None:
        """Refuse a medium that can never be written, such as a live image."""
        if device_is_read_only(self.repository.path):
            raise ReadOnlyHost("the disk of this host is read-only", hint="is this a live medium?")

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
        self._announce()

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
        path = self.path / _LEGACY_LOCK
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
        self._announce()

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
        self._announce()

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
        """Set the time of bootc's directory, by which its users notice changes; bootc makes it."""
        root = self.path / _BOOTC_ROOT
        try:
            if root.is_dir():
                os.utime(root)
        except OSError as error:
            # What was done is done, whoever gets to know.
            log.warning("the time of %s cannot be set: %s", root, error.strerror)

    def _announce(self) -> None:
        """Tell other programs of a new boot order: users of bootc, and those who reboot hosts (kured)."""
        self.tell_watchers()
        notice = self.path / _REBOOT_REQUIRED
        first = self.deployments[0]
        try:
            if not first.equal(self.booted):
                if notice.parent.is_dir():
                    text = f"{_NOTICE_PREFIX}Reboot required for image: {self._label(first)}\n"
                    write_atomic(notice, text.encode(), mode=0o644, durable=False)
            # A package manager's notice is not ours to take back.
            elif read_bounded(notice, _NOTICE_LIMIT).startswith(_NOTICE_PREFIX.encode()):
                notice.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("%s cannot be written: %s", notice, error.strerror)

    def _label(self, deployment: Any) -> str:
        commit = str(deployment.get_csum())
        try:
            return self.repository.commit_metadata(commit).get(MANIFEST_DIGEST, commit)
        except BootcdError:
            return commit


def device_is_read_only(path: Path) -> bool:
    """Whether the block device below is read-only; a read-only mount says nothing, libostree remounts."""
    try:
        device = path.stat().st_dev
        if os.major(device) == 0:
            # A device of the file system's own making, as of btrfs; the mount names the real one.
            source = Path(mount_source(Path("/proc/self/mountinfo").read_text(), path.resolve())).stat()
            if not stat.S_ISBLK(source.st_mode):
                return False
            device = source.st_rdev
        flag = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/ro")
        return flag.read_text().strip() == "1"
    except OSError:
        return False


def mount_source(mountinfo: str, path: Path) -> str:
    """Return what is mounted where an absolute path lies, by the text of proc_pid_mountinfo(5)."""
    best, source = -1, ""
    for line in mountinfo.splitlines():
        mount, _, device = line.partition(" - ")
        point = Path(_unescape_mount(mount.split(" ")[4]))
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, source = len(point.parts), _unescape_mount(device.split(" ")[1])
    return source


def _unescape_mount(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def deployment_id(deployment: Any) -> str:
    """Return what `BootEntry.id` is for a deployment."""
    return f"{deployment.get_csum()}.{deployment.get_deployserial()}"


def keep_staged_marks(root: Path, bootconfig: Any) -> None:
    """Put the marks that were staged on the boot entry of the deployment the next staging merges with.

    Keys of an entry that are not libostree's, such as bootc's `x-options-source-NAME`, say whose kernel
    arguments are whose. libostree takes those of the merge deployment over, from 2026.1 on; which of two
    stagings it believes differs between its versions, unless the keys are set anew.
    https://ostreedev.github.io/ostree/bootconfig-extra/
    """
    try:
        data = read_bounded(root / _STAGED, _NOTICE_LIMIT)
    except OSError:
        return
    staged = GLib.Variant.new_from_bytes(GLib.VariantType("a{sv}"), GLib.Bytes.new(data), False)
    for key, value in staged.get_normal_form().unpack().get("bootconfig-extra", {}).items():
        bootconfig.set(key, value)


def kernel_arguments(deployment: Any) -> list[str]:
    """Return a deployment's kernel arguments, without the one libostree sets itself."""
    options = split_kargs(deployment.get_bootconfig().get("options") or "")
    return [argument for argument in options if not argument.startswith(DEPLOYMENT_KARG)]


def _keyfile(text: str) -> Any:
    keyfile = GLib.KeyFile()
    keyfile.load_from_data(text, len(text.encode()), GLib.KeyFileFlags.NONE)
    return keyfile
