"""Drivers: other programs that decide when this host is updated, such as an agent of a fleet. No I/O.

A driver says so in a file of its own, in TOML:

    name = "fleet-agent"               what people are shown, needed
    why = "version 42 comes on Monday" why nothing happens, if there is something to say
    pid = 1234                         while this process runs; without it as long as the file is there

A file that makes no sense holds up work as well: somebody wanted to, and it can be seen which one it is.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass

from bootcd.model.text import one_line

_TEXT_LIMIT = 128
_LARGEST_PID = 1 << 22


@dataclass(frozen=True, slots=True)
class Driver:
    name: str
    why: str = ""
    pid: int = 0
    "0 if it counts as long as its file is there."

    @property
    def sentence(self) -> str:
        return f"{self.name} decides when this host is updated" + (f": {self.why}" if self.why else "")


def parse_driver(text: str, file: str) -> Driver:
    """Read what a driver says; of what makes no sense, one by the name of its file."""
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return unreadable(file)
    name, why, pid = given.get("name"), given.get("why", ""), given.get("pid", 0)
    if not isinstance(name, str) or not name.strip() or not isinstance(why, str):
        return unreadable(file)
    if not isinstance(pid, int) or isinstance(pid, bool) or not 0 <= pid <= _LARGEST_PID:
        return unreadable(file)
    return Driver(one_line(name, _TEXT_LIMIT), one_line(why, _TEXT_LIMIT), pid)


def unreadable(file: str) -> Driver:
    return Driver(one_line(file, _TEXT_LIMIT), "the file cannot be understood")
