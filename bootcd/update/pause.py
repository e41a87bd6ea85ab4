"""Pauses: somebody wants nothing to be done unasked until a time, or until they say so. No I/O.

The end is a time of the wall clock, which may be set. A clock that is behind the beginning of a pause was
wrong then or is wrong now, and nobody knows which: the pause holds for as long as it was to last, from now
on, until the clock is past its beginning again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pydantic import AwareDatetime

from bootcd.model.errors import InvalidArguments
from bootcd.policy.span import LONGEST_SPAN


@dataclass(frozen=True, slots=True)
class Pause:
    since: AwareDatetime
    until: AwareDatetime | None = None
    "None if it lasts until it is ended."
    uid: int = 0
    "Whose it is."

    @property
    def sentence(self) -> str:
        return f"user {self.uid} has paused updates"

    def is_over(self, now: datetime) -> bool:
        return self.until is not None and self.until <= now

    def moved(self, now: datetime) -> Pause:
        """Return one that lasts as long, from now on."""
        until = self.until and now + (self.until - self.since)
        return replace(self, since=now, until=until)


def begin_pause(now: datetime, until: datetime | None, uid: int) -> Pause:
    """Return what somebody asks for. Raises InvalidArguments."""
    if until and until <= now:
        raise InvalidArguments("the end of the pause is in the past")
    # Whoever asked for this long may have been a moment on the way.
    if until and until > now + LONGEST_SPAN + timedelta(minutes=1):
        raise InvalidArguments(
            f"a pause is no longer than {LONGEST_SPAN.days} days", hint="or lasts until it is ended"
        )
    return Pause(since=now, until=until, uid=uid)
