"""The disk to install to, looked at before anything is written: is it one, is it free, how large is it.

A disk counts as in use if it, a partition of it, or a device made of either (LVM, RAID, encryption) is
mounted or used for swap. Nothing in here writes.

Interfaces: sysfs, Documentation/ABI/stable/sysfs-block of Linux; proc_pid_mountinfo(5); wipefs(8).
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bootcd.host import process
from bootcd.model.errors import AccessDenied, BackendFailed, InvalidArguments, WrongState

_BLKROGET, _BLKSSZGET = 0x125E, 0x1268
_LOOP_GET_STATUS64, _LOOP_INFO_BYTES = 0x4C05, 232
_LOOP_BACKING = struct.Struct("=QQQ")
_WIPEFS_DEADLINE_SECS = 60
_PROC = Path("/proc")
_SYS = Path("/sys")
_ROOTS = ("/", "/sysroot", "/usr")
"Mount points of the system that runs."


@dataclass(frozen=True, slots=True)
class Disk:
    """A block device, or a file that stands for one."""

    path: Path
    size: int
    sector_bytes: int
    is_file: bool


def open_disk(path: Path, *, via_loopback: bool) -> Disk:
    """Look at what is to become a disk.

    Raises:
        InvalidArguments: it is no disk.
        WrongState: it is in use.
        AccessDenied: it cannot be written.
    """
    try:
        resolved = path.resolve(strict=True)
        status = resolved.stat()
    except OSError as error:
        raise InvalidArguments(f"{path} cannot be used: {error.strerror}") from error
    is_file = stat.S_ISREG(status.st_mode)
    if is_file and not via_loopback:
        raise InvalidArguments(f"{path} is a file, not a disk", hint="add --via-loopback to install into it")
    if not is_file and (via_loopback or not stat.S_ISBLK(status.st_mode)):
        wanted = "regular file" if via_loopback else "block device"
        raise InvalidArguments(f"{path} is no {wanted}")
    if is_file:
        _require_unused_file(resolved)
    else:
        _require_unused_device(resolved, status.st_rdev)
    return _measured(path, resolved, is_file)


def _measured(path: Path, resolved: Path, is_file: bool) -> Disk:
    # O_EXCL asks the kernel itself whether a block device is mounted or claimed.
    flags = os.O_RDWR | os.O_CLOEXEC | (0 if is_file else os.O_EXCL)
    try:
        descriptor = os.open(resolved, flags)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise WrongState(f"{path} is in use", hint="unmount it, or stop what holds it") from error
        raise AccessDenied(f"{path} cannot be written: {error.strerror}") from error
    try:
        if not is_file and int.from_bytes(fcntl.ioctl(descriptor, _BLKROGET, bytes(4)), "little"):
            raise AccessDenied(f"{path} cannot be written: it is read-only")
        size = os.lseek(descriptor, 0, os.SEEK_END)
        sector = 512 if is_file else int.from_bytes(fcntl.ioctl(descriptor, _BLKSSZGET, bytes(4)), "little")
    finally:
        os.close(descriptor)
    return Disk(resolved, size, sector, is_file)


def _require_unused_file(path: Path) -> None:
    status = path.stat()
    for device, place, backing in _loops():
        same = backing is not None and backing[:2] == (status.st_dev, status.st_ino)
        if same or place == str(path):
            raise WrongState(
                f"{path} is in use as {device}", hint=f"detach it first: losetup --detach {device}"
            )


def _loops() -> Iterator[tuple[str, str, tuple[int, int, int] | None]]:
    """Yield loop devices: name, path of what they stand on, and its device, inode and device it is itself."""
    for backing in _SYS.glob("block/loop*/loop/backing_file"):
        device = f"/dev/{backing.parts[-3]}"
        try:
            place = backing.read_text().strip()
        except OSError:
            continue
        try:
            descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            yield device, place, None
            continue
        try:
            status = fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, bytes(_LOOP_INFO_BYTES))
            yield device, place, _LOOP_BACKING.unpack_from(status)
        except OSError:
            continue  # detached meanwhile
        finally:
            os.close(descriptor)


def _require_unused_device(path: Path, device: int) -> None:
    own = _SYS / f"dev/block/{os.major(device)}:{os.minor(device)}"
    if (own / "partition").exists():
        raise InvalidArguments(f"{path} is a partition, not a disk", hint="name the whole disk")
    users = dict(_with_users(own.resolve()))
    for number, point in mounts_seen():
        if number in users:
            if point in _ROOTS:
                raise WrongState(
                    f"{path} holds the system that runs now",
                    hint="boot another system to install to this disk",
                    reason="host-root",
                )
            raise WrongState(
                f"{path} is in use: {users[number]} is mounted at {point}",
                hint=f"unmount it first: umount {point}",
                reason="mounted",
            )
    for loop, _, backing in _loops():
        # A loop device makes no claim on the disk it stands on.
        if backing is not None and _number(backing[2]) in users:
            raise WrongState(
                f"{path} is in use as {loop}", hint=f"detach it first: losetup --detach {loop}", reason="loop"
            )
    for line in (_PROC / "swaps").read_text().splitlines()[1:]:
        swap = Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), line.split()[0]))
        if swap.is_block_device() and _number(swap.stat().st_rdev) in users:
            raise WrongState(f"{path} is in use: {swap} is swap space", hint=f"swapoff {swap}", reason="swap")


def _with_users(directory: Path) -> Iterator[tuple[str, str]]:
    """Yield number and name of a device, of its partitions, and of all that is made of them."""
    try:
        yield (directory / "dev").read_text().strip(), f"/dev/{directory.name}"
    except OSError:
        return
    for child in directory.glob("*/partition"):
        yield from _with_users(child.parent)
    for holder in directory.glob("holders/*"):
        yield from _with_users(holder.resolve())


def mounts_seen() -> Iterator[tuple[str, str]]:
    """Yield device number and mount point of all mounts, also of the host's where this is a container."""
    for pid in ("1", "self"):
        yield from _mounts(pid)


def _mounts(pid: str) -> Iterator[tuple[str, str]]:
    """Yield device number and mount point of a process's mounts."""
    try:
        text = (_PROC / pid / "mountinfo").read_text()
    except OSError:
        return
    for line in text.splitlines():
        fields, _, rest = line.partition(" - ")
        number, point = fields.split(" ")[2], fields.split(" ")[4]
        yield number, point
        # btrfs shows a number of its own making, and the device by name.
        source = rest.split(" ")[1]
        if source.startswith("/dev/"):
            try:
                yield _number(Path(source).stat().st_rdev), point
            except OSError:
                continue


def _number(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"


async def require_empty(disk: Disk) -> None:
    """Refuse a disk that has partitions or a file system.

    Raises WrongState.
    """
    command = ["wipefs", "--no-act", "--noheadings", "--output", "TYPE", str(disk.path)]
    try:
        done = await process.run(command, deadline_secs=_WIPEFS_DEADLINE_SECS, limit=4096)
    except (OSError, TimeoutError) as error:
        raise BackendFailed(f"{disk.path} cannot be looked at") from error
    if done.status != 0:
        raise BackendFailed(f"{disk.path} cannot be looked at")
    found = sorted(set(done.stdout.decode(errors="replace").split()))
    if found:
        what = "partitions" if {"gpt", "dos", "PMBR"} & set(found) else f"a file system ({', '.join(found)})"
        raise WrongState(
            f"{disk.path} has {what}", hint="add --wipe to lose everything on it", reason="not-empty"
        )
