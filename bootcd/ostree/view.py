"""What is deployed on a host: deployments by their roles, and what their origins and images say.

Nothing here takes the lock or changes anything, so it is what shows the host to whoever asks.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from bootcd.host.composefs import booted_composefs
from bootcd.model.errors import (
    BackendFailed,
    BootcdError,
    LocalModifications,
    NotBootcSystem,
    ReadOnlyHost,
    Unsupported,
    WrongState,
)
from bootcd.ostree.libostree import Gio, OSTree, has, host_errors
from bootcd.ostree.medium import device_is_read_only
from bootcd.ostree.repository import Repository
from bootcd.ostreefmt.kargs import DEPLOYMENT_KARG, split_kargs
from bootcd.ostreefmt.metadata import parse_merge_metadata
from bootcd.ostreefmt.origin import LOCAL_CHANGE_GROUPS, Origin, TrackedImage, parse_origin

log = logging.getLogger(__name__)

LEGACY_LOCK = "run/ostree/staged-deployment-locked"
"Keeps what is staged from being applied, with every libostree."


class SysrootView:
    """A system root as it was when it was loaded. Not for several threads at a time."""

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

    def reload(self) -> None:
        with host_errors("read the deployments", path=str(self.path)):
            self.sysroot.load(None)

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
        return (self.path / LEGACY_LOCK).exists()

    def require_writable(self) -> None:
        """Refuse a medium that can never be written, such as a live image."""
        if device_is_read_only(self.repository.path):
            raise ReadOnlyHost("the disk of this host is read-only", hint="is this a live medium?")


def deployment_id(deployment: Any) -> str:
    """Return what `BootEntry.id` is for a deployment."""
    return f"{deployment.get_csum()}.{deployment.get_deployserial()}"


def kernel_arguments(deployment: Any) -> list[str]:
    """Return a deployment's kernel arguments, without the one libostree sets itself."""
    options = split_kargs(deployment.get_bootconfig().get("options") or "")
    return [argument for argument in options if not argument.startswith(DEPLOYMENT_KARG)]
