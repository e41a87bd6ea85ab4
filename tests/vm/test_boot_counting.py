"""The configuration `bootcd-install` gives GRUB counts boots; shown by GRUB itself, without a system."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bootcd.install.grub import static_config
from bootcd.ostreefmt.grubenv import change_block, empty_block, read_variable
from tests.vm.qemu import missing

pytestmark = pytest.mark.vm

_FIRMWARE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
_MODULES = ["part_gpt", "fat", "ext2", "search", "normal", "configfile", "test", "echo", "loadenv", "serial"]
_MODULES += ["terminal", "reboot", "halt"]
# A kernel that never comes up: the machine starts again, until GRUB falls back.
_NO_KERNEL = """
echo "boot of entry ${default}, left ${boot_counter} ;"
if [ "${default}" = "0" ]; then
  reboot
fi
halt
"""


def make_disks(directory: Path, block: bytes) -> list[Path]:
    """Make an EFI system partition with GRUB, and a /boot with its configuration."""
    (directory / "boot/grub2").mkdir(parents=True)
    config = static_config("", "").removesuffix("blscfg\n")
    (directory / "boot/grub2/grub.cfg").write_text(config + _NO_KERNEL)
    (directory / "boot/grub2/grubenv").write_bytes(block)
    (directory / "early.cfg").write_text(
        "serial --unit=0\nterminal_output serial\nsearch --file --set=root /grub2/grub.cfg\n"
        "set prefix=($root)/grub2\nconfigfile $prefix/grub.cfg\n"
    )
    esp, boot, grub = (directory / name for name in ("esp.img", "boot.img", "grub.efi"))
    mkimage = ["grub-mkimage", "-O", "x86_64-efi", "-c", directory / "early.cfg", "-p", "/grub2", "-o", grub]
    for command in (
        [*mkimage, *_MODULES],
        ["mformat", "-C", "-i", esp, "-T", "65536", "-h", "16", "-s", "32", "::"],
        ["mmd", "-i", esp, "::/EFI", "::/EFI/BOOT"],
        ["mcopy", "-i", esp, grub, "::/EFI/BOOT/BOOTX64.EFI"],
        ["mke2fs", "-q", "-t", "ext4", "-d", directory / "boot", boot, "16M"],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return [esp, boot]


async def boots(directory: Path, disks: list[Path]) -> list[tuple[str, str]]:
    """Start until GRUB falls back; return the entry and the counter of each boot."""
    variables = shutil.copy("/usr/share/OVMF/OVMF_VARS_4M.fd", directory / "vars.fd")
    flash = [f"if=pflash,format=raw,readonly=on,file={_FIRMWARE}", f"if=pflash,format=raw,file={variables}"]
    drives = [f"if=virtio,format=raw,file={disk}" for disk in disks]
    process = await asyncio.create_subprocess_exec(
        *("qemu-system-x86_64", "-machine", "q35", "-m", "256", "-display", "none", "-serial", "stdio"),
        *("-nic", "none", *(word for drive in (*flash, *drives) for word in ("-drive", drive))),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(600):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = re.sub(rb"\x1b\[[0-9;?=]*[a-zA-Z]", b"", output).decode(errors="replace")
    return re.findall(r"boot of entry (\d), left (-?\d*) ;", text)


@pytest.mark.skipif(bool(missing()), reason=missing())
async def test_grub_tries_a_version_that_never_comes_up_some_times_and_falls_back(tmp_path: Path) -> None:
    block = change_block(empty_block(), {"boot_counter": "3", "boot_success": "1"})
    disks = make_disks(tmp_path, block)

    assert await boots(tmp_path, disks) == [("0", "3"), ("0", "2"), ("0", "1"), ("0", "0"), ("1", "-1")]

    left = tmp_path / "grubenv"
    subprocess.run(
        ["debugfs", "-R", f"dump /grub2/grubenv {left}", disks[1]], check=True, capture_output=True
    )
    assert read_variable(left.read_bytes(), "boot_counter") == "-1"
    assert read_variable(left.read_bytes(), "boot_success") == "0"
