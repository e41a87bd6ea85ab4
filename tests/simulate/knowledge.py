"""What the judge of a simulated machine knows: what is so in the world, and what it has heard of.

Of what was to last until a time of the clock nobody can be sure once the clock was set; the judge is not
either.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from bootcd.model.errors import BootcdError
from bootcd.model.job import JobKind, JobRecord, JobState, Outcome
from bootcd.policy.rollout import place
from bootcd.update.facts import Mode
from bootcd.update.inhibit import What
from tests.simulate.openings import Account, Openings
from tests.simulate.versions import Version

if TYPE_CHECKING:
    from tests.simulate.machine import Machine

SLEEP = timedelta(seconds=601)
"The agent looks at the clock that often, at least; only then can it see that somebody set it."
AT_ONCE = timedelta(seconds=5)
"For files others change, a look at the host, and a machine that is slow."
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NOTHING = timedelta(0)
MANY = 3
"Times a thing is tried in vain."
AGENT = "agent"


@dataclass
class Held:
    """An inhibitor somebody has asked for."""

    what: frozenset[What]
    ends: datetime | None
    begins: float
    descriptor: int | None = None
    released: bool = False

    def release(self) -> None:
        self.released = True
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


@dataclass
class Term:
    """Something that lasts until a time of the clock, None until it is ended."""

    ends: datetime | None
    begins: float


@dataclass
class Tries:
    """What became of trying a thing; `last` is a time of the clock."""

    last: datetime
    failed: int = 0
    lasting: int = 0


class Knowledge:
    def __init__(self, world: Machine) -> None:
        self._world = world
        self._openings = Openings(world.rules.windows, world.rules.zone)
        self._figures = world.figures
        self._account = Account(self._openings, world.figures)
        self._disturbed = False
        "The clock was set, or the machine slept, since the last plan."
        self._set_at = -1.0
        "When the clock was set last."
        self._open_for = NOTHING
        "How long something could have been applied, and was not."
        self._known_for = NOTHING
        "How long nothing but a window was missing to apply it, and people were there to be told so."
        self._overdue_for = NOTHING
        "How long a check could have been made, and was not."
        self._waited_for = NOTHING
        "How long an update could have been staged, and was not."
        self._last_check: datetime | None = None
        self._check_failures = 0
        self._staged: dict[str, Tries] = {}
        self._cancelled: datetime | None = None
        self._applied: tuple[str, Tries] | None = None
        self._available: Version | None = None
        self._seen: tuple[str, datetime, float] | None = None
        "Digest of the version that was found last, and when it was first."
        self._told: tuple[datetime, datetime, float] | None = None
        "The time people were told, and when that was, by both clocks."
        self._off: float | None = None
        "When a reboot was called off, on the clock nobody sets."
        self._pause: Term | None = None
        self._appointment: Term | None = None
        self._forced = False
        self._slept_at = -1.0
        self._missing_for = NOTHING
        "How long a reboot that was asked for could have come, and did not."
        self.inhibitors: list[Held] = []

    def breach(self, what: str, detail: str) -> None:
        """Enter a violation; what the machine does after its first one says little."""
        world = self._world
        self._figures.violations.append(
            f"{what} at {world.now:%F %T} UTC, {detail}; machine {self._figures.machines}, {world.rules}; "
            f"the service says: {world.says}"
        )
        world.end()

    # What it hears

    def clock_was_set(self) -> None:
        self._disturbed = True
        self._set_at = self._world.elapsed
        self._known_for = NOTHING
        self._account.breaks("the clock was set")

    def sleeps(self, secs: float) -> None:
        """Hear that the machine sleeps from now on for a time."""
        now = self._world.now
        self._changes_of_the_clock(now, now + timedelta(seconds=secs))
        self._open_for = self._overdue_for = self._waited_for = self._missing_for = NOTHING
        self._known_for = NOTHING
        self._slept_at = self._world.elapsed
        if self._world.rules.mode is Mode.APPLY:
            self._account.passes(now, now + timedelta(seconds=secs), "the machine slept")
        self._disturbed = True

    def _changes_of_the_clock(self, begins: datetime, ends: datetime) -> None:
        zone = self._world.rules.zone
        if begins.astimezone(zone).utcoffset() != ends.astimezone(zone).utcoffset():
            self._figures.clock_changes += 1

    def planned(self) -> None:
        if self._disturbed:
            # Only now people can be told.
            self._open_for = self._known_for = NOTHING
        self._disturbed = False

    def told(self, until: datetime | None) -> None:
        """Hear what people are told of a reboot; None if it does not come."""
        self._told = (until, self._world.now, self._world.elapsed) if until else None
        self._figures.told += until is not None

    def called_off(self) -> None:
        if self._told is not None:
            self._off = self._world.elapsed
            if self._appointment is not None:
                self._appointment = None
                self._settles()

    def paused(self, until: datetime | None) -> None:
        self._pause = Term(until, self._world.elapsed)
        self._settles()

    def resumed(self) -> None:
        self._pause = None
        self._settles()

    @property
    def pause_needs_an_end(self) -> bool:
        return self._pause is not None and (self._pause.ends is None or self._unsure(self._pause.begins))

    def appointed(self, when: datetime | None, *, forced: bool = False) -> None:
        self._appointment = Term(when, self._world.elapsed) if when else None
        self._missing_for = NOTHING
        self._forced = forced
        self._settles()

    def restarted(self) -> None:
        self._off = None

    def goes_down(self) -> None:
        self._told = self._off = self._appointment = None
        for held in self.inhibitors:
            held.release()
        self.inhibitors.clear()

    def boots(self) -> None:
        taken = (self._world.booted, self._world.staged)
        if self._available in taken:
            self._available = None

    def closes(self) -> None:
        self._account.breaks("the simulation ended")

    # What it takes notice of

    def refused(self, record: JobRecord, error: BootcdError) -> None:
        """Hear of a job that did not come about, which counts like one that failed if nobody asked for it."""
        if record.requester.name == AGENT:
            outcome = Outcome(state=JobState.FAILED, error=error.info())
            update = {"state": JobState.FAILED, "outcome": outcome, "finished": self._world.now}
            self.ended(record.model_copy(update=update))

    def ended(self, record: JobRecord) -> None:
        state, now = record.state, record.finished
        assert now is not None
        failed = state in (JobState.FAILED, JobState.INTERRUPTED)
        self._figures.checks_failed += failed and record.request.kind is JobKind.CHECK
        match record.request.kind:
            case JobKind.CHECK:
                self._last_check, self._check_failures = now, self._check_failures + 1 if failed else 0
                if state is JobState.DONE:
                    self._find(now)
            case JobKind.UPGRADE if state is JobState.DONE:
                self._last_check, self._check_failures, self._available = now, 0, None
                self._staged.clear()
                self._cancelled = None
            case JobKind.UPGRADE if state is JobState.CANCELLED:
                self._cancelled = now
            case JobKind.UPGRADE if failed and self._available is not None:
                tries = self._staged.setdefault(self._available.digest, Tries(now))
                error = record.outcome.error if record.outcome else None
                tries.last, tries.failed = now, tries.failed + 1
                tries.lasting += error is not None and error.name == "InvalidLayer"
            case JobKind.APPLY if state is not JobState.CANCELLED and self._world.staged is not None:
                name = self._world.staged.name
                if self._applied is None or self._applied[0] != name:
                    self._applied = (name, Tries(now))
                error = record.outcome.error if record.outcome else None
                refused = error is not None and error.name == "FleetLockRefused"
                self._applied[1].last = now
                self._applied[1].failed += not refused
            case _:
                pass

    def _find(self, now: datetime) -> None:
        world = self._world
        newest = world.newest
        self._available = None if newest in (world.booted, world.staged) else newest
        if self._available and (self._seen is None or self._seen[0] != newest.digest):
            self._seen = (newest.digest, now, world.elapsed)

    # What is so

    @property
    def _settled(self) -> bool:
        return self._world.elapsed >= self._world.settled_at

    def _settles(self) -> None:
        self._world.settled_at = max(self._world.settled_at, self._world.elapsed + 2)

    def _unsure(self, since: float) -> bool:
        """Whether the clock was set since then."""
        return self._set_at >= since

    def _is_over(self, ends: datetime | None, begins: float, now: datetime) -> bool:
        return ends is not None and not self._unsure(begins) and now >= ends

    def _is_held(self, ends: datetime | None, begins: float, now: datetime) -> bool:
        return ends is None or (not self._unsure(begins) and now < ends)

    def _may_be_inhibited(self, what: What, now: datetime) -> bool:
        also = {What.DOWNLOAD} if what is What.STAGE else set()
        return any(
            not held.released and {what, *also} & held.what and not self._is_over(held.ends, held.begins, now)
            for held in self.inhibitors
        )

    def _is_inhibited(self, what: set[What], now: datetime) -> bool:
        """Whether somebody holds it up for sure."""
        return any(
            not held.released
            and what & held.what
            and self._world.elapsed > held.begins + 1
            and self._is_held(held.ends, held.begins, now)
            for held in self.inhibitors
        )

    def _low_battery(self) -> bool:
        known = self._world.around.now
        least = self._world.rules.conditions.least_battery_percent
        return bool(known.on_battery) and known.battery_percent is not None and known.battery_percent < least

    def _metered(self) -> bool:
        return bool(self._world.around.now.metered and self._world.rules.conditions.metered)

    def _turn(self, update: Version, now: datetime) -> datetime | None:
        """Return when the machine takes a version by itself; None if nobody can tell."""
        rules, replaced = self._world.rules, self._world.booted.created
        made = update.created
        if made and made.year > 2014 and made <= now and (replaced is None or made > replaced):
            published = made
        elif self._seen is None or self._seen[0] != update.digest or self._unsure(self._seen[2]):
            return None
        else:
            published = self._seen[1]
        period = rules.rollout.period
        if period is None:
            period = timedelta(seconds=update.rollout_secs)
        share = place(self._world.identity, update.digest, rules.rollout.wariness)
        turn: datetime = published + rules.rollout.minimum_age + share * period
        return turn

    def _check_times(self, now: datetime) -> tuple[datetime, datetime]:
        """Return when the next check comes at the earliest and at the latest."""
        rules, started = self._world.rules, self._world.started
        settling = min(rules.interval, HOUR)
        if started is None or started > now:
            earliest = latest = now
        else:
            earliest, latest = started + 0.1 * settling, started + 0.9 * settling
        if self._last_check is None or self._last_check > now:
            return earliest, latest
        delay = rules.interval
        if self._check_failures:
            delay = self._again(Tries(self._last_check, self._check_failures)) - self._last_check
        due = self._last_check + delay
        return max(earliest, due), max(latest, due + min(rules.jitter, delay))

    def _again(self, tries: Tries) -> datetime:
        """Return when what failed is tried again: after five minutes, twice that, and so on up to a day."""
        interval = self._world.rules.interval
        first = min(interval, timedelta(minutes=5))
        times = max(1, tries.failed)
        return tries.last + min(first * 2 ** min(times - 1, 30), max(interval, DAY))
