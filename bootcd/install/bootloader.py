"""The boot loader on its way to the disk: by bootupd, as copies of ready files, or made of GRUB's modules."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from bootcd.host.files import write_atomic
from bootcd.install.esp import Esp
from bootcd.install.grub import (
    GRUB_DIRECTORY,
    PLATFORMS,
    Choice,
    Method,
    bootupd_command,
    early_config,
    image_modules,
    mkimage_command,
    static_config,
)
from bootcd.install.mounts import WORK, bound
from bootcd.install.tools import run_tool
from bootcd.model.errors import BackendFailed, NotBootable
from bootcd.ostreefmt.grubenv import empty_block

_EXCHANGE = "run"
"Directory every image has, at which what is made in it is handed out."
_MKIMAGE = ("usr/bin/grub-mkimage", "usr/bin/grub2-mkimage", "usr/sbin/grub2-mkimage")


@dataclass(frozen=True, slots=True)
class BootPlace:
    """Where the deployment and what boots it lie."""

    root: Path
    "The physical root."
    deployment: Path
    boot_uuid: str
    "Of the file system that holds /boot."
    boot_filesystem: str
    separate_boot: bool
    disk: str = ""
    "Whole disk as a block device whose partitions the kernel shows; for bootupd."

    @property
    def boot_path(self) -> str:
        """Path of /boot in its file system."""
        return "" if self.separate_boot else "/boot"


async def install_bootloader(
    choice: Choice,
    place: BootPlace,
    esp: Esp | None,
    *,
    machine: str,
    generic: bool,
    static_only: bool,
) -> None:
    """Make the disk bootable.

    Raises:
        NotBootable: the image's boot loader lacks something.
        BackendFailed: a program failed.
    """
    match choice.method:
        case Method.NONE:
            return
        case Method.BOOTUPD:
            await _run_bootupd(place, generic=generic, static_only=static_only)
            return
        case Method.READY | Method.MODULES:
            pass
    if esp is None:
        raise NotBootable("there is no EFI system partition to put the boot loader into")
    WORK.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as directory:
        tree = Path(directory) / "esp"
        if choice.method is Method.READY:
            _copy_ready(choice, place, tree)
        else:
            await _make_image(choice, place, tree, Path(directory), machine)
        await esp.put(tree)
    configuration = place.root / "boot/grub2/grub.cfg"
    _write(configuration, static_config(place.boot_path, choice.blscfg))
    _write(configuration.with_name("grubenv"), empty_block().decode())


def _copy_ready(choice: Choice, place: BootPlace, tree: Path) -> None:
    """Copy GRUB and shim as they are, with the small configuration beside GRUB that finds the large one."""
    config = early_config(place.boot_uuid, place.boot_path)
    for source, target in choice.efi_files:
        path = tree / target
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(place.deployment / source, path, follow_symlinks=False)
        except OSError as error:
            raise BackendFailed(f"/{source} of the image cannot be copied: {error.strerror}") from error
        if path.name.lower().startswith("grub") and path.suffix.lower() == ".efi":
            _write(path.with_name("grub.cfg"), config)


async def _make_image(choice: Choice, place: BootPlace, tree: Path, work: Path, machine: str) -> None:
    platform = PLATFORMS[machine]
    modules = place.deployment / GRUB_DIRECTORY / platform.grub
    available = frozenset(path.stem for path in modules.glob("*.mod"))
    names = image_modules(available, place.boot_filesystem, choice.blscfg)
    _write(work / "early.cfg", early_config(place.boot_uuid, place.boot_path))
    program = next((path for path in _MKIMAGE if (place.deployment / path).is_file()), None)
    target = tree / "EFI/BOOT" / platform.fallback
    target.parent.mkdir(parents=True)
    async with AsyncExitStack() as stack:
        if program is not None:
            # The image's own program fits its modules; this one's may not.
            exchange = place.deployment / _EXCHANGE
            await stack.enter_async_context(bound(work, exchange))
            start, inside = ["chroot", str(place.deployment), f"/{program}"], f"/{_EXCHANGE}"
            directory = f"/{GRUB_DIRECTORY}/{platform.grub}"
        else:
            start, inside, directory = ["grub-mkimage"], str(work), str(modules)
        command = mkimage_command(
            start,
            platform=platform.grub,
            directory=directory,
            config=f"{inside}/early.cfg",
            output=f"{inside}/grub.efi",
            modules=names,
        )
        await run_tool(command, "make the GRUB image")
    shutil.copyfile(work / "grub.efi", target)


async def _run_bootupd(place: BootPlace, *, generic: bool, static_only: bool) -> None:
    root = place.deployment
    async with AsyncExitStack() as stack:
        for source, target in (
            (Path("/dev"), "dev"),
            (Path("/proc"), "proc"),
            (Path("/sys"), "sys"),
            (Path("/run"), "run"),
            (place.root, "sysroot"),
            (place.root / "boot", "boot"),
        ):
            await stack.enter_async_context(bound(source, root / target))
        command = bootupd_command(
            str(root), place.disk, generic=generic, static_only=static_only, mounts_root=not place.disk
        )
        await run_tool(command, "install the boot loader with bootupd")


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode(), mode=0o644, durable=False)
    except OSError as error:
        raise BackendFailed(f"{path.name} cannot be written: {error.strerror}") from error
