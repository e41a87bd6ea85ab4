"""The layout of a disk, as values: partitions, and the arguments that make them and their file systems.

    BIOS-BOOT    1 MiB    x86_64 only; empty unless a boot loader for BIOS is installed
    EFI-SYSTEM 512 MiB    x86_64, aarch64, riscv64; FAT
    root                  the rest, or the size asked for

Types, names, sizes and options of mkfs are those of `bootc install to-disk`. Nothing here touches a disk.

Formats: https://uapi-group.org/specifications/specs/discoverable_partitions_specification/ for the types,
sfdisk(8), "Input formats", for the script.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from bootcd.model.errors import InvalidArguments, OutOfSpace, Unsupported

MIB: Final = 1 << 20
BIOS_BOOT_TYPE: Final = "21686148-6449-6e6f-744e-656564454649"
PREP_BOOT_TYPE: Final = "9e1a2d38-c612-4316-aa26-8b49521e5a8b"
ESP_TYPE: Final = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
ROOT_TYPES: Final = {
    "x86_64": "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
    "aarch64": "b921b045-1df0-41c3-af44-4c6f280d3fae",
    "s390x": "5eead9a9-fe09-4a1e-a1d7-520d00531306",
    "ppc64le": "c31c45e6-3f39-412e-80fb-4809c4980599",
    "ppc64": "912ade1d-a839-4913-8964-a10eee08fbd2",
    "riscv64": "72ec70a6-cf74-40e6-bd49-4bda08e8f224",
}
"By machine of uname(2)."
ESP_LABEL: Final = "EFI-SYSTEM"
ROOT_LABEL: Final = "root"

_BIOS_BOOT_BYTES = MIB
_PREP_BOOT_BYTES = 4 * MIB
_ESP_BYTES = 512 * MIB
_EFI_MACHINES = frozenset({"x86_64", "aarch64", "riscv64"})
_GPT_BYTES = MIB
"Before the first partition, and at most as much after the last one."


class Filesystem(StrEnum):
    """What a root file system can be."""

    EXT4 = "ext4"
    XFS = "xfs"
    BTRFS = "btrfs"


_LEAST_BYTES = {Filesystem.EXT4: 64 * MIB, Filesystem.XFS: 300 * MIB, Filesystem.BTRFS: 256 * MIB}
"Below this mkfs refuses, or the file system fills up with itself."


@dataclass(frozen=True, slots=True)
class Partition:
    """One entry of the table; start and size in bytes."""

    number: int
    name: str
    type: str
    start: int
    size: int
    bootable: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """A whole partition table."""

    label_id: str
    sector_bytes: int
    partitions: tuple[Partition, ...]

    @property
    def root(self) -> Partition:
        return self.partitions[-1]

    @property
    def esp(self) -> Partition | None:
        """The EFI system partition, None for a machine whose firmware is another."""
        return next((p for p in self.partitions if p.type == ESP_TYPE), None)

    def sfdisk_script(self) -> str:
        """Return what sfdisk reads from its standard input."""
        lines = ["label: gpt", f"label-id: {self.label_id}", "unit: sectors"]
        for partition in self.partitions:
            start, size = partition.start // self.sector_bytes, partition.size // self.sector_bytes
            flag = "bootable, " if partition.bootable else ""
            lines.append(f'start={start}, size={size}, {flag}type={partition.type}, name="{partition.name}"')
        return "\n".join(lines) + "\n"


def plan_layout(
    disk_bytes: int,
    *,
    sector_bytes: int,
    machine: str,
    filesystem: Filesystem,
    content_bytes: int,
    root_bytes: int | None,
    label_id: str,
    where: str,
) -> Layout:
    """Lay out a disk.

    Args:
        machine: as uname(2) has it.
        content_bytes: of all files of the image.
        root_bytes: size asked for, None for all that is left.
        where: the disk's path, for errors.
    Raises:
        OutOfSpace: the disk, or the size asked for, does not hold the image.
        Unsupported: this machine's architecture is not known.
    """
    if machine not in ROOT_TYPES:
        raise Unsupported(f"disks for machines of type {machine} cannot be laid out")
    partitions: list[Partition] = []
    position = _GPT_BYTES

    def add(name: str, kind: str, size: int, *, bootable: bool = False) -> None:
        nonlocal position
        partitions.append(Partition(len(partitions) + 1, name, kind, position, size, bootable))
        position += size

    if machine == "x86_64":
        add("BIOS-BOOT", BIOS_BOOT_TYPE, _BIOS_BOOT_BYTES, bootable=True)
    elif machine in ("ppc64", "ppc64le"):
        add("PowerPC-PReP-boot", PREP_BOOT_TYPE, _PREP_BOOT_BYTES, bootable=True)
    if machine in _EFI_MACHINES:
        add(ESP_LABEL, ESP_TYPE, _ESP_BYTES)
    left = (disk_bytes - _GPT_BYTES) // MIB * MIB - position
    wanted = left if root_bytes is None else root_bytes
    needed = least_root_bytes(content_bytes, filesystem)
    if wanted < needed or wanted > left:
        short_of = position + max(needed, 0 if root_bytes is None else root_bytes) + _GPT_BYTES
        if root_bytes is not None and root_bytes < needed:
            raise OutOfSpace(
                f"a root partition of {_mib(root_bytes)} does not hold the image, which needs {_mib(needed)}",
                path=where,
                needed_bytes=needed,
                available_bytes=root_bytes,
            )
        raise OutOfSpace(
            f"{where} has {_mib(disk_bytes)}, and {_mib(short_of)} are needed",
            hint="take a larger disk, or a smaller image",
            path=where,
            needed_bytes=short_of,
            available_bytes=disk_bytes,
        )
    add(ROOT_LABEL, ROOT_TYPES[machine], wanted)
    return Layout(label_id, sector_bytes, tuple(partitions))


def least_root_bytes(content_bytes: int, filesystem: Filesystem) -> int:
    """Return the size below which a root file system does not hold the image.

    A fifth more than the files for what a file system and the repository add, and room for the kernel,
    which lies in /boot once more; in whole MiB.
    """
    needed = max(_LEAST_BYTES[filesystem], content_bytes * 6 // 5 + 128 * MIB)
    return -(-needed // MIB) * MIB


def parse_root_size(text: str) -> int:
    """Return the bytes of a size such as `10G`: a number, in MiB without a unit.

    Raises InvalidArguments.
    """
    units = {"M": MIB, "G": 1 << 30, "T": 1 << 40}
    number, unit = (text[:-1], text[-1:]) if text[-1:] in units else (text, "M")
    if not (number.isascii() and number.isdigit()) or not 0 < int(number) < 1 << 32:
        raise InvalidArguments(f"{text[:40]!r} is no size", hint="write it as 20480, 20480M, 20G or 1T")
    return int(number) * units[unit]


def sfdisk_command(disk: str) -> list[str]:
    """Return the command that takes `Layout.sfdisk_script`.

    The kernel need not know partitions; and the caller holds the disk, which sfdisk takes for somebody's use.
    """
    kernel = ["--no-reread", "--no-tell-kernel"]
    return ["sfdisk", "--quiet", *kernel, "--wipe=always", "--wipe-partitions=always", disk]


def mkfs_command(filesystem: Filesystem, device: str, *, uuid: str, label: str) -> list[str]:
    """Return the command that makes a root or boot file system."""
    match filesystem:
        case Filesystem.EXT4:
            # fs-verity is part of a file system from its birth on.
            return ["mkfs.ext4", "-q", "-F", "-U", uuid, "-L", label, "-O", "verity", device]
        case Filesystem.XFS:
            return ["mkfs.xfs", "-q", "-f", "-m", f"uuid={uuid}", "-L", label, device]
        case Filesystem.BTRFS:
            return ["mkfs.btrfs", "-q", "-f", "-U", uuid, "-L", label, device]


def mkfs_esp_command(device: str, *, sector_bytes: int, volume_id: str) -> list[str]:
    """Return the command that makes the file system of the EFI system partition.

    Args:
        volume_id: eight hexadecimal digits.
    """
    size = ["-F", "32", "-S", str(sector_bytes)]
    return ["mkfs.fat", "-I", *size, "-n", ESP_LABEL, "-i", volume_id, device]


def _mib(count: int) -> str:
    return f"{count // MIB} MiB"
