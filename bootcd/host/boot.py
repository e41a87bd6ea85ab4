"""Which boot this is."""

from __future__ import annotations

from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Return the id of this boot, 32 hexadecimal digits as in the journal (random(4)). Raises OSError."""
    return _BOOT_ID.read_text().strip().replace("-", "")
