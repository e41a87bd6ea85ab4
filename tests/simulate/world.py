"""What happens to a simulated machine, by chance: to the image, the network, the clock, and by people."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

from bootcd.model.errors import BootcdError
from bootcd.model.job import JobKind, JobOptions
from bootcd.update.inhibit import How, What, Wish
from tests.simulate.knowledge import Held
from tests.simulate.machine import DAY, HOUR, MINUTE, SOMEBODY, Happening, Machine
from tests.simulate.versions import Version


class World(Machine):
    def happenings(self) -> tuple[tuple[float, Happening], ...]:
        return (
            (DAY / 2, self._publish),
            (2 * DAY, self._replay),
            (4 * DAY, self._lose_registry),
            (2 * DAY, self._occupy_fleet),
            (1 * DAY, self._inhibit),
            (4 * DAY, self._drive),
            (4 * HOUR, self._surround),
            (3 * DAY, self._pause_updates),
            (2 * DAY, self._appoint),
            (2 * DAY, self._set_clock),
            (1 * DAY, self._suspend),
            (3 * DAY, self._restart),
            (4 * DAY, self._meddle),
            (2 * DAY, self._look),
        )

    async def _publish(self) -> None:
        created = self.random.choice((*[self.clock.true] * 3, datetime(1970, 1, 1, tzinfo=UTC), None))
        self._registry.append(
            Version(
                len(self._registry),
                created,
                rollout_secs=self.random.choice((0, 0, 6 * HOUR)),
                bad=self.random.random() < 0.15,
                unfinished=self.random.random() < 0.05,
            )
        )

    async def _replay(self) -> None:
        """Have a mirror hand out what it handed out before."""
        self._replayed = self.random.choice(self._registry)

        async def over() -> None:
            self._replayed = None

        self.after(self.random.expovariate(1 / (12 * HOUR)), over)

    async def _lose_registry(self) -> None:
        self._unreachable = True

        async def found() -> None:
            self._unreachable = False

        self.after(self.random.expovariate(1 / (8 * HOUR)), found)

    async def _occupy_fleet(self) -> None:
        self._fleet_is_busy = True

        async def free() -> None:
            self._fleet_is_busy = False

        self.after(self.random.expovariate(1 / (12 * HOUR)), free)

    async def _inhibit(self) -> None:
        if self._service is None:
            return
        what = tuple(item for item in What if self.random.random() < 0.5) or (What.REBOOT,)
        secs = self.random.expovariate(1 / (4 * HOUR))
        ends = self.now + timedelta(seconds=secs) if self.random.random() < 0.5 else None
        wish = Wish(what=what, who="backup", why="it runs", how=How.BLOCK, uid=0, not_after=ends)
        held = Held(frozenset(what), ends, self.elapsed)
        self.oracle.inhibitors.append(held)
        try:
            held.descriptor = await self._service.inhibit(wish)
        except BootcdError:
            held.release()

        async def released() -> None:
            held.release()
            self.settled_at = max(self.settled_at, self.elapsed + 1)

        self.after(secs * (1 if ends is None else self.random.uniform(0.5, 2)), released)

    async def _drive(self) -> None:
        """Another program takes over, for a while or until the next boot."""
        if self._service is None:
            return
        directory = self._runtime / "driver.d"
        directory.mkdir(exist_ok=True)
        path = directory / f"{next(self._order)}.toml"
        path.write_text('name = "fleet-agent"\n')
        self.drivers.add(path)
        self.settled_at = self.elapsed + 2

        async def over() -> None:
            if path in self.drivers:
                path.unlink()
                self.drivers.discard(path)
                self.settled_at = self.elapsed + 2

        self.after(self.random.expovariate(1 / (8 * HOUR)), over)

    async def _surround(self) -> None:
        self.around.change_one()

    async def _pause_updates(self) -> None:
        """Somebody wants to be left alone, until a time or until they say so."""
        if self._service is None:
            return
        secs = self.random.expovariate(1 / (12 * HOUR)) + 1
        until = None if self.random.random() < 0.5 else self.now + timedelta(seconds=secs)
        self.oracle.paused(until)
        await self._service.pause(until, SOMEBODY)

        async def over() -> None:
            if self._service is None:
                self.after(MINUTE, over)
            elif self.oracle.pause_needs_an_end:
                self.oracle.resumed()
                await self._service.resume(SOMEBODY)

        self.after(secs, over)

    async def _appoint(self) -> None:
        """Somebody wants the host to reboot at a time of their own, or calls that off."""
        if self._service is None:
            return
        if self.random.random() < 0.2:
            await self._service.cancel_apply(SOMEBODY)
            self.oracle.appointed(None)
            return
        when = self.now + timedelta(seconds=self.random.expovariate(1 / (3 * HOUR)) + 5)
        forced = self.random.random() < 0.2
        with contextlib.suppress(BootcdError):
            await self._service.schedule_apply(when, SOMEBODY, JobOptions(ignore_inhibitors=forced))
            self.figures.appointments += 1
            self.oracle.appointed(when, forced=forced)

    async def _set_clock(self) -> None:
        """Nobody tells the agent. In the end somebody finds that it is wrong."""
        self.figures.clock_jumps += 1
        span = self.random.choice((10, MINUTE, HOUR, DAY, 40 * DAY, 3652 * DAY))
        self.clock.skew = timedelta(seconds=self.random.uniform(-span, span))
        self.oracle.clock_was_set()

        async def right() -> None:
            self.clock.skew = timedelta(0)
            self.oracle.clock_was_set()

        self.after(self.random.expovariate(1 / (6 * HOUR)), right)

    async def _suspend(self) -> None:
        """Sleep; the timers of the agent stand still meanwhile."""
        if not self.up:
            return
        self.figures.suspends += 1
        secs = self.random.expovariate(1 / (5 * HOUR))
        self.oracle.sleeps(secs)
        self.clock.sleep(secs)
        if self.elapsed - secs < self.rebooting_until:
            self.rebooting_until += secs
        if self.elapsed - secs < self.settled_at:
            self.settled_at += secs

    async def _restart(self) -> None:
        if self._service is None:
            return
        self.figures.restarts += 1
        await self._stop_service()
        self.oracle.restarted()

        async def again() -> None:
            if self.up and self._service is None:
                await self._start_service()
                self.after(self.random.expovariate(1 / MINUTE), self._answer)

        self.after(self.random.expovariate(1 / MINUTE), again)

    async def _look(self) -> None:
        self._touch()

    async def _meddle(self) -> None:
        """Somebody at the machine does what people do."""
        service = self._service
        if service is None or self.elapsed < self.rebooting_until:
            return None
        deed = self.random.choice(("cancel", "upgrade", "lock", "drop", "rollback", "reboot", "clear"))
        match deed:
            case "cancel" if self.works.current:
                self._do(service.cancel(self.works.current.request.uuid))
            case "upgrade":
                self._do(service.begin(JobKind.UPGRADE, SOMEBODY))
            case "lock" if self.staged:
                self.locked = not self.locked
            case "drop":
                self.staged, self.locked = None, False
            case "rollback" if self.rollback and not self.staged:
                self.rollback_queued = not self.rollback_queued
            case "reboot":
                return await self._go_down()
            case "clear":
                self._write_health(self.health.without_failures())
            case _:
                pass
        return self._touch()
