"""The booted version and the one before it, and the boot order of the two, on hosts of either kind.

`bootcd.health` judges and remembers in the same way on all of them; what differs is who describes the
deployments and turns their order: libostree, or the `bootc` command.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from bootcd.bootc.command import Bootc
from bootcd.engine.deployments import Deployments
from bootcd.health.boot import TARGET, UNIT
from bootcd.health.entrycount import read_entries
from bootcd.host.composefs import BOOTC, choose_backend
from bootcd.host.mounts import unshare_mounts
from bootcd.model.errors import BackendFailed
from bootcd.model.host import BootEntry, Host
from bootcd.model.job import JobKind, JobRequest
from bootcd.ostree.status import read_host
from bootcd.ostree.sysroot import Sysroot
from bootcd.ostreefmt.bootentries import first_image

_ETC = "sysroot/state/deploy/{}/etc"
"Of a deployment of a composefs image."
_UNIT_FILE = f"usr/lib/systemd/system/{UNIT}"


@dataclass(frozen=True, slots=True)
class Booted:
    """The booted version and the one before it, by digest, or by deployment where there is no image."""

    digest: str = ""
    image: str = ""
    version: str = ""
    target: str = ""
    target_image: str = ""
    target_version: str = ""
    id: str = ""
    target_id: str = ""
    target_next: bool = False
    "The next boot is into the target: it comes first in the boot order, and was not what came up now."


@dataclass(frozen=True, slots=True)
class Staged:
    """What the next boot is into for the first time."""

    id: str
    judged: bool
    "It has what judges its boots; else nobody would stop counting them."
    systemd_boot: bool = False


class Deployed(Protocol):
    """What is deployed on a host. Every method blocks, and raises BootcdError."""

    def look(self) -> Booted: ...

    def staged(self) -> Staged | None: ...

    def boot_next(self, *, target: bool) -> None:
        """Let the next boot be into the target, or else into what is booted; nothing if it is so already.

        Call it while the process has one thread, as it may move to a mount namespace of its own.
        """
        ...


def deployed_on(root: Path, backend: str) -> Deployed:
    """Return what is deployed below `root`, as the configuration's `backend` has it read."""
    return BootcDeployed(root) if choose_backend(backend, root) == BOOTC else OstreeDeployed(root)


class OstreeDeployed:
    def __init__(self, root: Path) -> None:
        self._root = root

    def look(self) -> Booted:
        sysroot = Sysroot(self._root)
        booted, target = sysroot.require_booted(), sysroot.rollback_target()
        return _booted(
            read_host(sysroot),
            digest=_name(sysroot, booted),
            target=_name(sysroot, target) if target is not None else "",
            target_next=sysroot.rollback_queued(),
        )

    def boot_next(self, *, target: bool) -> None:
        sysroot = Sysroot(self._root, own_mounts=unshare_mounts())
        if sysroot.rollback_queued() is not target:
            request = JobRequest(uuid=str(uuid4()), kind=JobKind.ROLLBACK)
            asyncio.run(Deployments(sysroot).rollback(request, lambda _: None))

    def staged(self) -> Staged | None:
        sysroot = Sysroot(self._root)
        if sysroot.staged is None:
            return None
        directory: str = sysroot.sysroot.get_deployment_dirpath(sysroot.staged)
        return Staged(directory, judged=(self._root / directory / _UNIT_FILE).is_file())


class BootcDeployed:
    def __init__(self, root: Path, bootc: Bootc | None = None) -> None:
        self._root = root
        self._bootc = bootc or Bootc()

    def look(self) -> Booted:
        host = asyncio.run(self._bootc.status())
        booted, target = host.status.booted, host.status.rollback
        return _booted(
            host, digest=_digest(booted), target=_digest(target), target_next=self._target_next(host)
        )

    def _target_next(self, host: Host) -> bool:
        booted, target = host.status.booted, host.status.rollback
        if booted and target and _is_unified(booted):
            # Of these bootc 1.16.9, and what is older, tells the reverse: https://github.com/bootc-dev/bootc/issues/2405
            first = first_image(read_entries(self._root), (booted.id, target.id))
            if first:
                return first == target.id
        return host.status.rollback_queued

    def boot_next(self, *, target: bool) -> None:
        if self.look().target_next is target:
            return
        asyncio.run(self._bootc.run("change the boot order", "rollback"))
        if self.look().target_next is not target:
            raise BackendFailed("bootc has changed the boot order, and what boots next is the same as before")

    def staged(self) -> Staged | None:
        staged = asyncio.run(self._bootc.status()).status.staged
        if staged is None or staged.download_only or not staged.composefs:
            return None
        # Of the image itself only /etc can be read before it is booted.
        enabled = self._root / _ETC.format(staged.id) / "systemd/system" / f"{TARGET}.requires" / UNIT
        return Staged(
            staged.id,
            judged=enabled.is_symlink(),
            systemd_boot=staged.composefs.get("bootloader") == "systemd",
        )


def _is_unified(entry: BootEntry) -> bool:
    """Tell whether systemd-boot starts it as a unified kernel image."""
    composefs = entry.composefs or {}
    return (composefs.get("bootType"), composefs.get("bootloader")) == ("Uki", "systemd")


def _booted(host: Host, *, digest: str, target: str, target_next: bool) -> Booted:
    status = host.status
    image = status.booted.image if status.booted else None
    before = status.rollback.image if status.rollback else None
    return Booted(
        digest=digest,
        image=image.image.image if image else "",
        version=(image.version or "") if image else "",
        target=target,
        id=status.booted.id if status.booted else "",
        target_id=status.rollback.id if status.rollback else "",
        target_image=before.image.image if before else "",
        target_version=(before.version or "") if before else "",
        target_next=target_next,
    )


def _digest(entry: BootEntry | None) -> str:
    if entry is None:
        return ""
    return entry.image.image_digest if entry.image else entry.id


def _name(sysroot: Sysroot, deployment: Any) -> str:
    return sysroot.image_digest(deployment) or str(deployment.get_csum())
