"""Whether a version is older than another of the same image, by what the two say of themselves. No I/O.

A mirror that hands out an old image, signed as it was, would bring back every hole that was closed since.
It can change nothing in the image, so what the image says counts: its version, where two can be put in
an order, else the time at which it was made, as libostree compares commits.
"""

from __future__ import annotations

import re
from datetime import datetime

from bootcd.policy.rollout import plausible

# Numbers with separators, such as 41.20250115.0, v1.2-3 or stream9.20250115.
_VERSION = re.compile(r"([A-Za-z]{0,32})([0-9]{1,18}(?:[.+~_-][0-9]{1,18}){0,15})", re.ASCII)
_SEPARATOR = re.compile(r"[.+~_-]")


def older(
    version: str, created: datetime | None, *, than_version: str, than_created: datetime | None
) -> bool:
    """Whether the first is older than the second; False also where nobody can tell."""
    if order := compare_versions(version, than_version):
        return order < 0
    made, before = plausible(created), plausible(than_created)
    return made is not None and before is not None and made < before


def compare_versions(one: str, other: str) -> int:
    """Return -1, 0 or 1 as the first is older, alike or newer; 0 also for versions of different make."""
    left, right = _VERSION.fullmatch(one), _VERSION.fullmatch(other)
    if left is None or right is None or left[1] != right[1]:
        return 0
    if _SEPARATOR.findall(left[2]) != _SEPARATOR.findall(right[2]):
        return 0
    first, second = ([int(part) for part in _SEPARATOR.split(match[2])] for match in (left, right))
    return (first > second) - (first < second)
