"""Whether the host is one libostree has no part in: it boots a composefs image of bootc's other backend."""

from __future__ import annotations

from pathlib import Path

from bootcd.ostreefmt.composefs import BootedComposefs, parse_booted_composefs

OSTREE, BOOTC, AUTO = "ostree", "bootc", "auto"


def booted_composefs(root: Path) -> BootedComposefs | None:
    """Return what a composefs-native host was booted from, None on every other one."""
    if (root / "run/ostree-booted").exists():
        return None
    try:
        return parse_booted_composefs((root / "proc/cmdline").read_text(errors="replace"))
    except OSError:
        return None


def choose_backend(wanted: str, root: Path) -> str:
    """Return what drives the host, `OSTREE` or `BOOTC`; `AUTO` leaves it to how the host was booted."""
    if wanted == AUTO:
        return BOOTC if booted_composefs(root) is not None else OSTREE
    return wanted
