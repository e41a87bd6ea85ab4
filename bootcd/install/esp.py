"""The EFI system partition, filled without the kernel's help: not every kernel knows FAT.

Interface: mtools(1).
"""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bootcd.install.tools import run_tool
from bootcd.model.errors import BackendFailed

_MTOOLS = ("env", "MTOOLS_SKIP_CHECK=1")
"It need not look at geometries no disk has any more."


_READING = "read the EFI system partition"


class Esp(Protocol):
    async def put(self, tree: Path) -> None:
        """Copy what is in a directory into the partition, over what is there, and onto the disk."""
        ...

    async def clear(self) -> None:
        """Remove the boot loaders that are there."""
        ...


@dataclass(frozen=True, slots=True)
class RawEsp:
    """An EFI system partition as a device or a file."""

    path: Path

    async def put(self, tree: Path) -> None:
        sources = [str(tree / name) for name in await asyncio.to_thread(os.listdir, tree)]
        # -s: with what is below; -o: over what is there; -Q: stop at the first failure.
        command = ["mcopy", "-s", "-Q", "-o", "-i", str(self.path), *sources, "::/"]
        await run_tool([*_MTOOLS, *command], "fill the EFI system partition")
        await asyncio.to_thread(_sync, self.path)

    async def has_boot_loaders(self) -> bool:
        listed = await run_tool([*_MTOOLS, "mdir", "-b", "-i", str(self.path), "::/"], _READING)
        return any(line.strip("/:").upper() == "EFI" for line in listed.decode(errors="replace").split())

    async def clear(self) -> None:
        if await self.has_boot_loaders():
            command = ["mdeltree", "-i", str(self.path), "::/EFI"]
            await run_tool([*_MTOOLS, *command], "clear the EFI system partition")


@dataclass(frozen=True, slots=True)
class MountedEsp:
    """An EFI system partition that the caller has mounted."""

    path: Path

    async def put(self, tree: Path) -> None:
        try:
            # FAT keeps neither owners nor modes.
            shutil.copytree(tree, self.path, dirs_exist_ok=True, copy_function=shutil.copyfile)
        except (OSError, shutil.Error) as error:
            raise BackendFailed(f"the EFI system partition at {self.path} cannot be filled") from error
        # FAT has no journal: what is not flushed here is lost with the power.
        await run_tool(["sync", "--file-system", str(self.path)], "flush the EFI system partition")

    async def clear(self) -> None:
        await asyncio.to_thread(shutil.rmtree, self.path / "EFI", ignore_errors=True)


def _sync(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise BackendFailed(f"the EFI system partition cannot be flushed: {error.strerror}") from error
