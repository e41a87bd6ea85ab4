"""What an image's initramfs makes of the root directory, as far as an import depends on it.

Where `/` comes from the image (composefs, or a transient overlay), directories such as /opt or /srv of a
layer are part of the system; elsewhere they would hide the machine's own, so they are left out.

Format: ostree-prepare-root(1).
"""

from __future__ import annotations

from enum import Enum

from bootcd.model.errors import NotBootable
from bootcd.ostree.libostree import GLib, OSTree, has

CONFIG_PATHS = ("etc/ostree/prepare-root.conf", "usr/lib/ostree/prepare-root.conf")
"In the tree of a commit; the first one there counts."
MAX_CONFIG_BYTES = 64 << 10

_COMPOSEFS_ON = ("yes", "true", "1", "maybe", "signed", "verity")


def root_is_of_image(config: bytes) -> bool:
    """Whether all of `/` comes from the image by its prepare-root.conf; raises NotBootable."""
    keyfile = _parse(config)
    return _value(keyfile, "root", "transient") in ("true", "1") or (
        _value(keyfile, "composefs", "enabled") in _COMPOSEFS_ON
    )


class Composefs(Enum):
    """How the system wants its root."""

    OFF = "off"
    OPTIONAL = "optional"
    "As a composefs image if there is one."
    NEEDED = "needed"
    SEALED = "sealed"
    "Needed, with fs-verity on every file."


def composefs_of(config: bytes) -> Composefs:
    """Return what a prepare-root.conf says about composefs; raises NotBootable."""
    enabled = _value(_parse(config), "composefs", "enabled")
    if enabled in ("signed", "verity"):
        return Composefs.SEALED
    if enabled in ("yes", "true", "1"):
        return Composefs.NEEDED
    return Composefs.OPTIONAL if enabled == "maybe" else Composefs.OFF


def makes_composefs() -> bool:
    """Whether this libostree makes composefs images of what it deploys."""
    return has(OSTree.Repo, "checkout_composefs")


def _parse(config: bytes) -> GLib.KeyFile:
    keyfile = GLib.KeyFile()
    try:
        keyfile.load_from_bytes(GLib.Bytes.new(config), GLib.KeyFileFlags.NONE)
    except GLib.Error as error:
        raise NotBootable("prepare-root.conf of the image cannot be understood") from error
    return keyfile


def _value(keyfile: GLib.KeyFile, group: str, key: str) -> str:
    try:
        return str(keyfile.get_string(group, key)).strip()
    except GLib.Error:
        return ""
