"""What an image's initramfs makes of the root directory, as far as an import depends on it.

Where `/` comes from the image (composefs, or a transient overlay), directories such as /opt or /srv of a
layer are part of the system; elsewhere they would hide the machine's own, so they are left out.

Format: ostree-prepare-root(1).
"""

from __future__ import annotations

from bootcd.model.errors import NotBootable
from bootcd.ostree.libostree import GLib

CONFIG_PATHS = ("etc/ostree/prepare-root.conf", "usr/lib/ostree/prepare-root.conf")
"In the tree of a commit; the first one there counts."
MAX_CONFIG_BYTES = 64 << 10

_COMPOSEFS_ON = ("yes", "true", "1", "maybe", "signed", "verity")


def root_is_of_image(config: bytes) -> bool:
    """Whether all of `/` comes from the image by its prepare-root.conf; raises NotBootable."""
    keyfile = GLib.KeyFile()
    try:
        keyfile.load_from_bytes(GLib.Bytes.new(config), GLib.KeyFileFlags.NONE)
    except GLib.Error as error:
        raise NotBootable("prepare-root.conf of the image cannot be understood") from error
    return _value(keyfile, "root", "transient") in ("true", "1") or (
        _value(keyfile, "composefs", "enabled") in _COMPOSEFS_ON
    )


def _value(keyfile: GLib.KeyFile, group: str, key: str) -> str:
    try:
        return str(keyfile.get_string(group, key)).strip()
    except GLib.Error:
        return ""
