"""Loop devices: a stretch of a file or of a disk as a block device of its own.

Partitions are reached this way whether or not the kernel knows the partition table, so that a raw image
file needs no more privilege than a disk. A device is made so that the kernel detaches it when nothing holds
it any more: its descriptor closed and its file system unmounted. That is the case after a kill, too.

Interface: linux/loop.h; loop(4).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from bootcd.model.errors import BackendFailed, Unsupported

_CTL_GET_FREE = 0x4C82
_CONFIGURE = 0x4C0A
_SET_READ_ONLY = 0x125D
_AUTOCLEAR, _PARTITION_SCAN = 4, 8
_ATTEMPTS = 16
# struct loop_config: descriptor, block size, loop_info64, eight reserved words.
_INFO = struct.Struct("=QQQQQIIII64s64s32sQQ")
_CONFIG = struct.Struct(f"=II{_INFO.size}s64x")


@contextmanager
def loop_device(
    backing: int,
    *,
    offset: int = 0,
    size: int = 0,
    sector_bytes: int = 512,
    partitions: bool = False,
    name: str = "",
) -> Iterator[str]:
    """Attach part of an open file or disk, and yield the path of the device.

    Args:
        backing: descriptor, open for writing.
        size: in bytes; 0 for all from `offset` on.
        partitions: have the kernel show the partitions in it.
        name: what losetup(8) shows.
    Raises:
        Unsupported: this kernel has no loop devices, or none is free.
    """
    descriptor, path = _attach(backing, offset, size, sector_bytes, partitions, name)
    try:
        yield path
        try:
            os.fsync(descriptor)
        except OSError as error:
            raise BackendFailed(f"{name or path} cannot be written: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _attach(
    backing: int, offset: int, size: int, sector_bytes: int, partitions: bool, name: str
) -> tuple[int, str]:
    flags = _AUTOCLEAR | (_PARTITION_SCAN if partitions else 0)
    info = _INFO.pack(*(0, 0, 0, offset, size, 0, 0, 0, flags, name.encode()[:63], b"", b"", 0, 0))
    config = _CONFIG.pack(backing, sector_bytes, info)
    try:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise Unsupported(
            f"loop devices cannot be used: {error.strerror}", hint="load the kernel module: modprobe loop"
        ) from error
    try:
        for _ in range(_ATTEMPTS):
            path = f"/dev/loop{fcntl.ioctl(control, _CTL_GET_FREE)}"
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(descriptor, _CONFIGURE, config)
                # What somebody set once stays with the device's number.
                fcntl.ioctl(descriptor, _SET_READ_ONLY, bytes(4))
            except OSError as error:
                os.close(descriptor)
                if error.errno != errno.EBUSY:
                    raise
                continue  # somebody else was faster
            return descriptor, path
    except OSError as error:
        raise Unsupported(f"no loop device can be attached: {error.strerror}") from error
    finally:
        os.close(control)
    raise Unsupported("no loop device is free", hint="detach one of them: losetup --detach")
