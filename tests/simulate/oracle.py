"""The judge of a simulated machine: what it must never do, and what it must not leave undone.

It knows what is so in the world, not what the planner makes of it, and has rules of its own, which are those
of the documentation. Of what was to last until a time of the clock nobody can be sure once the clock was set;
the judge is not either, and says nothing of it.
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
from bootcd.update.surroundings import OnSessions
from tests.simulate.openings import Account, Openings
from tests.simulate.versions import Version

if TYPE_CHECKING:
    from tests.simulate.world import World

_SLEEP = timedelta(seconds=601)
"The agent looks at the clock that often, at least; only then can it see that somebody set it."
_AT_ONCE = timedelta(seconds=5)
"For files others change, a look at the host, and a machine that is slow."
_MINUTE = timedelta(minutes=1)
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_NOTHING = timedelta(0)
_MANY = 3
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
class _Term:
    """Something that lasts until a time of the clock, None until it is ended."""

    ends: datetime | None
    begins: float


@dataclass
class _Tries:
    """What became of trying a thing; `last` is a time of the clock."""

    last: datetime
    failed: int = 0
    lasting: int = 0


class Oracle:
    def __init__(self, world: World) -> None:
        self._world = world
        self._openings = Openings(world.rules.windows, world.rules.zone)
        self._figures = world.figures
        self._account = Account(self._openings, world.figures)
        self._disturbed = False
        "The clock was set, or the machine slept, since the last plan."
        self._set_at = -1.0
        "When the clock was set last."
        self._open_for = _NOTHING
        "How long something could have been applied, and was not."
        self._known_for = _NOTHING
        "How long nothing but a window was missing to apply it, and people were there to be told so."
        self._overdue_for = _NOTHING
        "How long a check could have been made, and was not."
        self._waited_for = _NOTHING
        "How long an update could have been staged, and was not."
        self._last_check: datetime | None = None
        self._check_failures = 0
        self._staged: dict[str, _Tries] = {}
        self._cancelled: datetime | None = None
        self._applied: tuple[str, _Tries] | None = None
        self._available: Version | None = None
        self._seen: tuple[str, datetime, float] | None = None
        "Digest of the version that was found last, and when it was first."
        self._told: tuple[datetime, datetime, float] | None = None
        "The time people were told, and when that was, by both clocks."
        self._off: float | None = None
        "When a reboot was called off, on the clock nobody sets."
        self._pause: _Term | None = None
        self._appointment: _Term | None = None
        self._forced = False
        self._slept_at = -1.0
        self._missing_for = _NOTHING
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
        self._known_for = _NOTHING
        self._account.breaks("the clock was set")

    def sleeps(self, secs: float) -> None:
        """Hear that the machine sleeps from now on for a time."""
        now = self._world.now
        self._changes_of_the_clock(now, now + timedelta(seconds=secs))
        self._open_for = self._overdue_for = self._waited_for = self._missing_for = _NOTHING
        self._known_for = _NOTHING
        self._slept_at = self._world.elapsed
        if self._world.rules.mode is Mode.APPLY:
            self._account.passes(now, now + timedelta(seconds=secs), "the machine slept")
        self._disturbed = True

    def planned(self) -> None:
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
        self._pause = _Term(until, self._world.elapsed)
        self._settles()

    def resumed(self) -> None:
        self._pause = None
        self._settles()

    @property
    def pause_needs_an_end(self) -> bool:
        return self._pause is not None and (self._pause.ends is None or self._unsure(self._pause.begins))

    def appointed(self, when: datetime | None, *, forced: bool = False) -> None:
        self._appointment = _Term(when, self._world.elapsed) if when else None
        self._missing_for = _NOTHING
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

    # What it must not leave undone

    def passes(self, secs: float) -> None:
        """Look at a span of time in which nothing happens, and nothing is done."""
        world, begins = self._world, self._world.now
        ends = begins + timedelta(seconds=secs)
        self._changes_of_the_clock(begins, ends)
        self.inhibitors = [held for held in self.inhibitors if not held.released]
        patience = _SLEEP if self._disturbed else _AT_ONCE
        if world.rules.mode is Mode.APPLY:
            self._passes_ready(begins, ends, patience)
        self._passes_appointed(begins, ends)
        self._passes_waiting(begins, ends, patience)
        self._passes_overdue(begins, ends, patience)

    def _changes_of_the_clock(self, begins: datetime, ends: datetime) -> None:
        zone = self._world.rules.zone
        if begins.astimezone(zone).utcoffset() != ends.astimezone(zone).utcoffset():
            self._figures.clock_changes += 1

    def _passes_ready(self, begins: datetime, ends: datetime, patience: timedelta) -> None:
        if held_up := self._not_applied(begins):
            self._open_for = self._known_for = _NOTHING
            self._account.passes(begins, ends, held_up)
            return
        # What comes to its end within the span is looked at from there on.
        for opens, closes in (spans := self._openings.between(begins, ends)):
            if opens > begins:
                self._open_for = _NOTHING
            since = opens - self._open_for
            allowed = patience + self._courtesy(since, self._known_for - self._open_for + (opens - begins))
            before, self._open_for = self._open_for, self._open_for + (closes - opens)
            if self._open_for > allowed >= before:
                self.breach("a window was skipped", f"ready from {since:%F %T} on")
        self._known_for = self._known_for + (ends - begins) if self._world.around.now.people else _NOTHING
        people = "people could finish" if self._world.around.now.people else ""
        self._account.passes(begins, ends, people)
        if not spans or spans[-1][1] < ends:
            self._open_for = _NOTHING

    def _courtesy(self, since: datetime, known_for: timedelta) -> timedelta:
        """Return how long people who are logged in may hold up a reboot that could come since then.

        They could be told before, for as long as nothing but a window was missing then.
        """
        conditions = self._world.rules.conditions
        if not self._world.around.now.people or conditions.sessions is OnSessions.IGNORE:
            return _NOTHING
        closes = self._openings.closes(since)
        left = max(_NOTHING, conditions.courtesy - known_for)
        if not left or closes is None or since + left <= closes - _MINUTE:
            return left
        left = closes - _MINUTE - since
        # Too little to tell anybody: not in this window.
        return left if left > _AT_ONCE else _DAY * 8

    def _not_applied(self, now: datetime) -> str:
        """Say what keeps the machine from applying something, beside windows and courtesy, if anything."""
        world, around = self._world, self._world.around.now
        conditions = world.rules.conditions
        if idle := self._not_at_work(now, What.REBOOT):
            return idle
        if world.staged is None:
            return "nothing was staged"
        if self._appointment is not None:
            return "somebody has named another time"
        if world.locked:
            return "it was locked"
        if world.health.failure_of(world.staged.digest):
            return "it had booted badly"
        if tried := self._tried(self._applied, world.staged.name, now):
            return tried
        if around.boot_undecided:
            return "the boot was not decided"
        if self._low_battery():
            return "the battery was low"
        if around.shutdown_blocks:
            return "logind blocked it"
        if (
            self._off is not None
            and world.elapsed < self._off + 2 * 3600 + conditions.courtesy.total_seconds()
        ):
            return "people called it off"
        if around.people and conditions.sessions is OnSessions.WAIT:
            return "people were logged in"
        return ""

    def _not_at_work(self, now: datetime, what: What) -> str:
        """Say what keeps the machine from doing anything unasked; empty if nothing does for sure."""
        world = self._world
        if not world.up:
            return "the machine was down"
        if world.started is None:
            return "the service was down"
        if world.busy:
            return "something was at work"
        if world.elapsed < world.settled_at or not world.around.all_read:
            return "it was just changed"
        if self._pause is not None and not self._is_over(self._pause.ends, self._pause.begins, now):
            return "updates were paused"
        if world.drivers:
            return "another program decided"
        if self._may_be_inhibited(what, now):
            return "it was inhibited"
        return ""

    def _tried(self, applied: tuple[str, _Tries] | None, name: str, now: datetime) -> str:
        if applied is None or applied[0] != name:
            return ""
        tries = applied[1]
        if tries.failed >= _MANY:
            return "it had failed too often"
        return "it had failed before" if tries.last <= now < self._again(tries) else ""

    def _again(self, tries: _Tries) -> datetime:
        """Return when what failed is tried again: after five minutes, twice that, and so on up to a day."""
        interval = self._world.rules.interval
        first = min(interval, timedelta(minutes=5))
        times = max(1, tries.failed)
        return tries.last + min(first * 2 ** min(times - 1, 30), max(interval, _DAY))

    def _passes_appointed(self, begins: datetime, ends: datetime) -> None:
        made, world = self._appointment, self._world
        if made is None or made.ends is None or self._unsure(made.begins):
            self._missing_for = _NOTHING
            return
        # A timer set before the machine slept is late; what was in the way is asked again every minute.
        patience = _AT_ONCE + _MINUTE + (_SLEEP if self._slept_at >= made.begins else _NOTHING)
        idle = world.up and world.started is not None and not world.busy and self._settled
        applicable = world.staged is not None or world.rollback_queued
        held = not self._forced and self._may_be_inhibited(What.REBOOT, begins)
        if not idle or not applicable or held:
            self._missing_for = _NOTHING
            if idle and not applicable and begins > made.ends + patience:
                self._appointment = None
            return
        before = self._missing_for
        self._missing_for += max(_NOTHING, ends - max(begins, made.ends))
        if begins > made.ends + _HOUR + patience:
            # Whoever slept through it, or was held up for so long, is not surprised later.
            self._appointment = None
        elif self._missing_for > patience >= before and begins < made.ends + _HOUR - patience:
            self.breach("a reboot that was asked for did not come", f"for {made.ends:%F %T}")

    def _passes_waiting(self, begins: datetime, ends: datetime, patience: timedelta) -> None:
        if self._world.rules.mode not in (Mode.STAGE, Mode.APPLY) or self._not_staged(begins):
            self._waited_for = _NOTHING
            return
        before, self._waited_for = self._waited_for, self._waited_for + (ends - begins)
        if self._waited_for > patience >= before:
            self.breach("an update was left lying", str(self._available))

    def _not_staged(self, now: datetime) -> str:
        world, update, around = self._world, self._available, self._world.around.now
        conditions = world.rules.conditions
        if idle := self._not_at_work(now, What.STAGE):
            return idle
        if update is None or update in (world.booted, world.staged):
            return "there is nothing to stage"
        if world.locked or world.rollback_queued or (world.staged and world.rules.mode is Mode.APPLY):
            return "something else comes first"
        if world.health.failure_of(update.digest) or update is world.rollback:
            return "it was left before"
        if update.number < world.booted.number or (world.staged and update.number < world.staged.number):
            return "it is older"
        tries = self._staged.get(update.digest)
        if tries is not None and (tries.lasting >= _MANY or tries.last <= now < self._again(tries)):
            return "it failed before"
        if self._cancelled is not None and self._cancelled <= now < self._cancelled + world.rules.interval:
            return "it was cancelled"
        latest = self._turn(update, now)
        if latest is None or now < latest:
            return "its turn has not come"
        if self._metered() or self._low_battery() or around.boot_undecided:
            return "it is a bad moment"
        return "power is saved" if conditions.power_saver and around.power_saver else ""

    def _passes_overdue(self, begins: datetime, ends: datetime, patience: timedelta) -> None:
        if self._world.rules.mode is Mode.OFF or self._not_at_work(begins, What.CHECK):
            self._overdue_for = _NOTHING
            return
        latest = self._check_times(begins)[1]
        before = self._overdue_for
        self._overdue_for = before + max(_NOTHING, ends - max(begins, latest)) if ends > latest else _NOTHING
        if self._overdue_for > patience >= before:
            self.breach("a check is overdue", f"due at {latest:%F %T}")

    # What it must never do

    def begins(self, record: JobRecord) -> None:
        world, now = self._world, self._world.now
        if not world.up or world.elapsed < world.rebooting_until - 5:
            self.breach("two things at once", record.request.kind)
        if record.requester.name != AGENT:
            if record.request.kind is JobKind.APPLY:
                self._keeps_appointment(now)
            return
        if self._pause is not None and self._is_held(self._pause.ends, self._pause.begins, now):
            self.breach("something in a pause", record.request.kind)
        if self._settled and world.drivers:
            self.breach("something another program decides", record.request.kind)
        self._open_for = self._overdue_for = self._waited_for = _NOTHING
        match record.request.kind:
            case JobKind.CHECK:
                self._figures.checks += 1
                earliest = self._check_times(now)[0]
                if now < earliest - _AT_ONCE:
                    self.breach("a check before its turn", f"which is at {earliest:%F %T}")
                if world.rules.mode is Mode.OFF or self._is_inhibited({What.CHECK}, now):
                    self.breach("a check that nobody wants", world.rules.mode)
            case JobKind.UPGRADE:
                self._figures.stagings += 1
                self._stages(now)
            case JobKind.APPLY:
                self._figures.applies += 1
                self._applies(now)
            case other:
                self.breach("something nobody has asked for", other)

    def _stages(self, now: datetime) -> None:
        world, rules, update = self._world, self._world.rules, self._available
        if rules.mode not in (Mode.STAGE, Mode.APPLY) or update is None:
            self.breach("staging that nobody wants", rules.mode)
            return
        held = self._settled and (world.locked or world.rollback_queued)
        if held or self._is_inhibited({What.STAGE, What.DOWNLOAD}, now):
            self.breach("staging that is held up", "")
        if self._settled and world.health.failure_of(update.digest):
            self.breach("staging of what booted badly", str(update))
        saver = rules.conditions.power_saver and world.around.now.power_saver
        if self._metered() or self._low_battery() or saver or world.around.now.boot_undecided:
            self.breach("staging at a bad moment", str(world.around.now))
        ours = max(version.number for version in (world.booted, world.staged) if version)
        if update.number < ours:
            self.breach("staging of what is older", f"{update} after 1.{ours}")
        tries = self._staged.get(update.digest)
        if tries is not None and (
            tries.lasting >= _MANY or tries.last <= now < self._again(tries) - _AT_ONCE
        ):
            self.breach("staging again too soon", str(tries))
        turn = self._turn(update, now)
        if turn is not None and now < turn - _AT_ONCE:
            self.breach("staging before the turn of the machine", f"which is at {turn:%F %T}")

    def _applies(self, now: datetime) -> None:
        world, around = self._world, self._world.around.now
        if world.rules.mode is not Mode.APPLY or (self._settled and (world.staged is None or world.locked)):
            self.breach("a reboot that nobody wants", world.rules.mode)
        if self._is_inhibited({What.REBOOT}, now):
            self.breach("a reboot that is inhibited", "")
        if not self._openings.contains(now):
            self.breach("a reboot outside all windows", "")
        if self._low_battery() or around.shutdown_blocks or around.boot_undecided:
            self.breach("a reboot at a bad moment", str(around))
        if self._settled and world.staged and world.health.failure_of(world.staged.digest):
            self.breach("a reboot into what booted badly", str(world.staged))
        tried = self._tried(self._applied, world.staged.name, now + _AT_ONCE) if world.staged else ""
        if tried:
            self.breach("a reboot that is tried again too soon", f"as {tried}: {self._applied}")
        if self._settled and self._appointment and self._is_held(None, self._appointment.begins, now):
            self.breach("a reboot before the one that was asked for", str(self._appointment))
        if (
            self._off is not None
            and not self._unsure(self._off)
            and world.elapsed < self._off + (_HOUR - _AT_ONCE).total_seconds()
        ):
            self.breach("a reboot that was called off", "not an hour ago")
        if around.people:
            self._surprises(now)
        self._account.used(now)

    def _keeps_appointment(self, now: datetime) -> None:
        made = self._appointment
        self._figures.appointments_kept += 1
        if made is None or made.ends is None:
            self.breach("a reboot nobody has asked for", "")
        elif not made.ends <= now <= made.ends + _HOUR + _AT_ONCE:
            self.breach("a reboot at another time than it was asked for", f"{made.ends:%F %T}")
        elif not self._forced and self._is_inhibited({What.REBOOT}, now):
            self.breach("a reboot that is inhibited", "though asked for")
        self._appointment = None

    def _surprises(self, now: datetime) -> None:
        """Judge a reboot of people who are logged in."""
        conditions = self._world.rules.conditions
        if conditions.sessions is OnSessions.IGNORE:
            return
        if conditions.sessions is OnSessions.WAIT:
            self.breach("a reboot of people who are waited for", "")
            return
        if self._told is None or self._told[0] > now:
            self.breach("a reboot nobody was told of", f"but of {self._told}")
            return
        until, at, elapsed = self._told
        closes = self._openings.closes(until)
        least = conditions.courtesy if closes is None else min(conditions.courtesy, closes - _MINUTE - at)
        if not self._unsure(elapsed) and self._world.elapsed - elapsed < (least - _AT_ONCE).total_seconds():
            self.breach("a reboot before people could finish", f"told at {at} of {until}")

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
                tries = self._staged.setdefault(self._available.digest, _Tries(now))
                error = record.outcome.error if record.outcome else None
                tries.last, tries.failed = now, tries.failed + 1
                tries.lasting += error is not None and error.name == "InvalidLayer"
            case JobKind.APPLY if state is not JobState.CANCELLED and self._world.staged is not None:
                name = self._world.staged.name
                if self._applied is None or self._applied[0] != name:
                    self._applied = (name, _Tries(now))
                error = record.outcome.error if record.outcome else None
                refused = error is not None and error.name in ("FleetLockRefused", "BackendFailed")
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
        return published + rules.rollout.minimum_age + share * period

    def _check_times(self, now: datetime) -> tuple[datetime, datetime]:
        """Return when the next check comes at the earliest and at the latest."""
        rules, started = self._world.rules, self._world.started
        settling = min(rules.interval, _HOUR)
        if started is None or started > now:
            earliest = latest = now
        else:
            earliest, latest = started + 0.1 * settling, started + 0.9 * settling
        if self._last_check is None or self._last_check > now:
            return earliest, latest
        delay = rules.interval
        if self._check_failures:
            delay = self._again(_Tries(self._last_check, self._check_failures)) - self._last_check
        due = self._last_check + delay
        return max(earliest, due), max(latest, due + min(rules.jitter, delay))
