"""Installation to a whole disk, or to a file that stands for one.

    resolve -> fetch -> survey -> (nothing was written so far) -> partition -> format
        -> import -> deploy -> boot loader -> flush

What comes after the survey can be killed at any moment and leaves nothing behind but a disk that is not
finished, which a next run with --wipe takes.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bootcd.install.bootloader import BootPlace
from bootcd.install.esp import Esp, RawEsp
from bootcd.install.grub import Method
from bootcd.install.layout import (
    ROOT_LABEL,
    Filesystem,
    Layout,
    Partition,
    mkfs_command,
    mkfs_esp_command,
    plan_layout,
    sfdisk_command,
)
from bootcd.install.loop import loop_device
from bootcd.install.mounts import WORK, mounted
from bootcd.install.populate import finalize, label, make_bootable, populate, root_kargs
from bootcd.install.prepare import Options, Prepared, prepared
from bootcd.install.report import Reporter, Step
from bootcd.install.settings import BlockSetup, InstallSettings
from bootcd.install.target import Disk, open_disk, require_empty
from bootcd.install.tools import require_tools, run_tool
from bootcd.model.errors import BackendFailed, InvalidArguments, Unsupported, WrongState
from bootcd.oci.resolve import ResolvedImage

_REREAD_PARTITIONS = 0x125F
_TOOLS = ("sfdisk", "wipefs", "mount", "umount", "mkfs.fat", "mcopy", "fstrim", "fsfreeze")


@dataclass(frozen=True, slots=True)
class DiskOptions:
    device: Path
    wipe: bool = False
    via_loopback: bool = False
    filesystem: Filesystem | None = None
    root_bytes: int | None = None
    block_setup: BlockSetup | None = None


async def install_to_disk(options: Options, to: DiskOptions, reporter: Reporter) -> ResolvedImage:
    """Install, and return when everything is on the disk."""
    require_tools(_TOOLS)
    disk = await asyncio.to_thread(open_disk, to.device, via_loopback=to.via_loopback)
    # Held from here on: what was found out about the disk still holds when it is written.
    async with AsyncExitStack() as stack:
        hold = stack.enter_context(_held(disk))
        if not to.wipe:
            await require_empty(disk)
        image = await stack.enter_async_context(prepared(options, reporter))
        filesystem = _root_filesystem(to, image.settings)
        if image.fsverity and filesystem is Filesystem.XFS:
            raise InvalidArguments(
                "xfs cannot seal files one by one, which the image wants",
                hint="use --filesystem ext4 or btrfs",
            )
        require_tools([f"mkfs.{filesystem}"])
        layout = plan_layout(
            disk.size,
            sector_bytes=disk.sector_bytes,
            machine=options.machine,
            filesystem=filesystem,
            content_bytes=image.survey.content_bytes,
            root_bytes=to.root_bytes,
            label_id=str(uuid.uuid4()),
            where=str(to.device),
        )
        hold.require_same(disk)
        if disk.is_file:
            await asyncio.to_thread(open_disk, to.device, via_loopback=True)
        if not to.wipe:
            await require_empty(disk)
        await _write(image, disk, hold, layout, filesystem, reporter)
        return image.resolved


async def _write(
    image: Prepared, disk: Disk, hold: _Hold, layout: Layout, filesystem: Filesystem, reporter: Reporter
) -> None:
    reporter.step(Step.PARTITION)
    script = layout.sfdisk_script().encode()
    await run_tool(sfdisk_command(str(disk.path)), "write the partition table", stdin=script)
    reporter.step(Step.FORMAT)
    root_uuid = str(uuid.uuid4())
    esp: Esp | None = None
    async with AsyncExitStack() as stack:

        def device_of(partition: Partition) -> str:
            loop = loop_device(
                hold.descriptor,
                offset=partition.start,
                size=partition.size,
                sector_bytes=layout.sector_bytes,
                name=str(disk.path),
            )
            return stack.enter_context(loop)

        if layout.esp is not None:
            device = device_of(layout.esp)
            volume_id = os.urandom(4).hex()
            command = mkfs_esp_command(device, sector_bytes=layout.sector_bytes, volume_id=volume_id)
            await run_tool(command, "make the EFI system partition")
            esp = RawEsp(Path(device))
        device = device_of(layout.root)
        command = mkfs_command(filesystem, device, uuid=root_uuid, label=ROOT_LABEL)
        await run_tool(command, "make the root file system")
        root = stack.enter_context(_mount_point())
        await stack.enter_async_context(mounted(device, root, "-t", filesystem.value))
        kargs = root_kargs(f"UUID={root_uuid}", image.settings)
        deployed = await populate(image, root, kargs, reporter)
        shown = _with_partitions(stack, disk, hold) if image.choice.method is Method.BOOTUPD else ""
        place = BootPlace(
            root=root,
            deployment=deployed.path,
            boot_uuid=root_uuid,
            boot_filesystem=filesystem.value,
            separate_boot=False,
            disk=shown,
        )
        await make_bootable(image, place, esp, reporter, bootupd_works=bool(shown))
        await label(image, root, deployed)
        reporter.step(Step.FINALIZE)
        await finalize(root)
    await asyncio.to_thread(os.fsync, hold.descriptor)
    if not disk.is_file:
        hold.show_partitions()


def _with_partitions(stack: AsyncExitStack, disk: Disk, hold: _Hold) -> str:
    """Have the kernel show the partitions, which bootupd looks for.

    Returns the disk they are of, or nothing if this kernel does not know such tables.
    """
    path = disk.path
    if disk.is_file:
        loop = loop_device(hold.descriptor, partitions=True, name=str(disk.path))
        path = Path(stack.enter_context(loop))
    else:
        hold.release()
        hold.show_partitions()
    return str(path) if any(Path(f"/sys/class/block/{path.name}").glob("*/partition")) else ""


def _root_filesystem(to: DiskOptions, settings: InstallSettings) -> Filesystem:
    wanted = to.filesystem or settings.root_filesystem
    if wanted is None:
        raise InvalidArguments(
            "neither the image nor an option says which root file system to make",
            hint="add --filesystem ext4, xfs or btrfs",
        )
    setup = to.block_setup or (settings.block[0] if settings.block else BlockSetup.DIRECT)
    if settings.block is not None and setup not in settings.block:
        raise InvalidArguments(f"the image does not allow the block set-up {setup.value}")
    if setup is BlockSetup.TPM2_LUKS:
        raise Unsupported(
            "encrypted root file systems cannot be made",
            hint="make one yourself and use to-filesystem, or install with bootc",
        )
    return wanted


class _Hold:
    """A disk kept open, a block device so that nobody else mounts it meanwhile."""

    def __init__(self, disk: Disk) -> None:
        self.descriptor = os.open(disk.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_EXCL
            self._claim = -1 if disk.is_file else os.open(disk.path, flags)
            # Another installation to the same file has no claim to find; nor does udev look into a disk then.
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(self.descriptor)
            raise

    def require_same(self, disk: Disk) -> None:
        """Refuse to write where the path leads to something else by now. Raises WrongState."""
        held = os.fstat(self.descriptor)
        try:
            now = disk.path.stat()
        except OSError:
            now = None
        if now is None or (now.st_dev, now.st_ino, now.st_rdev) != (held.st_dev, held.st_ino, held.st_rdev):
            raise WrongState(f"{disk.path} was replaced by another one meanwhile", reason="replaced")
        if os.lseek(self.descriptor, 0, os.SEEK_END) != disk.size:
            raise WrongState(f"the size of {disk.path} has changed meanwhile", reason="replaced")

    def release(self) -> None:
        """Let others mount its partitions."""
        if self._claim >= 0:
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
            os.close(self._claim)
            self._claim = -1

    def show_partitions(self) -> None:
        """Have the kernel read the partition table; one that knows none of its kind does not mind."""
        try:
            fcntl.ioctl(self.descriptor if self._claim < 0 else self._claim, _REREAD_PARTITIONS)
        except OSError:
            pass  # they show at the next boot

    def close(self) -> None:
        self.release()
        os.close(self.descriptor)


@contextmanager
def _held(disk: Disk) -> Iterator[_Hold]:
    try:
        hold = _Hold(disk)
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.EWOULDBLOCK):
            raise WrongState(f"{disk.path} is in use", hint="stop what holds it", reason="claimed") from error
        raise BackendFailed(f"{disk.path} cannot be written: {error.strerror}") from error
    try:
        yield hold
    finally:
        hold.close()


@contextmanager
def _mount_point() -> Iterator[Path]:
    path = WORK / "root"
    path.mkdir()
    try:
        yield path
    finally:
        path.rmdir()
