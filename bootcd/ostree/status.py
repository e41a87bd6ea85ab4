"""The host's deployments as the status document shows them, and what it has no place for.

Reads without any lock: libostree's files change by atomic renames, so a reader sees the state before or
after a change, never between.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from bootcd.model.errors import BootcdError
from bootcd.model.host import (
    BootEntry,
    Host,
    HostSpec,
    HostState,
    ImageStatus,
    OstreeStatus,
    UsrOverlay,
)
from bootcd.model.report import DeploymentDetails, HostReport
from bootcd.model.trust import parse_verdict
from bootcd.oci.manifest import host_architecture, parse_config
from bootcd.ostree.libostree import OSTree, has
from bootcd.ostree.medium import device_is_read_only
from bootcd.ostree.softreboot import can_soft_reboot
from bootcd.ostree.view import SysrootView, deployment_id, kernel_arguments
from bootcd.ostreefmt.metadata import TRUST, ImageMetadata, parse_cached_update, parse_merge_metadata
from bootcd.ostreefmt.origin import TrackedImage

log = logging.getLogger(__name__)

_NO_CONFIG = "null"
"What early versions of ostree-ext wrote for an image's config; the image is of the host's architecture then."


def read_report(sysroot: SysrootView) -> HostReport:
    """Describe the host in full; the deployments of one that is not booted are left out."""
    host = read_host(sysroot)
    shown = {entry.id for entry in host.status.deployments}
    details = {deployment_id(d): _details(sysroot, d) for d in sysroot.deployments}
    return HostReport(host=host, deployments={id: item for id, item in details.items() if id in shown})


def read_host(sysroot: SysrootView) -> Host:
    """Describe the host. A system root that is not booted is described as an empty host.

    What cannot be understood of one deployment is left out and hides neither it nor the others.
    """
    booted = sysroot.booted
    if booted is None:
        return Host()
    stateroot = booted.get_osname()
    staged = sysroot.staged
    related = [d for d in sysroot.deployments if d.get_osname() == stateroot]
    foreign = [d for d in sysroot.deployments if d.get_osname() != stateroot]
    rest = [d for d in related if not d.is_staged() and not d.equal(booted)]
    rollback = rest.pop(0) if rest else None

    staged_entry = _entry(sysroot, staged) if staged is not None else None
    booted_entry = _entry(sysroot, booted)
    leading = staged_entry or booted_entry
    queued = rollback is not None and rollback.get_index() < booted.get_index()
    return Host(
        spec=HostSpec(
            image=leading.image.image if leading.image else None,
            boot_order="rollback" if queued and leading.image else "default",
        ),
        status=HostState(
            staged=staged_entry,
            booted=booted_entry,
            rollback=_entry(sysroot, rollback) if rollback is not None else None,
            other_deployments=tuple(_entry(sysroot, d) for d in [*rest, *foreign]),
            rollback_queued=queued,
            type="bootcHost" if booted_entry.image else None,
            usr_overlay=_usr_overlay(booted),
            read_only=device_is_read_only(sysroot.repository.path),
        ),
    )


def _details(sysroot: SysrootView, deployment: Any) -> DeploymentDetails:
    return DeploymentDetails(
        kernel_arguments=tuple(kernel_arguments(deployment)),
        trust=parse_verdict(sysroot.repository.commit_metadata(deployment.get_csum()).get(TRUST, "")),
    )


def _entry(sysroot: SysrootView, deployment: Any) -> BootEntry:
    incompatible = sysroot.is_modified(deployment)
    image = cached = None
    if not incompatible and (tracked := sysroot.image(deployment)) is not None:
        image, cached = _images(sysroot, deployment.get_csum(), tracked)
    return BootEntry(
        image=image,
        cached_update=cached,
        incompatible=incompatible,
        pinned=deployment.is_pinned(),
        soft_reboot_capable=can_soft_reboot(sysroot.sysroot, deployment),
        download_only=deployment.is_staged() and sysroot.is_staged_locked(),
        ostree=OstreeStatus(
            stateroot=deployment.get_osname(),
            checksum=deployment.get_csum(),
            deploy_serial=deployment.get_deployserial(),
        ),
    )


def _images(
    sysroot: SysrootView, commit: str, tracked: TrackedImage
) -> tuple[ImageStatus | None, ImageStatus | None]:
    repository = sysroot.repository
    here = _image(tracked, lambda: parse_merge_metadata(repository.commit_metadata(commit)))
    if here is None:
        return None, None
    return here, _image(tracked, lambda: parse_cached_update(repository.detached_metadata(commit)))


def _image(tracked: TrackedImage, read: Callable[[], ImageMetadata | None]) -> ImageStatus | None:
    try:
        metadata = read()
        if metadata is None:
            return None
        if metadata.config_json == _NO_CONFIG:
            architecture, _ = host_architecture(os.uname().machine)
            return ImageStatus(
                image=tracked.status, image_digest=metadata.manifest_digest, architecture=architecture
            )
        config = parse_config(metadata.config_json.encode())
    except BootcdError as error:
        log.warning("image %s: %s", tracked.name, error.message)
        return None
    return ImageStatus(
        image=tracked.status,
        version=config.version,
        timestamp=config.timestamp,
        image_digest=metadata.manifest_digest,
        architecture=config.architecture,
    )


def _usr_overlay(booted: Any) -> UsrOverlay | None:
    state = booted.get_unlocked()
    states = OSTree.DeploymentUnlockedState
    if state == states.DEVELOPMENT:
        return UsrOverlay(access_mode="readWrite", persistence="transient")
    if state == states.HOTFIX:
        return UsrOverlay(access_mode="readWrite", persistence="persistent")
    if has(states, "TRANSIENT") and state == states.TRANSIENT:
        return UsrOverlay(access_mode="readOnly", persistence="transient")
    return None
