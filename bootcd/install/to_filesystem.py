"""Installation to a file system the caller made and mounted, with others mounted below it as wanted.

    PATH            root; a mount point
    PATH/boot       optional, a file system of its own
    PATH/boot/efi   optional, the EFI system partition; else the one of the same disk is taken

Nothing in PATH is touched unless --replace says so.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bootcd.install.bootloader import BootPlace
from bootcd.install.esp import Esp, MountedEsp, RawEsp
from bootcd.install.grub import Method
from bootcd.install.layout import ESP_TYPE, Filesystem, least_root_bytes
from bootcd.install.populate import finalize, label, make_bootable, populate, root_kargs
from bootcd.install.prepare import Options, Prepared, prepared
from bootcd.install.report import Reporter, Step
from bootcd.install.settings import Replace
from bootcd.install.target import mounts_seen
from bootcd.install.tools import require_tools, run_tool
from bootcd.model.errors import BackendFailed, InvalidArguments, NotBootable, OutOfSpace, WrongState
from bootcd.oci.resolve import ResolvedImage

_TOOLS = ("mount", "umount", "mcopy", "blkid", "fstrim", "fsfreeze")
_ESP_PLACES = ("boot/efi", "efi")
_OWN_PLACES = ("boot", *_ESP_PLACES)
"Where what is mounted below the root is part of the installation."
_BOOT_OF_HOST = ("/", "/sysroot", "/boot", "/boot/efi", "/efi")
# linux/fs.h
_GET_FLAGS, _SET_FLAGS, _IMMUTABLE = 0x80086601, 0x40086602, 0x10


@dataclass(frozen=True, slots=True)
class FilesystemOptions:
    path: Path
    root_mount_spec: str | None = None
    "Source for the kernel argument `root=`; empty for none, None for the file system's UUID."
    boot_mount_spec: str | None = None
    replace: Replace | None = None
    acknowledge_destructive: bool = False
    skip_finalize: bool = False


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system, as proc_pid_mountinfo(5) has it."""

    point: Path
    number: str
    root: str
    "Of the mount in its file system, such as a subvolume."
    type: str
    source: str


async def install_to_filesystem(options: Options, to: FilesystemOptions, reporter: Reporter) -> ResolvedImage:
    """Install, and return when everything is on the disk."""
    require_tools(_TOOLS)
    root = _mount_at(to.path)
    await asyncio.to_thread(_require_usable, root, to)
    boot = _mount_below(root, "boot")
    await asyncio.to_thread(_require_own_mounts, root, to)
    async with prepared(options, reporter) as image:
        _require_space(root, image, to)
        uuids = {mount.point: await _uuid(mount) for mount in filter(None, (root, boot))}
        esp = None
        holds_boot = boot or root
        if image.choice.method in (Method.READY, Method.MODULES):
            _require_found_by_grub(holds_boot)
            esp = await _find_esp(root)
            if to.replace is None and isinstance(esp, RawEsp) and await esp.has_boot_loaders():
                raise WrongState(
                    f"the EFI system partition {esp.path} has boot loaders already",
                    hint="add --replace alongside or wipe to lose them, or mount another one below the root",
                    reason="not-empty",
                )
        if to.replace is not None:
            reporter.step(Step.FORMAT)
            await asyncio.to_thread(_clear, root.point, to.replace)
            if esp is not None:
                await esp.clear()
        kargs = _root_kargs(to, image, root, uuids[root.point])
        boot_spec = _boot_spec(to, image, uuids[boot.point] if boot else "")
        deployed = await populate(image, root.point, kargs, reporter, boot_spec=boot_spec)
        place = BootPlace(
            root=root.point,
            deployment=deployed.path,
            boot_uuid=uuids[holds_boot.point],
            boot_filesystem=holds_boot.type,
            separate_boot=boot is not None,
        )
        await make_bootable(image, place, esp, reporter)
        await label(image, root.point, deployed)
        reporter.step(Step.FINALIZE)
        mounts = [mount.point for mount in (boot, root) if mount is not None]
        if to.skip_finalize or to.replace is Replace.ALONGSIDE:
            await asyncio.to_thread(os.sync)
        else:
            await finalize(*mounts)
        return image.resolved


# what is mounted


def parse_mounts(mountinfo: str) -> list[Mount]:
    """Read proc_pid_mountinfo(5); of several mounts at one place the last one counts and is the only one."""
    found: dict[Path, Mount] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        number, root, point = (_unescape(field) for field in left.split(" ")[2:5])
        kind, source = (_unescape(field) for field in right.split(" ")[:2])
        found[Path(point)] = Mount(Path(point), number, root, kind, source)
    return list(found.values())


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _mounts() -> list[Mount]:
    return parse_mounts(Path("/proc/self/mountinfo").read_text())


def _mount_at(path: Path) -> Mount:
    try:
        resolved = path.resolve(strict=True)
    except OSError as error:
        raise InvalidArguments(f"{path} cannot be used: {error.strerror}") from error
    mount = next((mount for mount in _mounts() if mount.point == resolved), None)
    if mount is None:
        raise InvalidArguments(f"{path} is no mount point", hint="mount the new root file system there first")
    return mount


def _mount_below(root: Mount, name: str) -> Mount | None:
    return next((mount for mount in _mounts() if mount.point == root.point / name), None)


async def _uuid(mount: Mount) -> str:
    if not mount.source.startswith("/dev/"):
        raise InvalidArguments(f"{mount.point} is of type {mount.type}, which no system can be booted from")
    command = ["blkid", "--probe", "--match-tag", "UUID", "--output", "value", mount.source]
    found = (await run_tool(command, f"find the UUID of {mount.source}")).decode().strip()
    if not found:
        raise BackendFailed(f"the file system at {mount.point} has no UUID")
    return found


# refusals


def _require_usable(root: Mount, to: FilesystemOptions) -> None:
    """Refuse a root that would lose something nobody said may be lost."""
    host = {number for number, point in mounts_seen() if point in ("/", "/sysroot")}
    if root.number in host:
        if to.replace is not Replace.ALONGSIDE:
            raise WrongState(
                f"{to.path} is the file system of the system that runs now",
                hint="only --replace alongside can install to it",
                reason="host-root",
            )
        if not to.acknowledge_destructive:
            raise WrongState(
                f"{to.path} is the file system of the system that runs now, which would boot no more",
                hint="add --acknowledge-destructive if that is what you want",
                reason="host-root",
            )
    if (root.point / "ostree/repo").exists() and to.replace is not Replace.WIPE:
        raise WrongState(
            f"{to.path} has an ostree system root already",
            hint="add --replace wipe to lose it, or upgrade it with bootcctl switch",
            reason="not-empty",
        )
    if to.replace is None and (found := _first_entry(root.point)):
        raise WrongState(
            f"{to.path} is not empty: it has {found}",
            hint="add --replace wipe to lose it",
            reason="not-empty",
        )
    if os.statvfs(root.point).f_flag & os.ST_RDONLY:
        raise WrongState(f"{to.path} is mounted read-only", reason="read-only")


def _require_own_mounts(root: Mount, to: FilesystemOptions) -> None:
    """Refuse to write to what is mounted below the root for another purpose."""
    host = {number for number, point in mounts_seen() if point in _BOOT_OF_HOST}
    for mount in _mounts():
        if mount.point == root.point or not mount.point.is_relative_to(root.point):
            continue
        name = str(mount.point.relative_to(root.point))
        if name not in _OWN_PLACES:
            if to.replace is Replace.WIPE:
                raise WrongState(
                    f"{mount.point} is a mount point, and --replace wipe would lose what is in it",
                    hint=f"unmount it first: umount {mount.point}",
                    reason="mounted",
                )
        elif mount.number in host and not to.acknowledge_destructive:
            raise WrongState(
                f"what is mounted at {mount.point} boots the system that runs now",
                hint="add --acknowledge-destructive if this system may boot no more",
                reason="host-root",
            )


def _first_entry(directory: Path) -> str:
    """Return something in a directory that is neither a mount point nor made by mkfs."""
    for path in sorted(directory.iterdir()):
        if path.name == "lost+found":
            continue
        if path.is_mount() or (path.is_dir() and not path.is_symlink() and _leads_to_mount(path)):
            if found := _first_entry(path):
                return found if "/" in found else str(path / found)
            continue
        return str(path)
    return ""


def _leads_to_mount(directory: Path) -> bool:
    return any(mount.point.is_relative_to(directory) for mount in _mounts())


def _require_space(root: Mount, image: Prepared, to: FilesystemOptions) -> None:
    status = os.statvfs(root.point)
    size = status.f_blocks if to.replace is Replace.WIPE else status.f_bavail
    known = {kind.value for kind in Filesystem}
    kind = Filesystem(root.type) if root.type in known else Filesystem.EXT4
    # What mkfs keeps for itself is not counted by statvfs(3), so the content alone has to fit.
    needed, available = image.survey.content_bytes, size * status.f_frsize
    if available < needed:
        raise OutOfSpace(
            f"{to.path} has room for {available >> 20} MiB, and the image has {needed >> 20} MiB",
            hint=f"make a file system of {least_root_bytes(needed, kind) >> 20} MiB or more",
            path=str(to.path),
            needed_bytes=needed,
            available_bytes=available,
        )


# what finds the file systems at boot


def _root_kargs(to: FilesystemOptions, image: Prepared, root: Mount, uuid: str) -> list[str]:
    spec = to.root_mount_spec
    if spec is None:
        spec = image.settings.root_mount_spec
    if spec is None:
        spec = f"UUID={uuid}"
    kargs = root_kargs(spec, image.settings)
    if root.type == "btrfs" and root.root != "/" and spec:
        kargs.insert(1, f"rootflags=subvol={root.root}")
    return kargs


def _boot_spec(to: FilesystemOptions, image: Prepared, boot_uuid: str) -> str:
    spec = to.boot_mount_spec
    if spec is None:
        spec = image.settings.boot_mount_spec
    if spec is None:
        return f"UUID={boot_uuid}" if boot_uuid else ""
    return spec


def _require_found_by_grub(holds_boot: Mount) -> None:
    if holds_boot.type == "btrfs" and holds_boot.root != "/":
        raise NotBootable(
            f"/boot would lie in the btrfs subvolume {holds_boot.root}, where GRUB does not find it",
            hint="mount a file system of its own at /boot, or the top level of this one as the root",
        )


async def _find_esp(root: Mount) -> Esp:
    """Return the EFI system partition that is mounted below the root, else that of the same disk."""
    for name in _ESP_PLACES:
        if mount := _mount_below(root, name):
            if mount.type not in ("vfat", "msdos", "fuseblk"):
                raise InvalidArguments(f"{mount.point} is no FAT file system but {mount.type}")
            return MountedEsp(mount.point)
    for device in _siblings(root):
        command = ["blkid", "--probe", "--output", "value", "--match-tag", "PART_ENTRY_TYPE", str(device)]
        kind = (await run_tool(command, f"look at {device}")).decode().strip().lower()
        if kind == ESP_TYPE:
            # Two who write to one FAT at a time destroy it.
            status = device.stat()
            number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
            if point := next((point for seen, point in mounts_seen() if seen == number), ""):
                raise WrongState(
                    f"the EFI system partition {device} is mounted at {point}",
                    hint=f"unmount it, or mount it at {root.point}/boot/efi too",
                    reason="mounted",
                )
            return RawEsp(device)
    raise NotBootable(
        f"there is no EFI system partition on the disk of {root.point}",
        hint=f"mount one at {root.point}/boot/efi, or use --bootloader none",
    )


def _siblings(root: Mount) -> Iterable[Path]:
    """Return the partitions of the disk a file system lies on, in their order."""
    try:
        device = Path(root.source).stat().st_rdev
        own = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    except OSError:
        return []
    if not (own / "partition").exists():
        return []
    return [Path("/dev") / path.parent.name for path in sorted(own.parent.glob("*/partition"))]


# what makes room


def _clear(root: Path, replace: Replace) -> None:
    try:
        if replace is Replace.WIPE:
            _empty(root)
            return
        boot = root / "boot"
        if boot.is_dir():
            for path in boot.iterdir():
                if not path.is_mount():
                    _remove(path)
    except OSError as error:
        raise BackendFailed(f"{error.filename or root} cannot be removed: {error.strerror}") from error


def _empty(directory: Path) -> None:
    """Remove all that is in a directory, /boot and the EFI system partition included, which stay mounted."""
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink() and _leads_to_mount(path):
            _empty(path)
        elif not (path.name == "lost+found" and directory.is_mount()):
            _remove(path)


def _remove(path: Path) -> None:
    _make_mutable(path)
    if stat.S_ISDIR(path.lstat().st_mode):
        shutil.rmtree(path)
    else:
        path.unlink()


def _make_mutable(path: Path) -> None:
    """A deployment's directory cannot be removed as it is."""
    deployments = path.glob("deploy/*/deploy/*.[0-9]") if path.name == "ostree" else []
    for deployment in deployments:
        if deployment.is_dir():
            _clear_immutable(deployment)


def _clear_immutable(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = int.from_bytes(fcntl.ioctl(descriptor, _GET_FLAGS, bytes(8))[:4], "little")
        if flags & _IMMUTABLE:
            fcntl.ioctl(descriptor, _SET_FLAGS, (flags & ~_IMMUTABLE).to_bytes(8, "little"))
    except OSError:
        pass  # a file system without such flags
    finally:
        os.close(descriptor)
