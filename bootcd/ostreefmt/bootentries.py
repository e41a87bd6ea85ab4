"""Boot entries whose names count, `NAME+LEFT-DONE.conf`, as bootc and systemd-boot write them. No I/O.

https://uapi-group.org/specifications/specs/boot_loader_specification/#boot-counting
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bootcd.ostreefmt.composefs import parse_booted_composefs

_NAME = re.compile(r"(.+?)(?:\+([0-9]{1,9})(?:-[0-9]{1,9})?)?\.conf", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True)
class EntryName:
    stem: str
    left: int | None = None
    "Attempts that are left; None for an entry that is not counted."

    def __str__(self) -> str:
        return f"{self.stem}{'' if self.left is None else f'+{self.left}'}.conf"


def parse_entry_name(name: str) -> EntryName | None:
    """Parse the name of an entry's file; None if it is none."""
    match = _NAME.fullmatch(name)
    return EntryName(match[1], int(match[2]) if match[2] else None) if match else None


def counted_image(text: str) -> str:
    """Return the composefs image an entry boots, by digest; empty if it boots none that is counted.

    systemd-boot counts an entry that names a kernel by `linux`, and none that names a program by `efi`.
    """
    pairs = [line.strip().partition(" ") for line in text.splitlines()]
    keys = {key for key, _, _ in pairs}
    options = " ".join(value for key, _, value in pairs if key == "options")
    booted = parse_booted_composefs(options)
    return booted.digest if booted and "linux" in keys else ""
