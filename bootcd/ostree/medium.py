"""The disk a system root lies on: one that can never be written, as on a live medium, shows by its device."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path


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
