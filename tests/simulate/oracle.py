"""The judge of a simulated machine: what it must never do, and what it must not leave undone.

It knows what is so in the world, not what the planner makes of it, and has rules of its own, which are those
of the documentation.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from bootcd.model.job import ImageUpdate, JobKind, JobRecord, JobState
from bootcd.policy.rollout import place
from bootcd.update.attempts import name_of
from bootcd.update.facts import Action, Mode
from bootcd.update.inhibit import What
from bootcd.update.surroundings import OnSessions
from tests.simulate.openings import Openings

if TYPE_CHECKING:
    from tests.simulate.world import World

_SLEEP = timedelta(seconds=601)
"The agent looks at the clock that often, at least; only then can it see that somebody set it."
_AT_ONCE = timedelta(seconds=1)
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_NOTHING = timedelta(0)


class Oracle:
    def __init__(self, world: World) -> None:
        self._world = world
        self._openings = Openings(world.rules.windows, world.rules.zone)
        self._figures = world.figures
        self._disturbed = False
        "The clock was set, or the machine slept, since the last plan."
        self._open_for = _NOTHING
        "How long something could have been applied, and was not."
        self._overdue_for = _NOTHING
        "How long a check could have been made, and was not."
        self._last: datetime | None = None
        self._failures = 0
        self._tried: tuple[str, datetime, int] = ("", world.now, 0)
        self._told: tuple[datetime, float] | None = None
        "The time people were told, and when that was, on the clock nobody sets."
        self._told_well = False
        "The clock has told the same time since, and no window left people less of it."

    def breach(self, what: str, detail: str) -> None:
        world = self._world
        self._figures.violations.append(f"{what} at {world.now:%F %T} UTC, {detail}; {world.rules}")

    def disturbed(self) -> None:
        self._disturbed = True
        self._told_well = False

    def planned(self) -> None:
        self._disturbed = False

    def told(self, until: datetime | None) -> None:
        """Hear what people are told of a reboot; None if it does not come."""
        self._told = (until, self._world.elapsed) if until else None
        self._told_well = not self._disturbed and not self._world.rules.windows
        self._figures.told += until is not None

    # What it must not leave undone

    def passes(self, secs: float) -> None:
        """Look at a span of time in which nothing happens, and nothing is done."""
        world, begins = self._world, self._world.now
        ends = begins + timedelta(seconds=secs)
        zone = world.rules.zone
        if begins.astimezone(zone).utcoffset() != ends.astimezone(zone).utcoffset():
            self._figures.clock_changes += 1
        patience = _SLEEP if self._disturbed else _AT_ONCE
        self._passes_ready(begins, ends, patience)
        self._passes_overdue(begins, ends, patience)

    def _passes_ready(self, begins: datetime, ends: datetime, patience: timedelta) -> None:
        if not self._ready(begins):
            self._open_for = _NOTHING
            return
        if self._world.surroundings.people:
            patience += self._world.rules.conditions.courtesy
        spans = self._openings.between(begins, ends)
        for opens, closes in spans:
            if opens > begins:
                self._open_for = _NOTHING
            if not self._open_for:
                self._figures.openings += 1
            before, self._open_for = self._open_for, self._open_for + (closes - opens)
            if self._open_for > patience >= before:
                self.breach("a window was skipped", f"open from {opens:%F %T} on")
        if not spans or spans[-1][1] < ends:
            self._open_for = _NOTHING

    def _ready(self, now: datetime) -> bool:
        """Whether nothing but a window is missing to apply what is staged, as far as is sure."""
        world = self._world
        if world.rules.mode is not Mode.APPLY or not world.up or world.busy:
            return False
        if world.staged is None or world.locked or world.health.failure_of(world.staged.digest):
            return False
        if self._low_battery() or world.surroundings.shutdown_blocks:
            return False
        waits = world.surroundings.people and world.rules.conditions.sessions is OnSessions.WAIT
        if world.pause or waits:
            return False
        name, last, count = self._tried
        tried = name == name_of(world.staged.entry())
        return not self._inhibited(What.REBOOT) and (
            not tried or (count < 3 and last <= now - max(_DAY, world.rules.interval))
        )

    def _passes_overdue(self, begins: datetime, ends: datetime, patience: timedelta) -> None:
        world = self._world
        idle = world.up and not world.busy and not world.pause and not self._inhibited(What.CHECK)
        if world.rules.mode is Mode.OFF or not idle:
            self._overdue_for = _NOTHING
            return
        latest = self._check_times(begins)[1]
        before = self._overdue_for
        self._overdue_for = before + max(_NOTHING, ends - max(begins, latest)) if ends > latest else _NOTHING
        if self._overdue_for > patience >= before:
            self.breach("a check is overdue", f"due at {latest:%F %T}")

    # What it must never do

    def acts(
        self, action: Action, update: ImageUpdate | None, seen: datetime | None, identity: bytes
    ) -> None:
        world, now = self._world, self._world.now
        mode = world.rules.mode
        if world.busy or not world.up:
            self.breach("two things at once", action)
        if world.pause:
            self.breach("something in a pause", action)
        match action:
            case Action.CHECK:
                self._figures.checks += 1
                earliest = self._check_times(now)[0]
                if now < earliest:
                    self.breach("a check before its turn", f"which is at {earliest:%F %T}")
                if mode is Mode.OFF or self._inhibited(What.CHECK, now):
                    self.breach("a check that nobody wants", mode)
                self._overdue_for = _NOTHING
            case Action.STAGE:
                self._figures.stagings += 1
                self._stages(update, seen, identity)
            case Action.APPLY:
                self._figures.applies += 1
                if mode is not Mode.APPLY or world.staged is None or world.locked:
                    self.breach("a reboot that nobody wants", mode)
                if self._inhibited(What.REBOOT, now):
                    self.breach("a reboot that is inhibited", "")
                if not self._openings.contains(now):
                    self.breach("a reboot outside all windows", "")
                if self._low_battery() or world.surroundings.shutdown_blocks:
                    self.breach("a reboot at a bad moment", str(world.surroundings))
                if world.surroundings.people:
                    self._surprises()
                if world.rules.windows:
                    self._figures.openings += not self._open_for
                    self._figures.openings_used += 1
                self._open_for = _NOTHING
            case Action.NOTHING:
                self.breach("nothing", "is due")

    def _stages(self, update: ImageUpdate | None, seen: datetime | None, identity: bytes) -> None:
        world, now, rules = self._world, self._world.now, self._world.rules
        if rules.mode not in (Mode.STAGE, Mode.APPLY) or update is None or seen is None:
            self.breach("staging that nobody wants", rules.mode)
            return
        if world.locked or world.rollback_queued or self._inhibited(What.STAGE, now):
            self.breach("staging that is held up", "")
        if world.health.failure_of(update.digest):
            self.breach("staging of what booted badly", update.version)
        metered = world.surroundings.metered and rules.conditions.metered
        if metered or self._low_battery():
            self.breach("staging at a bad moment", str(world.surroundings))
        ours = max(version.number for version in (world.booted, world.staged) if version)
        if int(update.version.removeprefix("1.")) < ours:
            self.breach("staging of what is older", f"{update.version} after 1.{ours}")
        replaced = world.booted.created
        honest = update.created and update.created.year > 2014 and update.created <= now
        if honest and (replaced is None or update.created > replaced):  # type: ignore[operator]
            seen = update.created
        share = place(identity, update.digest, rules.rollout.wariness)
        turn = seen + rules.rollout.minimum_age + share * (rules.rollout.period or _NOTHING)  # type: ignore[operator]
        if now < turn:
            self.breach("staging before the turn of the machine", f"which is at {turn:%F %T}")

    def _surprises(self) -> None:
        """Judge a reboot of people who are logged in."""
        world, conditions = self._world, self._world.rules.conditions
        if conditions.sessions is OnSessions.IGNORE:
            return
        if conditions.sessions is OnSessions.WAIT:
            self.breach("a reboot of people who are waited for", "")
        elif self._told is None or self._told[0] > world.now:
            self.breach("a reboot nobody was told of", f"but of {self._told}")
        elif self._told_well and world.elapsed - self._told[1] < conditions.courtesy.total_seconds() - 1:
            self.breach("a reboot before people could finish", f"told of {self._told}")

    def _low_battery(self) -> bool:
        known = self._world.surroundings
        least = self._world.rules.conditions.least_battery_percent
        return bool(known.on_battery) and known.battery_percent is not None and known.battery_percent < least

    def ended(self, record: JobRecord, digest: str) -> None:
        now, state = self._world.now, record.state
        match record.request.kind:
            case JobKind.CHECK:
                failed = state in (JobState.FAILED, JobState.INTERRUPTED)
                self._last, self._failures = now, self._failures + 1 if failed else 0
            case JobKind.UPGRADE if state is JobState.DONE:
                self._last, self._failures = now, 0
            case JobKind.APPLY:
                count = self._tried[2] if self._tried[0] == digest else 0
                self._tried = (digest, now, count + 1)
            case _:
                pass

    def _check_times(self, now: datetime) -> tuple[datetime, datetime]:
        """Return when the next check comes at the earliest and at the latest."""
        rules, started = self._world.rules, min(self._world.started, now)
        settling = min(rules.interval, _HOUR)
        if self._world.started > now:
            earliest = latest = now
        else:
            earliest, latest = started + 0.1 * settling, started + 0.9 * settling
        if self._last is None or self._last > now:
            return earliest, latest
        delay = rules.interval
        if self._failures:
            first = min(rules.interval, timedelta(minutes=5))
            delay = min(first * 2 ** min(self._failures - 1, 30), max(rules.interval, _DAY))
        due = self._last + delay
        return max(earliest, due), max(latest, due + min(rules.jitter, delay))

    def _inhibited(self, what: What, now: datetime | None = None) -> bool:
        """Whether somebody holds it up; without a time, whether anybody has asked for it and not let go."""
        also = (What.DOWNLOAD,) if what is What.STAGE else ()
        return any(
            {what, *also} & {*known.what}
            for known in self._world.inhibitors
            if now is None or known.not_after is None or known.not_after > now
        )
