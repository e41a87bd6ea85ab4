"""What of the system root can be told from texts, a read-only disk, and the lock of newer libostree."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bootcd.model.errors import WrongState
from bootcd.ostree.medium import device_is_read_only, mount_source
from bootcd.ostree.sysroot import Sysroot

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


class NewerSysroot:
    """The finalisation lock as libostree has it since 2023.8, which is newer than the one tests run with.

    It toggles by what was loaded, and load() looks again only if the time of ostree/deploy has changed.
    """

    def __init__(self, root: Path) -> None:
        self._deploy = root / "ostree/deploy"
        self._legacy = root / "run/ostree/staged-deployment-locked"
        self._deploy.mkdir(parents=True)
        self._legacy.parent.mkdir(parents=True)
        self.locked_on_disk = self._loaded = False
        self._seen = 0
        self.load(None)

    def load(self, _: None) -> None:
        if (now := self._deploy.stat().st_mtime_ns) != self._seen:
            self._seen, self._loaded = now, self.locked_on_disk

    def change_finalization(self, deployment: NewerSysroot) -> None:
        assert deployment is self
        self.locked_on_disk = not self._loaded
        if self.locked_on_disk:
            self._legacy.touch()
        else:
            self._legacy.unlink(missing_ok=True)

    def is_finalization_locked(self) -> bool:
        return self._loaded

    def get_staged_deployment(self) -> NewerSysroot:
        return self

    def get_booted_deployment(self) -> NewerSysroot:
        return self

    def get_osname(self) -> str:
        return "default"


@pytest.fixture
def newer(tmp_path: Path) -> tuple[Sysroot, NewerSysroot]:
    sysroot = Sysroot.__new__(Sysroot)
    sysroot.path = tmp_path
    sysroot.sysroot = host = NewerSysroot(tmp_path)
    return sysroot, host


def test_set_staged_lock_of_newer_libostree_holds_in_any_order(
    newer: tuple[Sysroot, NewerSysroot], tmp_path: Path
) -> None:
    sysroot, host = newer
    for locked in (True, True, False, False, True, False):
        sysroot.set_staged_lock(locked)

        assert host.locked_on_disk is locked
        assert sysroot.is_staged_locked() is locked
        assert (tmp_path / "run/ostree/staged-deployment-locked").exists() is locked


@pytest.mark.parametrize("wanted", [True, False], ids=["lock", "unlock"])
def test_set_staged_lock_after_another_program_changed_it_does_not_toggle_blindly(
    newer: tuple[Sysroot, NewerSysroot], wanted: bool
) -> None:
    sysroot, host = newer
    sysroot.set_staged_lock(not wanted)
    host.locked_on_disk = wanted

    sysroot.set_staged_lock(wanted)

    assert host.locked_on_disk is wanted


def test_set_staged_lock_with_nothing_staged_is_refused(newer: tuple[Sysroot, NewerSysroot]) -> None:
    sysroot, host = newer
    host.get_staged_deployment = lambda: None  # type: ignore[method-assign, return-value]

    with pytest.raises(WrongState):
        sysroot.set_staged_lock(True)
