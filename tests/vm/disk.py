"""A disk with the test system on it, made by the installer under test."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.vm.image import REPOSITORY, Images
from tests.vm.qemu import reaped

SIZE = 4 << 30
_INSTALL_SECS = 600


async def install(disk: Path, images: Images, target: str, tag: str = "v1") -> Path:
    """Install a version on a new raw disk; the host will track `target`."""
    with disk.open("wb") as stream:
        stream.truncate(SIZE)
    command = [sys.executable, "-m", "bootcd.install", "to-disk", "--via-loopback", "--generic-image"]
    command += ["--filesystem", "ext4", "--source-imgref", f"oci:{images.layout}:{tag}"]
    command += ["--target-imgref", target, "--root-ssh-authorized-keys", f"{images.key}.pub", str(disk)]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with reaped(process), asyncio.timeout(_INSTALL_SECS):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return disk
