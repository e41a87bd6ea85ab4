"""Boot loaders that an image brings ready, or installs by itself."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from bootcd.install import esp as esp_module
from bootcd.install import tools
from bootcd.install.bootloader import BootPlace, install_bootloader
from bootcd.install.esp import MountedEsp, RawEsp
from bootcd.install.grub import Choice, Method
from bootcd.install.layout import MIB
from bootcd.model.errors import BackendFailed, NotBootable
from tests.support.install import esp_files, esp_read, install, partition, raw_disk, small_image, write_layout
from tests.support.oci_image import file

READY = {
    "usr/lib/efi/shim/15.8-3/EFI/BOOT/BOOTX64.EFI": b"shim as fallback",
    "usr/lib/efi/shim/15.8-3/EFI/fedora/shimx64.efi": b"shim",
    "usr/lib/efi/grub2/2.12-30/EFI/fedora/grubx64.efi": b"grub",
}


@pytest.mark.timeout(120)
def test_ready_files_are_copied_with_a_configuration_beside_grub(disk: Path, tmp_path: Path) -> None:
    image = small_image([file(path, data) for path, data in READY.items()], grub=False)
    source = write_layout(image, tmp_path / "layout")
    install("to-disk", "--via-loopback", "--filesystem=ext4", "--source-imgref", source, disk)
    places = {re.sub(r".*/(EFI/.*)", r"\1", path): data for path, data in READY.items()}
    assert esp_files(disk) == {*places, "EFI/fedora/grub.cfg"}
    for path, data in places.items():
        assert esp_read(disk, path) == data
    config = esp_read(disk, "EFI/fedora/grub.cfg").decode()
    assert "\nset prefix=($root)/boot/grub2\n" in config
    with partition(disk, tmp_path / "root") as root:
        assert (root / "boot/grub2/grub.cfg").read_text().endswith("\nblscfg\n")


@pytest.fixture
def deployment(tmp_path: Path) -> Path:
    """A directory in which a shell of this machine runs."""
    root = tmp_path / "deployment"
    linked = subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True, check=True).stdout
    for path in ["/bin/sh", *re.findall(r"/\S+", linked)]:
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(Path(path).read_bytes())
        target.chmod(0o755)
    for name in ("dev", "proc", "sys", "run", "sysroot", "boot", "usr/bin"):
        (root / name).mkdir(parents=True, exist_ok=True)
    return root


def bootupctl(deployment: Path, script: str) -> None:
    program = deployment / "usr/bin/bootupctl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def place(tmp_path: Path, deployment: Path) -> BootPlace:
    root = tmp_path / "physical"
    (root / "boot/loader").mkdir(parents=True)
    return BootPlace(root, deployment, "uuid", "ext4", separate_boot=False, disk="/dev/example")


async def test_bootupd_runs_in_the_image_and_sees_disk_and_boot(tmp_path: Path, deployment: Path) -> None:
    bootupctl(
        deployment,
        'test -c /dev/null && test -d /proc/1 && test -d /boot/loader && echo "$@" >/sysroot/arguments',
    )
    where = place(tmp_path, deployment)
    await install_bootloader(
        Choice(Method.BOOTUPD), where, None, machine="x86_64", generic=True, static_only=False
    )
    expected = "backend install --write-uuid --device /dev/example /\n"
    assert (where.root / "arguments").read_text() == expected
    # What was mounted for it is not any more.
    assert not any(
        (deployment / name).is_mount() for name in ("dev", "proc", "sys", "run", "sysroot", "boot")
    )


async def test_bootupd_that_fails_is_an_error_with_its_words(tmp_path: Path, deployment: Path) -> None:
    bootupctl(deployment, "echo error: no such disk >&2; exit 3")
    with pytest.raises(BackendFailed, match="no such disk"):
        await install_bootloader(
            Choice(Method.BOOTUPD),
            place(tmp_path, deployment),
            None,
            machine="x86_64",
            generic=False,
            static_only=True,
        )
    assert not (deployment / "boot").is_mount()


async def test_boot_loader_without_a_partition_for_it_is_refused(tmp_path: Path, deployment: Path) -> None:
    with pytest.raises(NotBootable):
        await install_bootloader(
            Choice(Method.READY),
            place(tmp_path, deployment),
            None,
            machine="s390x",
            generic=True,
            static_only=False,
        )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "tree"
    (path / "EFI/BOOT").mkdir(parents=True)
    (path / "EFI/BOOT/BOOTX64.EFI").write_bytes(b"new")
    return path


async def test_raw_partition_is_cleared_and_filled(tmp_path: Path, tree: Path) -> None:
    disk = raw_disk(tmp_path / "disk.img", 64 * MIB)
    subprocess.run(["mkfs.fat", disk], check=True, capture_output=True)
    esp = RawEsp(disk)
    await esp.clear()  # nothing there is fine
    old = tmp_path / "old"
    (old / "EFI/old").mkdir(parents=True)
    (old / "EFI/old/old.efi").write_bytes(b"old")
    (old / "notes").write_bytes(b"kept")
    await esp.put(old)
    await esp.clear()
    await esp.put(tree)
    await esp.put(tree)
    assert esp_files(disk, 0) == {"EFI/BOOT/BOOTX64.EFI", "notes"}
    assert esp_read(disk, "EFI/BOOT/BOOTX64.EFI", 0) == b"new"


async def test_raw_partition_that_is_none_is_an_error(tmp_path: Path, tree: Path) -> None:
    with pytest.raises(BackendFailed, match="EFI system partition"):
        await RawEsp(raw_disk(tmp_path / "disk.img", 4 * MIB)).put(tree)


async def test_mounted_partition_is_cleared_filled_and_flushed(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = tmp_path / "esp"
    flushed: list[Path] = []

    async def run_tool(argv: Sequence[str], doing: str) -> bytes:
        if argv[:2] == ["sync", "--file-system"]:
            assert (mounted / "EFI/BOOT/BOOTX64.EFI").exists()
            flushed.append(Path(argv[2]))
        return await tools.run_tool(argv, doing)

    monkeypatch.setattr(esp_module, "run_tool", run_tool)
    (mounted / "EFI/old").mkdir(parents=True)
    esp = MountedEsp(mounted)
    await esp.clear()
    await esp.put(tree)
    assert flushed == [mounted]
    assert [str(path.relative_to(mounted)) for path in mounted.rglob("*") if path.is_file()] == [
        "EFI/BOOT/BOOTX64.EFI"
    ]
