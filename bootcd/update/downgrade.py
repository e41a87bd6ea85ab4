"""Whether a version is older than another of the same image, by what the two say of themselves. No I/O.

A mirror that hands out an old image, signed as it was, would bring back every hole that was closed since.
It can change nothing in the image, so what the image says counts: its version, where two can be put in
an order, else the time at which it was made, as libostree compares commits.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from bootcd.model.errors import DowngradeRefused
from bootcd.model.host import HostState, ImageStatus
from bootcd.model.job import ImageUpdate
from bootcd.model.text import one_line
from bootcd.policy.rollout import plausible

# Numbers with separators, such as 41.20250115.0, v1.2-3 or stream9.20250115.
_VERSION = re.compile(r"([A-Za-z]{0,32})([0-9]{1,18}(?:[.+~_-][0-9]{1,18}){0,15})", re.ASCII)
_SEPARATOR = re.compile(r"[.+~_-]")
_NAME_CHARACTERS = 80


def require_no_downgrade(update: ImageUpdate, state: HostState) -> None:
    """Refuse an update that is older than what is staged or booted. Raises DowngradeRefused."""
    if (found := newer_than(update, state)) is None:
        return
    role, image = found
    raise DowngradeRefused(
        f"the newest version of {update.image} is {_named(update.version, update.created, update.digest)},"
        f" older than {_named(image.version or '', image.created, image.image_digest)}, which is {role}",
        hint="to take it all the same: bootcctl upgrade --allow-downgrade",
        digest=update.digest,
        newer=image.image_digest,
    )


def newer_than(update: ImageUpdate, state: HostState) -> tuple[str, ImageStatus] | None:
    """Return the role and the image of what an update would be a downgrade from, if there is such."""
    for role, entry in (("staged", state.staged), ("booted", state.booted)):
        if entry and entry.image and is_downgrade(update, entry.image):
            return role, entry.image
    return None


def is_downgrade(update: ImageUpdate, image: ImageStatus) -> bool:
    """Whether `update` is an older version of the same image, by the same tag."""
    followed = image.image
    return (followed.transport, followed.image) == (update.transport, update.image) and older(
        update.version, update.created, than_version=image.version or "", than_created=image.created
    )


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


def _named(version: str, created: datetime | None, digest: str) -> str:
    name = one_line(version, _NAME_CHARACTERS) or digest
    made = plausible(created)
    return f"{name} of {made.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if made else name
