"""Which boot loader an image can be booted by, and GRUB's files, as values.

The boot loader comes from the image, so that it fits it and is signed as it is. In the order of preference:

    bootupd     its own `bootupctl backend install`, run in the image
    ready       GRUB and shim built by the distribution, below /usr/lib/efi or in bootupd's updates; copied
    modules     a GRUB image made of /usr/lib/grub/<platform>, if that can read boot entries

Boot entries are files of libostree in /boot/loader/entries, which GRUB's `blscfg` reads, so nothing has
to be written at an update. systemd-boot reads entries from FAT only, where libostree, which needs symbolic
links in /boot, cannot keep them; so it is refused rather than made to boot once and follow no update.

Formats: https://uapi-group.org/specifications/specs/boot_loader_specification/; GRUB's manual.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from bootcd.install.settings import Bootloader
from bootcd.model.errors import NotBootable, Unsupported

BOOTUPD_UPDATES: Final = "usr/lib/bootupd/updates"
EFI_DIRECTORY: Final = "usr/lib/efi"
GRUB_DIRECTORY: Final = "usr/lib/grub"


@dataclass(frozen=True, slots=True)
class Platform:
    """How GRUB and UEFI call a machine."""

    grub: str
    fallback: str
    "File in EFI/BOOT that firmware starts when nothing else is set."
    suffix: str


PLATFORMS: Final = {
    "x86_64": Platform("x86_64-efi", "BOOTX64.EFI", "x64"),
    "aarch64": Platform("arm64-efi", "BOOTAA64.EFI", "aa64"),
    "riscv64": Platform("riscv64-efi", "BOOTRISCV64.EFI", "riscv64"),
}


class Method(Enum):
    """How the boot loader gets onto the disk."""

    BOOTUPD = "bootupd"
    READY = "ready"
    MODULES = "modules"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Choice:
    method: Method
    efi_files: tuple[tuple[str, str], ...] = ()
    "READY, and BOOTUPD where it cannot run: path in the image, path in the EFI system partition."
    blscfg: str = ""
    "Name of the module that reads boot entries."


_VERSIONED = re.compile(rf"{EFI_DIRECTORY}/[^/]+/[^/]+/(EFI/.+)")
_UPDATES = re.compile(rf"{BOOTUPD_UPDATES}/(EFI/.+)")


def choose_bootloader(
    files: frozenset[str], machine: str, wanted: Bootloader | None, *, bootupd_works: bool, reference: str
) -> Choice:
    """Choose how an image is booted.

    Args:
        files: of the image, as a survey has them.
        bootupd_works: this kernel has what bootupd needs.
    Raises:
        NotBootable: there is no way.
        Unsupported: the boot loader asked for cannot boot it.
    """
    if wanted is Bootloader.NONE:
        return Choice(Method.NONE)
    if wanted in (Bootloader.SYSTEMD, Bootloader.GRUB_CC):
        raise Unsupported(
            f"the boot loader {wanted.value} boots composefs-native hosts only",
            hint="leave out --bootloader, or install with: bootc install to-disk --composefs-backend",
        )
    platform = PLATFORMS.get(machine)
    ready = _ready(files, platform)
    has_bootupd = {"usr/bin/bootupctl", "usr/sbin/bootupctl"} & files and any(
        path.startswith(f"{BOOTUPD_UPDATES}/") for path in files
    )
    if has_bootupd and bootupd_works:
        return Choice(Method.BOOTUPD, ready)
    if ready:
        return Choice(Method.READY, ready)
    if platform is not None:
        modules = f"{GRUB_DIRECTORY}/{platform.grub}"
        for name in ("blsuki", "blscfg"):
            if {f"{modules}/moddep.lst", f"{modules}/{name}.mod"} <= files:
                return Choice(Method.MODULES, blscfg=name)
        if f"{modules}/moddep.lst" in files:
            raise NotBootable(
                f"the GRUB in {reference} cannot read boot entries: it has no module blscfg or blsuki",
                hint="GRUB 2.14 has it; or use --bootloader none and install a boot loader yourself",
            )
    raise NotBootable(
        f"{reference} has no boot loader for this machine",
        hint="add bootupd, or GRUB 2.14 with its modules, to the image; or use --bootloader none",
    )


def _ready(files: frozenset[str], platform: Platform | None) -> tuple[tuple[str, str], ...]:
    if platform is None:
        return ()
    for pattern in (_VERSIONED, _UPDATES):
        found = tuple((path, m[1]) for path in sorted(files) if (m := pattern.fullmatch(path)))
        names = {target.rpartition("/")[2].lower() for _, target in found}
        if f"grub{platform.suffix}.efi" in names and platform.fallback.lower() in names:
            return found
    return ()


# GRUB's files

_MODULES = (
    *("part_gpt", "part_msdos", "fat", "search", "search_fs_uuid", "search_label", "normal", "configfile"),
    *("linux", "test", "echo", "regexp", "probe", "loadenv", "serial", "terminal", "all_video", "gzio"),
    *("minicmd", "ls", "cat", "sleep", "reboot", "halt", "read", "true", "efi_gop"),
)
_OF_FILESYSTEM = {"ext4": "ext2", "ext3": "ext2", "ext2": "ext2"}


def image_modules(available: frozenset[str], filesystem: str, blscfg: str) -> list[str]:
    """Return the modules of a GRUB image that boots from a file system.

    Args:
        available: names of the modules that are there.
        filesystem: of /boot.
    Raises:
        NotBootable: one that is needed is not there.
    """
    needed = ("part_gpt", "search", "search_fs_uuid", "normal", "configfile", "linux", "test", blscfg)
    of_filesystem = _OF_FILESYSTEM.get(filesystem, filesystem)
    missing = [name for name in (*needed, of_filesystem) if name not in available]
    if missing:
        raise NotBootable(f"the GRUB in the image has no module {missing[0]}")
    return [name for name in (*_MODULES, of_filesystem, blscfg) if name in available]


def early_config(boot_uuid: str, boot_path: str) -> str:
    """Return what is built into a GRUB image: where the rest of its configuration is.

    Args:
        boot_uuid: of the file system that holds /boot.
        boot_path: of /boot in it, "" if it is that file system.
    """
    return (
        f"search --no-floppy --fs-uuid --set=root {boot_uuid}\n"
        f"set prefix=($root){boot_path}/grub2\n"
        "configfile $prefix/grub.cfg\n"
    )


# The protocol of Fedora and greenboot, without the module `increment`, which GRUB of others has not.
_COUNTING = """\
# A new version that does not come up is given up, and the one before it started; see bootcd-health(8).
if [ -s $prefix/grubenv ]; then
  load_env
  if [ -n "${boot_counter}" -a "${boot_success}" = "0" ]; then
    if [ "${boot_counter}" = "3" ]; then
      set boot_counter=2
    elif [ "${boot_counter}" = "2" ]; then
      set boot_counter=1
    elif [ "${boot_counter}" = "1" ]; then
      set boot_counter=0
    else
      set default=1
      set boot_counter=-1
    fi
    save_env boot_counter
  fi
  set boot_success=0
  save_env boot_success
fi
"""


def static_config(boot_path: str, blscfg: str) -> str:
    """Return /boot/grub2/grub.cfg, which stays as it is: entries come and go in files of their own.

    Args:
        blscfg: name of the module, as it and its options differ; "" for a GRUB that was built ready.
    """
    # GRUB 2.14 looks where it is told, GRUB of Fedora in /loader/entries and then in /boot/loader/entries.
    command = f"blscfg --path {boot_path}/loader/entries" if blscfg == "blsuki" else "blscfg"
    return (
        "# Boot entries are files in /boot/loader/entries. Put settings of your own into user.cfg.\n"
        "set timeout=1\n"
        "set default=0\n"
        "set boot=$root\n"
        "if [ -f $prefix/user.cfg ]; then\n"
        "  source $prefix/user.cfg\n"
        "fi\n"
        f"{_COUNTING}"
        f"{command}\n"
    )


def mkimage_command(
    program: list[str], *, platform: str, directory: str, config: str, output: str, modules: list[str]
) -> list[str]:
    """Return the command that makes a GRUB image; paths are as its process sees them."""
    names = ["--directory", directory, "--config", config, "--output", output, "--prefix", "/grub2"]
    return [*program, "--format", platform, *names, *modules]


def bootupd_command(
    root: str, disk: str, *, generic: bool, static_only: bool, mounts_root: bool
) -> list[str]:
    """Return the command that has bootupd install the boot loader of a deployment.

    Args:
        generic: the disk may end up in any machine, so that this one's firmware is left alone.
        static_only: write no UUID of the boot file system (`bootupd.skip-boot-uuid`).
        mounts_root: name the file system instead of the disk, where no disk is known.
    """
    what = ["--with-static-configs"] if static_only else ["--write-uuid"]
    firmware = [] if generic else ["--update-firmware", "--auto"]
    where = ["--filesystem", "/sysroot"] if mounts_root else ["--device", disk]
    return ["chroot", root, "bootupctl", "backend", "install", *what, *firmware, *where, "/"]
