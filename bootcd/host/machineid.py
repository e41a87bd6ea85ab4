"""Which machine this is, without telling its machine-id, which machine-id(5) calls confidential."""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path

from bootcd.host.files import read_bounded

_MACHINE_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_ROLLOUT = bytes.fromhex("4b7d2cf05c0f4b3d9d0a5be0a1e3c76f")
"Of what is drawn for this machine, such as its places in rollouts."


def application_id(machine_id: str, application: bytes) -> bytes:
    """Hash a machine-id as sd_id128_get_machine_app_specific(3) does. Raises ValueError if it is none."""
    text = machine_id.strip()
    if not _MACHINE_ID.fullmatch(text) or text == "0" * 32:
        raise ValueError("no machine id")
    digest = bytearray(hmac.digest(bytes.fromhex(text), application, hashlib.sha256)[:16])
    digest[6] = digest[6] & 0x0F | 0x40
    digest[8] = digest[8] & 0x3F | 0x80
    return bytes(digest)


def rollout_identity(path: Path = Path("/etc/machine-id")) -> bytes | None:
    """Return what rollouts know this machine by; None if it has no machine-id yet. Blocks."""
    try:
        return application_id(read_bounded(path, 128).decode(errors="replace"), _ROLLOUT)
    except (OSError, ValueError):
        return None
