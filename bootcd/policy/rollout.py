"""Phased rollout without a server: when in the life of a version a machine takes it. No I/O.

A version is taken once it has a minimum age, and from then on machine after machine over a period. The
place of a machine in that period is drawn from its identity and the version's digest, so that machines
which know nothing of each other come one after the other, in another order for each version, and every
machine finds the same place again whenever it looks. Its wariness moves the place: 0 is always the
beginning of the period and 1 its end, as with `rollout_wariness` of Zincati; in between the place is
drawn from as wide a part of the period as has that mean.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bootcd.policy.span import parse_span

PERIOD = "org.bootcd.rollout.period"
"Annotation of a manifest, or label, by which an image announces its period, as in systemd.time(7)."
LONGEST_ANNOUNCED = timedelta(days=14)
"An image must not keep the fix of a defect away for as long as it likes."

_FIRST_IMAGES = datetime(2014, 1, 1, tzinfo=UTC)
"Reproducible builds carry 1970, 1980 or nothing; none is a time at which an image was made."


@dataclass(frozen=True, slots=True)
class Rollout:
    """The administrator's part."""

    wariness: float = 0.5
    period: timedelta | None = None
    "None for what the image announces."
    minimum_age: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class Turn:
    """When a version is old enough, and when this machine's turn to take it comes."""

    aged: datetime
    comes: datetime


def announced_period(text: str | None) -> timedelta:
    """Read the period an image announces; none if it makes no sense, and no more than may be."""
    try:
        return min(parse_span(text), LONGEST_ANNOUNCED) if text else timedelta(0)
    except ValueError:
        return timedelta(0)


def place(identity: bytes, digest: str, wariness: float) -> float:
    """Return the place of a machine in the rollout of a version, from 0 to 1.

    `identity` is the machine's own and secret.
    """
    drawn = hmac.digest(identity, digest.encode(), hashlib.sha256)
    bucket = int.from_bytes(drawn[:6], "big") / (1 << 48)
    return wariness + (2 * bucket - 1) * min(wariness, 1 - wariness)


def publication(
    created: datetime | None, *, first_seen: datetime, replaces: datetime | None, now: datetime
) -> datetime:
    """Return when a version counts as published.

    That is when it was created, if that can be true: in the past, and after what it `replaces` was
    created. Else it is when this machine saw it first.
    """
    created = plausible(created)
    if created is None or created > now or (replaces is not None and created <= replaces):
        return first_seen
    return created


def plausible(created: datetime | None) -> datetime | None:
    """Return the time at which an image was made, None if it is none at which there were images."""
    return created if created is not None and created > _FIRST_IMAGES else None


def turn(rollout: Rollout, *, announced: timedelta, published: datetime, place: float) -> Turn:
    """Return when a machine takes a version by itself; a configured period counts before an announced one."""
    period = announced if rollout.period is None else rollout.period
    aged = published + rollout.minimum_age
    return Turn(aged, aged + place * period)
