"""Installation to file systems the test made and mounted."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from bootcd.install import to_filesystem as to_filesystem_module
from bootcd.install import tools
from bootcd.install.arguments import common_options, filesystem_options
from bootcd.install.cli import build_parser
from bootcd.install.layout import ESP_TYPE, MIB
from bootcd.install.loop import loop_device
from bootcd.install.populate import finalize
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


async def test_what_is_mounted_below_for_another_purpose_is_not_wiped(source: str, tmp_path: Path) -> None:
    root, home = tmp_path / "root", tmp_path / "home"
    home.mkdir()
    (home / "precious").write_text("data")
    with filesystem(tmp_path / "root.img", root):
        (root / "home").mkdir()
        subprocess.run(["mount", "--bind", home, root / "home"], check=True)
        assert isinstance(error := await refused(root, source, "--replace=wipe"), WrongState)
        assert error.message.startswith(f"{root}/home is a mount point")
    assert (home / "precious").read_text() == "data"


async def test_boot_of_the_system_that_runs_is_not_taken(source: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp") as boot,
        filesystem(tmp_path / "root.img", root),
    ):
        (root / "boot").mkdir()
        # A directory of the root file system of this machine.
        subprocess.run(["mount", "--bind", boot, root / "boot"], check=True)
        if Path(boot).stat().st_dev != Path("/").stat().st_dev:
            pytest.skip("temporary files are on a file system of their own here")
        for words in ((), ("--replace=wipe",), ("--replace=alongside",)):
            assert isinstance(error := await refused(root, source, *words), WrongState)
            assert error.message.endswith("boots the system that runs now")


@contextmanager
def esp_beside(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Have a device stand for the EFI system partition on the disk of a root."""
    disk = raw_disk(tmp_path / "esp.img", 64 * MIB)
    subprocess.run([*kind.split(), disk], check=True, capture_output=True)
    found: list[Path] = []
    monkeypatch.setattr(to_filesystem_module, "_siblings", lambda _: found)

    async def run_tool(argv: Sequence[str], doing: str) -> bytes:
        return ESP_TYPE.encode() if "PART_ENTRY_TYPE" in argv else await tools.run_tool(argv, doing)

    monkeypatch.setattr(to_filesystem_module, "run_tool", run_tool)
    descriptor = os.open(disk, os.O_RDWR)
    try:
        with loop_device(descriptor, name=str(disk)) as name:
            found.append(Path(name))
            yield Path(name)
    finally:
        os.close(descriptor)


async def test_efi_system_partition_others_use_is_refused(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, point = tmp_path / "root", tmp_path / "esp"
    point.mkdir()
    with (
        filesystem(tmp_path / "root.img", root),
        esp_beside("mkfs.ext4 -q -F", monkeypatch, tmp_path) as device,
    ):
        # This kernel need not know FAT for it to be mounted.
        subprocess.run(["mount", device, point], check=True)
        try:
            for words in ((), ("--replace=wipe",)):
                assert isinstance(error := await refused(root, source, *words), WrongState)
                assert f"{device} is mounted at {point}" in error.message
        finally:
            subprocess.run(["umount", point], check=True)


async def test_efi_system_partition_with_boot_loaders_needs_replace(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    with (
        filesystem(tmp_path / "root.img", root),
        esp_beside("mkfs.fat", monkeypatch, tmp_path) as device,
    ):
        subprocess.run(["mmd", "-i", device, "::/EFI"], check=True)
        assert isinstance(error := await refused(root, source), WrongState)
        assert f"{device} has boot loaders already" in error.message
        assert "--replace alongside" in error.hint


async def test_stopped_flush_leaves_no_file_system_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, programs = tmp_path / "root", tmp_path / "bin"
    programs.mkdir()
    begun = programs / "begun"
    os.mkfifo(begun)
    # Slow between freezing and thawing, where a signal is most likely to come.
    script = f'/usr/sbin/fsfreeze "$@" || exit\nif [ $1 = --freeze ]; then : >{begun}; sleep 0.3; fi\n'
    (programs / "fsfreeze").write_text(f"#!/bin/sh\n{script}")
    (programs / "fsfreeze").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    with filesystem(tmp_path / "root.img", root):
        work = asyncio.ensure_future(finalize(root))
        await asyncio.to_thread(begun.read_bytes)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        thawed = subprocess.run(["/usr/sbin/fsfreeze", "--freeze", root], check=False).returncode == 0
        subprocess.run(["/usr/sbin/fsfreeze", "--unfreeze", root], check=True)
        assert thawed


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
