"""How a host that boots a composefs image tells so: bootc's second backend, none of it libostree's.

The kernel argument `composefs=<digest>` names the image by its fs-verity digest, SHA-512 in hexadecimal;
a `?` before it means that files may lack fs-verity. No I/O.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_KARG = re.compile(r"composefs=(\??)([0-9a-f]{128})", re.ASCII)


@dataclass(frozen=True, slots=True)
class BootedComposefs:
    digest: str
    missing_verity_allowed: bool = False


def parse_booted_composefs(cmdline: str) -> BootedComposefs | None:
    """Find the image in a kernel command line; None if it boots another way."""
    for argument in cmdline.split():
        if match := _KARG.fullmatch(argument):
            return BootedComposefs(match[2], missing_verity_allowed=bool(match[1]))
    return None
