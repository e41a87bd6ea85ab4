"""Whether a deployment can be booted by restarting user space alone, by the rules of bootc.

systemd has to know soft reboots, libostree has to find the same kernel state in the deployment, and
SELinux must not run with another policy than the deployment's: a soft reboot does not load it.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from bootcd.model.errors import Unsupported
from bootcd.ostree.libostree import Gio, GLib, OSTree, has, host_errors
from bootcd.ostreefmt.kargs import DEPLOYMENT_KARG

log = logging.getLogger(__name__)

_UNIT = "usr/lib/systemd/system/soft-reboot.target"
_SELINUX = "sys/fs/selinux/enforce"


def require_soft_reboot(sysroot: Any, root: Path = Path("/")) -> None:
    """Raise Unsupported where no deployment at all could be booted so."""
    if not has(sysroot, "deployment_set_soft_reboot") or not (root / _UNIT).exists():
        raise Unsupported(
            "this host cannot soft-reboot: its libostree or its systemd is too old",
            hint="leave the soft reboot out, or let it be automatic",
        )


def prepare_soft_reboot(sysroot: Any, deployment: Any, root: Path = Path("/")) -> bool:
    """Make the next reboot a soft one into a deployment, if it can be; tell whether it is."""
    if not can_soft_reboot(sysroot, deployment, root) or not has(sysroot, "deployment_set_soft_reboot"):
        return False
    with host_errors("prepare the soft reboot"):
        sysroot.deployment_set_soft_reboot(deployment, False, None)  # False: with the same kernel alone
    return True


def can_soft_reboot(sysroot: Any, deployment: Any, root: Path = Path("/")) -> bool:
    """Tell for a deployment of an OSTree.Sysroot; `root` is the running system's."""
    if not has(sysroot, "deployment_can_soft_reboot") or not (root / _UNIT).exists():
        return False
    # Without the argument libostree before 2025.7 crashes on the question.
    if not OSTree.check_version(2025, 7) and not _names_deployment(deployment):
        return False
    try:
        return bool(sysroot.deployment_can_soft_reboot(deployment)) and (
            not (root / _SELINUX).exists() or _has_booted_policy(sysroot, deployment)
        )
    except GLib.Error as error:
        log.debug("deployment %s: %s", deployment.get_csum(), error.message)
        return False


def _names_deployment(deployment: Any) -> bool:
    bootconfig = deployment.get_bootconfig()
    return bootconfig is not None and DEPLOYMENT_KARG in (bootconfig.get("options") or "")


def _has_booted_policy(sysroot: Any, deployment: Any) -> bool:
    booted = sysroot.get_booted_deployment()
    return booted is None or _policy(sysroot, booted) == _policy(sysroot, deployment)


def _policy(sysroot: Any, deployment: Any) -> str | None:
    """Return the checksum of a deployment's policy, None if it has none."""
    directory = Path(sysroot.get_path().get_path(), sysroot.get_deployment_dirpath(deployment))
    checksum: str | None = OSTree.SePolicy.new(Gio.File.new_for_path(str(directory)), None).get_csum()
    return checksum
