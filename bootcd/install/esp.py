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


class Esp(Protocol):
    async def put(self, tree: Path) -> None:
        """Copy what is in a directory into the partition, over what is there."""
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

    async def clear(self) -> None:
        image = ["-i", str(self.path)]
        listed = await run_tool([*_MTOOLS, "mdir", "-b", *image, "::/"], "read the EFI system partition")
        if any(line.strip("/:").upper() == "EFI" for line in listed.decode(errors="replace").split()):
            await run_tool([*_MTOOLS, "mdeltree", *image, "::/EFI"], "clear the EFI system partition")


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

    async def clear(self) -> None:
        await asyncio.to_thread(shutil.rmtree, self.path / "EFI", ignore_errors=True)
