"""A system root made anew, and its first deployment; what `bootc install` makes of libostree.

    <root>/ostree/repo, <root>/ostree/deploy/<stateroot>, <root>/boot

The repository's settings are bootc's: boot entries name their files below /boot, and no boot loader
configuration is generated, because GRUB reads the entries themselves.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from bootcd.host.files import write_atomic
from bootcd.ostree.kargs import read_kargs
from bootcd.ostree.libostree import Gio, GLib, OSTree, host_errors
from bootcd.ostree.sysroot import Sysroot
from bootcd.ostreefmt.origin import Origin, TrackedImage

_COMMON_SETTINGS = (("bootloader", "none"), ("bootprefix", "true"), ("readonly", "true"))
_APPEND_EXCEPT_DEFAULT = "bls-append-except-default"
_BOOT_LINK = "boot"
_BOOT_FILE = re.compile(r"^(linux|initrd|devicetree|fdtdir)([ \t]+)/(?!boot/)", re.MULTILINE)


def initialise(root: Path, stateroot: str, *, append_except_default: str | None, fsverity: bool) -> Sysroot:
    """Make an ostree system root in an empty file system, and open it.

    Args:
        append_except_default: added to all boot entries but the first, see ostree.repo-config(5).
        fsverity: seal every file object.
    Raises BackendFailed, OutOfSpace.
    """
    with host_errors("make the system root", path=str(root)):
        boot = root / "boot"
        boot.mkdir(mode=0o755, exist_ok=True)
        link = boot / _BOOT_LINK
        if boot.is_mount() and not link.is_symlink():
            # Entries say /boot/ostree/...; the boot loader sees that file system's own root.
            link.symlink_to(".")
        sysroot = OSTree.Sysroot.new(Gio.File.new_for_path(os.fspath(root)))
        sysroot.ensure_initialized(None)
        sysroot.load(None)
        _, repo = sysroot.get_repo(None)
        config = repo.copy_config()
        for name, value in _COMMON_SETTINGS:
            config.set_string("sysroot", name, value)
        if append_except_default is not None:
            config.set_string("sysroot", _APPEND_EXCEPT_DEFAULT, append_except_default)
        if fsverity:
            config.set_string("ex-integrity", "fsverity", "yes")
        repo.write_config(config)
        sysroot.init_osname(stateroot, None)
    return Sysroot(root)


def image_arguments(sysroot: Sysroot, commit: str) -> list[str]:
    """Return the kernel arguments an image brings along; raises NotBootable for one that cannot be taken."""
    return read_kargs(sysroot.repository, commit)


def deploy_first(
    sysroot: Sysroot, stateroot: str, commit: str, image: TrackedImage, arguments: Sequence[str]
) -> Path:
    """Deploy a commit where nothing is deployed yet, and return the directory. Blocks.

    Raises BackendFailed, OutOfSpace.
    """
    text = Origin.fresh(image).to_keyfile()
    origin = GLib.KeyFile()
    origin.load_from_data(text, len(text.encode()), GLib.KeyFileFlags.NONE)
    inner = sysroot.sysroot
    with host_errors("deploy the image", path=str(sysroot.path)):
        _, deployment = inner.deploy_tree(stateroot, commit, origin, None, list(arguments), None)
        flags = OSTree.SysrootSimpleWriteDeploymentFlags.NO_CLEAN
        inner.simple_write_deployment(stateroot, deployment, None, flags, None)
        path = sysroot.path / str(inner.get_deployment_dirpath(deployment))
        _add_boot_prefix(sysroot.path / "boot/loader/entries")
    sysroot.reload()
    return path


def _add_boot_prefix(entries: Path) -> None:
    """Have boot entries name their files below /boot, which libostree 2022 does not do itself."""
    for path in entries.glob("*.conf"):
        old = path.read_text()
        new = _BOOT_FILE.sub(r"\1\2/boot/", old)
        if new != old:
            write_atomic(path, new.encode(), mode=0o644, durable=False)
