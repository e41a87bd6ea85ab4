"""The arguments of `bootcd-install`: names and meaning are those of `bootc install`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bootcd import __version__
from bootcd.install.layout import Filesystem
from bootcd.install.settings import BlockSetup, Bootloader, BoundImages, Replace
from bootcd.model.errors import Unsupported

REFUSED_VERBS = {
    "to-existing-root": "use to-filesystem --replace alongside, or bootc install to-existing-root",
    "reset": "use bootc install reset",
    "finalize": "to-filesystem does it by itself, unless it has --skip-finalize",
    "ensure-completion": "Anaconda calls it for bootc alone",
}
REFUSED_OPTIONS = {
    "--composefs-backend": "only bootc installs composefs-native hosts",
    "--allow-missing-verity": "it belongs to --composefs-backend of bootc",
    "--uki-addon": "it belongs to --composefs-backend of bootc",
    "--experimental-unified-storage": "images are kept in the ostree repository alone",
}
"What `bootc install` has beside and cannot be done here, and what to do instead."
_IGNORED_OPTIONS = ("--skip-fetch-check", "--target-no-signature-verification")
"Options that have no effect in bootc either."


def refuse(argv: Sequence[str]) -> None:
    """Refuse by name what bootc has and this command has not. Raises Unsupported."""
    for word in argv:
        name = word.partition("=")[0]
        hint = REFUSED_OPTIONS.get(name) or (REFUSED_VERBS.get(name) if word is argv[0] else None)
        if hint is not None:
            raise Unsupported(f"bootcd-install does not know {name}", hint=hint)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bootcd-install",
        description="Install a bootable container image to a disk or a prepared file system.",
        epilog="Exit codes: those of bootcctl(1). Everything on the target is lost.",
    )
    parser.add_argument("--version", action="version", version=f"bootcd-install {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    disk = verbs.add_parser("to-disk", help="partition a disk and install to it")
    disk.add_argument("device", type=Path, metavar="DEVICE", help="whole disk, or a file with --via-loopback")
    disk.add_argument("--wipe", action="store_true", help="lose everything that is on the disk now")
    disk.add_argument(
        "--block-setup", choices=[s.value for s in BlockSetup], help="how root lies on the disk"
    )
    disk.add_argument("--filesystem", choices=[f.value for f in Filesystem], help="root file system")
    disk.add_argument(
        "--root-size", metavar="N", help="of the root partition, such as 20G (MiB; all that is left)"
    )
    disk.add_argument("--via-loopback", action="store_true", help="DEVICE is a file that stands for a disk")
    _add_common(disk)

    place = verbs.add_parser("to-filesystem", help="install to a file system that is mounted")
    place.add_argument("path", type=Path, metavar="PATH", help="mount point of the new root")
    place.add_argument("--root-mount-spec", metavar="SPEC", help="source of the root file system (its UUID)")
    place.add_argument(
        "--boot-mount-spec", metavar="SPEC", help="source of the file system at /boot (its UUID)"
    )
    place.add_argument(
        "--replace", choices=[r.value for r in Replace], help="what may be lost of what is there"
    )
    place.add_argument(
        "--acknowledge-destructive",
        action="store_true",
        help="mean it, where the system that runs is replaced",
    )
    place.add_argument("--skip-finalize", action="store_true", help="leave the file systems writable")
    _add_common(place)

    configuration = verbs.add_parser(
        "print-configuration", help="print what an image says about its installation"
    )
    configuration.add_argument("--all", action="store_true", help="print kernel arguments too")
    configuration.add_argument("--source-imgref", metavar="IMAGE", help="the image (the system that runs)")
    _add_config_dir(configuration)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    image = parser.add_argument_group("image")
    image.add_argument(
        "--source-imgref",
        metavar="IMAGE",
        required=True,
        help="what to install: a registry reference, oci:DIR[:TAG] or oci-archive:FILE[:TAG]",
    )
    image.add_argument(
        "--target-imgref", metavar="IMAGE", help="what to follow from then on (what is installed)"
    )
    image.add_argument(
        "--target-transport", default="registry", metavar="NAME", help="transport of it (%(default)s)"
    )
    image.add_argument(
        "--enforce-container-sigpolicy", action="store_true", help="have upgrades demand a signature policy"
    )
    image.add_argument(
        "--spool-dir",
        type=Path,
        default=Path("/var/tmp"),  # noqa: S108  # for files without names
        metavar="DIR",
        help="where layers of a registry are kept meanwhile (%(default)s)",
    )
    _add_config_dir(image)
    image.add_argument(
        "--run-fetch-check", action="store_true", help="make sure that what is to be followed can be fetched"
    )
    image.add_argument(
        "--bound-images",
        choices=[b.value for b in BoundImages],
        default=BoundImages.PULL.value,
        help="get the logically bound images with podman, or leave them to the first upgrade (%(default)s)",
    )
    for name in _IGNORED_OPTIONS:
        image.add_argument(name, action="store_true", help=argparse.SUPPRESS)
    system = parser.add_argument_group("system")
    system.add_argument("--karg", action="append", default=[], metavar="ARG", help="add a kernel argument")
    system.add_argument(
        "--karg-delete",
        action="append",
        default=[],
        metavar="ARG",
        help="leave out a kernel argument of the image, by KEY or KEY=VALUE",
    )
    system.add_argument(
        "--root-ssh-authorized-keys", type=Path, metavar="FILE", help="let these keys in as root"
    )
    system.add_argument("--stateroot", metavar="NAME", help="name of the state root (default)")
    system.add_argument("--disable-selinux", action="store_true", help="boot the system with SELinux off")
    system.add_argument(
        "--generic-image", action="store_true", help="the disk may be for any machine: leave firmware alone"
    )
    system.add_argument(
        "--bootloader", choices=[b.value for b in Bootloader], help="boot loader (what the image has)"
    )
    system.add_argument(
        "--bootupd-skip-boot-uuid", action="store_true", help="have bootupd write no file system UUID"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="tell progress and result as lines of JSON")
    output.add_argument("-q", "--quiet", action="store_true", help="print errors and warnings only")


def _add_config_dir(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--config-dir",
        type=Path,
        action="append",
        metavar="DIR",
        help="read bootcd's configuration, which has settings of registries, from here",
    )
