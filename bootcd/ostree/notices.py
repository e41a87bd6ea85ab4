"""What other programs are told of a change: users of bootc, and those who reboot hosts (kured)."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from bootcd.host.files import read_bounded, write_atomic
from bootcd.model.errors import BootcdError
from bootcd.ostree.view import SysrootView
from bootcd.ostreefmt.metadata import MANIFEST_DIGEST

log = logging.getLogger(__name__)

_BOOTC_ROOT = "sysroot/ostree/bootc"
_REBOOT_REQUIRED = "run/reboot-required"
_LIMIT = 64 << 10
_PREFIX = "bootc: "


def tell_watchers(path: Path) -> None:
    """Set the time of bootc's directory, by which its users notice changes; bootc makes it."""
    root = path / _BOOTC_ROOT
    try:
        if root.is_dir():
            os.utime(root)
    except OSError as error:
        # What was done is done, whoever gets to know.
        log.warning("the time of %s cannot be set: %s", root, error.strerror)


def announce_boot_order(view: SysrootView) -> None:
    """Tell of a new boot order, and whether a reboot is required by it."""
    tell_watchers(view.path)
    notice = view.path / _REBOOT_REQUIRED
    first = view.deployments[0]
    try:
        if not first.equal(view.booted):
            if notice.parent.is_dir():
                text = f"{_PREFIX}Reboot required for image: {_label(view, first.get_csum())}\n"
                write_atomic(notice, text.encode(), mode=0o644, durable=False)
        # A package manager's notice is not ours to take back.
        elif read_bounded(notice, _LIMIT).startswith(_PREFIX.encode()):
            notice.unlink()
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("%s cannot be written: %s", notice, error.strerror)


def _label(view: SysrootView, commit: str) -> str:
    try:
        return view.repository.commit_metadata(commit).get(MANIFEST_DIGEST, commit)
    except BootcdError:
        return commit
