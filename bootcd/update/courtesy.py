"""When people who are logged in were told that the host reboots, and how long that stands. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

GOOD_FOR = timedelta(minutes=15)
"After the time people were told: a reboot that was refused is tried again within it, and surprises nobody."

REHEARSED_FOR = timedelta(seconds=30)
"After that time: a rehearsal of the reboot that is gone before was called off."

CALLED_OFF = timedelta(hours=1)
"How long a reboot that was called off does not come."


@dataclass(frozen=True, slots=True)
class Told:
    until: datetime | None = None

    def at(self, now: datetime) -> datetime | None:
        """Return the time people know of; None if they know of none."""
        return self.until if self.until and now < self.until + GOOD_FOR else None

    def after(self, notice: datetime | None, now: datetime) -> Told:
        """Return what people know after a plan with this `notice`, and from then on have to be told."""
        known = self.at(now)
        if notice is None and known is not None and known <= now:
            return self  # It is time; what was told stays good for a reboot that has to be tried again.
        return Told(notice)
