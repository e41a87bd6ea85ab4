"""Boot entries whose names count, `NAME+LEFT-DONE.conf`, as bootc and systemd-boot write them. No I/O.

https://uapi-group.org/specifications/specs/boot_loader_specification/#boot-counting
"""

from __future__ import annotations

import re
from collections.abc import Iterable
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


def first_image(texts: Iterable[str], images: Iterable[str]) -> str:
    """Return which of these images comes first in systemd-boot's menu; empty if none is in it.

    Of entries bootc writes the sort keys alone decide.
    """
    wanted = [image for image in images if image]
    found = [
        (_values(text).get("sort-key", ""), image) for text in texts for image in wanted if image in text
    ]
    return min(found, default=("", ""))[1]


def counted_image(text: str) -> str:
    """Return the composefs image an entry boots, by digest; empty if it boots none that is counted.

    systemd-boot counts an entry that names a kernel by `linux`, and none that names a program by `efi`.
    """
    values = _values(text)
    booted = parse_booted_composefs(values.get("options", ""))
    return booted.digest if booted and "linux" in values else ""


def _values(text: str) -> dict[str, str]:
    """Return the values by their keys; those of a key that comes again are joined by blanks."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.strip().partition(" ")
        values[key] = f"{values.get(key, '')} {value}".strip()
    return values
