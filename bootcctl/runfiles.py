"""World-readable files the service keeps while it runs, so that status needs neither bus nor privilege.

    status.json    the host, byte for byte as `bootc status --json --format-version=1` prints it
    service.json   the properties of org.bootcd1.Manager, times in microseconds since the epoch

Both are written whole and renamed into place, and removed when the service ends. Anything that
cannot be read is taken for absent: the bus is then asked, which starts the service.
"""

from __future__ import annotations

import json
import os
from typing import Any

SIZE_LIMIT = 4 << 20
"A status document is a few KiB."


def run_directory(environ: dict[str, str], bus_option: str) -> str:
    """Return where the files are; empty if they would describe another service than the bus does."""
    if environ.get("BOOTCD_RUN_DIR"):
        return environ["BOOTCD_RUN_DIR"]
    if bus_option or environ.get("DBUS_SYSTEM_BUS_ADDRESS"):
        return ""
    return "/run/bootcd"


def read_text(directory: str, name: str) -> str:
    """Read one of the files; empty if there is none."""
    if not directory:
        return ""
    try:
        # O_NONBLOCK, so that something other than a file in its place cannot hold the command up.
        fd = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as stream:
            content = stream.read(SIZE_LIMIT + 1)
        return content.decode() if content and len(content) <= SIZE_LIMIT else ""
    except (OSError, UnicodeDecodeError):
        return ""


def parse_document(text: str) -> dict[str, Any] | None:
    """Parse a JSON object; None if the text is none."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
