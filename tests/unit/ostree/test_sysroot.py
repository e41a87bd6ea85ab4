"""What of the system root can be told from texts, and a read-only disk."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bootcd.ostree.sysroot import device_is_read_only, mount_source

MOUNTS = r"""
22 1 0:20 / / rw,relatime shared:1 - overlay overlay rw
23 22 0:35 /root /sysroot ro shared:2 master:1 - btrfs /dev/vda3 rw,subvolid=256
24 23 8:1 / /sysroot/a\040b rw - ext4 /dev/disk/by-label/a\040b rw
25 22 8:2 / /sys rw - sysfs sysfs rw
26 23 8:9 / /sysroot rw - btrfs /dev/later rw
""".strip()


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("/", "overlay"),
        ("/sysroot/a b/ostree/repo", "/dev/disk/by-label/a b"),
        ("/system", "overlay"),
        ("/sysroot/ostree/repo", "/dev/later"),
    ],
)
def test_mount_source_is_of_the_last_mount_nearest_to_the_path(path: str, source: str) -> None:
    assert mount_source(MOUNTS, Path(path)) == source


@pytest.mark.parametrize("read_only", [False, True], ids=["writable", "read-only"])
def test_device_is_read_only_tells_the_disk_from_the_mount(tmp_path: Path, read_only: bool) -> None:
    image, mount = tmp_path / "disk", tmp_path / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(2 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    attach = ["losetup", "--find", "--show", *(["--read-only"] if read_only else []), image]
    try:
        device = subprocess.run(attach, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs loop devices")
    try:
        # Mounted read-only in either case, as /sysroot is: that alone says nothing.
        mounting = subprocess.run(["mount", "-o", "ro,noload", device, mount], check=False)
        if mounting.returncode:
            pytest.skip("needs the right to mount")
        try:
            assert device_is_read_only(mount) is read_only
        finally:
            subprocess.run(["umount", mount], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_device_is_read_only_where_there_is_no_device_is_false() -> None:
    assert os.major(Path("/proc").stat().st_dev) == 0
    assert device_is_read_only(Path("/proc")) is False
    assert device_is_read_only(Path("/nonexistent")) is False
