"""The judge of a simulated machine: what it must never do, and what it must not leave undone.

It knows what is so in the world, not what the planner makes of it, and has rules of its own, which are those
of the documentation. Of what was to last until a time of the clock nobody can be sure once the clock was set;
the judge is not either, and says nothing of it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from bootcd.model.job import JobKind, JobRecord
from bootcd.update.facts import Mode
from bootcd.update.inhibit import What
from bootcd.update.surroundings import OnSessions
from tests.simulate.knowledge import (
    AGENT,
    AT_ONCE,
    DAY,
    HOUR,
    MANY,
    MINUTE,
    NOTHING,
    SLEEP,
    Knowledge,
    Tries,
)


class Oracle(Knowledge):
    # What it must not leave undone

    def passes(self, secs: float) -> None:
        """Look at a span of time in which nothing happens, and nothing is done."""
        world, begins = self._world, self._world.now
        ends = begins + timedelta(seconds=secs)
        self._changes_of_the_clock(begins, ends)
        self.inhibitors = [held for held in self.inhibitors if not held.released]
        patience = SLEEP if self._disturbed else AT_ONCE
        if world.rules.mode is Mode.APPLY:
            self._passes_ready(begins, ends, patience)
        self._passes_appointed(begins, ends)
        self._passes_waiting(begins, ends, patience)
        self._passes_overdue(begins, ends, patience)

    def _passes_ready(self, begins: datetime, ends: datetime, patience: timedelta) -> None:
        if held_up := self._not_applied(begins):
            self._open_for = self._known_for = NOTHING
            self._account.passes(begins, ends, held_up)
            return
        # What comes to its end within the span is looked at from there on.
        for opens, closes in (spans := self._openings.between(begins, ends)):
            if opens > begins:
                self._open_for = NOTHING
            since = opens - self._open_for
            allowed = patience + self._courtesy(since, self._known_for - self._open_for + (opens - begins))
            before, self._open_for = self._open_for, self._open_for + (closes - opens)
            if self._open_for > allowed >= before:
                self.breach("a window was skipped", f"ready from {since:%F %T} on")
        self._known_for = self._known_for + (ends - begins) if self._world.around.now.people else NOTHING
        people = "people could finish" if self._world.around.now.people else ""
        self._account.passes(begins, ends, people)
        if not spans or spans[-1][1] < ends:
            self._open_for = NOTHING

    def _courtesy(self, since: datetime, known_for: timedelta) -> timedelta:
        """Return how long people who are logged in may hold up a reboot that could come since then.

        They could be told before, for as long as nothing but a window was missing then.
        """
        conditions = self._world.rules.conditions
        if not self._world.around.now.people or conditions.sessions is OnSessions.IGNORE:
            return NOTHING
        closes = self._openings.closes(since)
        left = max(NOTHING, conditions.courtesy - known_for)
        if not left or closes is None or since + left <= closes - MINUTE:
            return left
        left = closes - MINUTE - since
        # Too little to tell anybody: not in this window.
        return left if left > AT_ONCE else DAY * 8

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

    def _tried(self, applied: tuple[str, Tries] | None, name: str, now: datetime) -> str:
        if applied is None or applied[0] != name:
            return ""
        tries = applied[1]
        if tries.failed >= MANY:
            return "it had failed too often"
        return "it had failed before" if tries.last <= now < self._again(tries) else ""

    def _passes_appointed(self, begins: datetime, ends: datetime) -> None:
        made, world = self._appointment, self._world
        if made is None or made.ends is None or self._unsure(made.begins):
            self._missing_for = NOTHING
            return
        # A timer set before the machine slept is late; what was in the way is asked again every minute.
        patience = AT_ONCE + MINUTE + (SLEEP if self._slept_at >= made.begins else NOTHING)
        idle = world.up and world.started is not None and not world.busy and self._settled
        applicable = world.staged is not None or world.rollback_queued
        held = not self._forced and self._may_be_inhibited(What.REBOOT, begins)
        if not idle or not applicable or held:
            self._missing_for = NOTHING
            if idle and not applicable and begins > made.ends + patience:
                self._appointment = None
            return
        before = self._missing_for
        self._missing_for += max(NOTHING, ends - max(begins, made.ends))
        if begins > made.ends + HOUR + patience:
            # Whoever slept through it, or was held up for so long, is not surprised later.
            self._appointment = None
        elif self._missing_for > patience >= before and begins < made.ends + HOUR - patience:
            self.breach("a reboot that was asked for did not come", f"for {made.ends:%F %T}")

    def _passes_waiting(self, begins: datetime, ends: datetime, patience: timedelta) -> None:
        if self._world.rules.mode not in (Mode.STAGE, Mode.APPLY) or self._not_staged(begins):
            self._waited_for = NOTHING
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
        if tries is not None and (tries.lasting >= MANY or tries.last <= now < self._again(tries)):
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
            self._overdue_for = NOTHING
            return
        latest = self._check_times(begins)[1]
        before = self._overdue_for
        self._overdue_for = before + max(NOTHING, ends - max(begins, latest)) if ends > latest else NOTHING
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
        self._open_for = self._overdue_for = self._waited_for = NOTHING
        match record.request.kind:
            case JobKind.CHECK:
                self._figures.checks += 1
                earliest = self._check_times(now)[0]
                if now < earliest - AT_ONCE:
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
        if tries is not None and (tries.lasting >= MANY or tries.last <= now < self._again(tries) - AT_ONCE):
            self.breach("staging again too soon", str(tries))
        turn = self._turn(update, now)
        if turn is not None and now < turn - AT_ONCE:
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
        tried = self._tried(self._applied, world.staged.name, now + AT_ONCE) if world.staged else ""
        if tried:
            self.breach("a reboot that is tried again too soon", f"as {tried}: {self._applied}")
        if self._settled and self._appointment and self._is_held(None, self._appointment.begins, now):
            self.breach("a reboot before the one that was asked for", str(self._appointment))
        if (
            self._off is not None
            and not self._unsure(self._off)
            and world.elapsed < self._off + (HOUR - AT_ONCE).total_seconds()
        ):
            self.breach("a reboot that was called off", "not an hour ago")
        if around.people:
            self._surprises(now)
        self._account.used(now)

    def _keeps_appointment(self, now: datetime) -> None:
        made = self._appointment
        self._figures.appointments_kept += 1
        if made is None and self._off is not None and self._unsure(self._off):
            pass  # Called off, and the clock was set since: what logind has then says nothing.
        elif made is None or made.ends is None:
            self.breach("a reboot nobody has asked for", "")
        elif not made.ends <= now <= made.ends + HOUR + AT_ONCE:
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
        least = conditions.courtesy if closes is None else min(conditions.courtesy, closes - MINUTE - at)
        if not self._unsure(elapsed) and self._world.elapsed - elapsed < (least - AT_ONCE).total_seconds():
            self.breach("a reboot before people could finish", f"told at {at} of {until}")
