"""Installation to file systems the test made and mounted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bootcd.install.arguments import common_options, filesystem_options
from bootcd.install.cli import build_parser
from bootcd.install.layout import MIB
from bootcd.install.loop import loop_device
from bootcd.install.report import Reporter
from bootcd.install.to_filesystem import install_to_filesystem, parse_mounts
from bootcd.model.errors import BootcdError, InvalidArguments, NotBootable, WrongState
from tests.support.install import deployment_of, entry_of, install, raw_disk


def output_of(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@contextmanager
def filesystem(disk: Path, point: Path, *options: str, kind: str = "ext4") -> Iterator[str]:
    """Make a file system, have it mounted, and yield its UUID."""
    raw_disk(disk, 1024 * MIB)
    descriptor = os.open(disk, os.O_RDWR)
    try:
        with loop_device(descriptor, name=str(disk)) as device:
            quiet = ["-q"] if kind != "ext4" else ["-q", "-F"]
            subprocess.run([f"mkfs.{kind}", *quiet, device], check=True)
            point.mkdir(exist_ok=True)
            subprocess.run(["mount", *options, device, point], check=True)
            try:
                yield output_of("blkid", "-p", "-s", "UUID", "-o", "value", device).strip()
            finally:
                subprocess.run(["umount", "--recursive", point], check=True)
    finally:
        os.close(descriptor)


def to_filesystem(
    root: Path, source: str, *more: str, check: bool = True
) -> subprocess.CompletedProcess[str]:
    return install("to-filesystem", "--source-imgref", source, *more, root, check=check)


@pytest.mark.timeout(120)
def test_system_with_a_boot_of_its_own_is_installed(source: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with (
        filesystem(tmp_path / "root.img", root) as uuid,
        filesystem(tmp_path / "boot.img", root / "boot") as boot,
    ):
        done = to_filesystem(root, source, "--bootloader=none")
        assert "Installed oci:" in done.stderr
        options = entry_of(root)["options"].split()
        assert options[:3] == [f"root=UUID={uuid}", "rw", f"boot=UUID={boot}"]
        assert (deployment_of(root) / "etc/fstab").read_text() == f"UUID={boot} /boot auto ro 0 0\n"
        # The entry says /boot/..., the boot loader sees the file system by itself.
        entry = entry_of(root)
        assert entry["linux"].startswith("/boot/ostree/")
        assert (root / "boot" / entry["linux"].lstrip("/")).read_bytes() == b"kernel"
        assert (root / "boot/boot").readlink() == Path()
        # It was left flushed and read-only.
        assert "ro" in output_of("findmnt", "-no", "OPTIONS", root).strip().split(",")


@pytest.mark.timeout(120)
def test_sources_of_file_systems_can_be_given(source: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with filesystem(tmp_path / "root.img", root):
        to_filesystem(
            *(root, source, "--bootloader=none", "--root-mount-spec=LABEL=r", "--boot-mount-spec=LABEL=b"),
            "--skip-finalize",
        )
        assert entry_of(root)["options"].split()[:3] == ["root=LABEL=r", "rw", "boot=LABEL=b"]
        assert (deployment_of(root) / "etc/fstab").read_text() == "LABEL=b /boot auto ro 0 0\n"
        assert "rw" in output_of("findmnt", "-no", "OPTIONS", root).strip().split(",")


@contextmanager
def subvolume(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Have a subvolume of a btrfs mounted; yields where, and the UUID of the file system."""
    top, root = tmp_path / "top", tmp_path / "root"
    with filesystem(tmp_path / "root.img", top, kind="btrfs") as uuid:
        subprocess.run(["btrfs", "--quiet", "subvolume", "create", top / "system"], check=True)
        device = output_of("findmnt", "-no", "SOURCE", top).strip()
        root.mkdir()
        subprocess.run(["mount", "-o", "subvol=system", device, root], check=True)
        try:
            yield root, uuid
        finally:
            subprocess.run(["umount", root], check=True)


@pytest.mark.timeout(120)
def test_subvolume_is_found_by_its_name(source: str, tmp_path: Path) -> None:
    with subvolume(tmp_path) as (root, uuid):
        to_filesystem(root, source, "--bootloader=none", "--skip-finalize")
        options = entry_of(root)["options"].split()
        assert options[:3] == [f"root=UUID={uuid}", "rootflags=subvol=/system", "rw"]


@pytest.mark.timeout(180)
def test_replace_wipe_removes_everything_and_a_system_too(source: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with filesystem(tmp_path / "root.img", root):
        (root / "precious").write_text("data")
        to_filesystem(root, source, "--bootloader=none", "--replace=wipe", "--skip-finalize")
        assert not (root / "precious").exists()
        first = deployment_of(root)
        (first / "etc/mark").touch()
        # What ostree protects from removal goes too.
        to_filesystem(root, source, "--bootloader=none", "--replace=wipe", "--skip-finalize")
        assert not (deployment_of(root) / "etc/mark").exists()
        refused = to_filesystem(root, source, "--bootloader=none", "--replace=alongside", check=False)
        assert (refused.returncode, "ostree system root already" in refused.stderr) == (5, True)


@pytest.mark.timeout(120)
def test_replace_alongside_keeps_all_but_what_boots(source: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with filesystem(tmp_path / "root.img", root):
        (root / "home").mkdir()
        (root / "home/precious").write_text("data")
        (root / "boot").mkdir()
        (root / "boot/vmlinuz-old").write_text("old")
        to_filesystem(root, source, "--bootloader=none", "--replace=alongside")
        assert (root / "home/precious").read_text() == "data"
        assert not (root / "boot/vmlinuz-old").exists()
        assert entry_of(root)["linux"]


async def refused(root: Path, source: str, *more: str) -> BootcdError:
    """Try to install in this process, which is refused before anything is written; returns why."""
    parsed = build_parser().parse_args(["to-filesystem", "--source-imgref", source, *more, str(root)])
    with pytest.raises(BootcdError) as caught:
        await install_to_filesystem(common_options(parsed), filesystem_options(parsed), Reporter(quiet=True))
    return caught.value


async def test_what_is_no_mount_point_is_refused(source: str, tmp_path: Path) -> None:
    assert isinstance(error := await refused(tmp_path, source), InvalidArguments)
    assert "is no mount point" in error.message


@pytest.mark.parametrize(
    "words", [(), ("--replace=wipe", "--acknowledge-destructive"), ("--replace=alongside",)], ids=len
)
async def test_file_system_of_the_system_that_runs_is_refused(words: tuple[str, ...], source: str) -> None:
    assert isinstance(error := await refused(Path("/"), source, *words), WrongState)
    assert "system that runs now" in error.message


async def test_root_that_is_not_empty_needs_replace(source: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with filesystem(tmp_path / "root.img", root):
        (root / "precious").write_text("data")
        for words in ((), ("--acknowledge-destructive",)):
            assert isinstance(error := await refused(root, source, *words), WrongState)
            assert error.message.endswith(f"it has {root}/precious")
        # A mount point that is empty itself does not count.
        (root / "precious").unlink()
        (root / "boot/efi").mkdir(parents=True)
        with filesystem(tmp_path / "boot.img", root / "boot"):
            assert "no EFI system partition" in (await refused(root, source)).message


async def test_root_without_an_efi_system_partition_is_refused(source: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with filesystem(tmp_path / "root.img", root):
        assert isinstance(error := await refused(root, source), NotBootable)
        assert f"{root}/boot/efi" in error.hint
        assert [path.name for path in root.iterdir()] == ["lost+found"]


async def test_subvolume_without_a_boot_of_its_own_is_refused(source: str, tmp_path: Path) -> None:
    with subvolume(tmp_path) as (root, _):
        assert isinstance(error := await refused(root, source), NotBootable)
        assert "btrfs subvolume /system" in error.message
        assert list(root.iterdir()) == []


def test_mounts_are_read_with_their_escapes_and_the_last_one_counts() -> None:
    text = (
        "30 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "31 30 8:2 / /mnt/a\\040b rw shared:1 - xfs /dev/sda2 rw\n"
        "32 30 0:40 /sub /mnt/a\\040b rw - btrfs /dev/sda3 rw\n"
    )
    mounts = {str(mount.point): mount for mount in parse_mounts(text)}
    assert set(mounts) == {"/", "/mnt/a b"}
    assert (mounts["/mnt/a b"].type, mounts["/mnt/a b"].root) == ("btrfs", "/sub")
