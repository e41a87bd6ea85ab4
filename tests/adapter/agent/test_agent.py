"""The background loop over the real service, in time the test decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from bootcd.agent.agent import Agent
from bootcd.agent.memory import load_memory
from bootcd.agent.service import Settings
from bootcd.agent.snapshot import NextAction
from bootcd.model.errors import BackendFailed, InvalidArguments, WrongState
from bootcd.model.job import JobKind, JobOptions, JobState
from bootcd.policy.rollout import Rollout
from bootcd.policy.window import parse_window
from bootcd.update.facts import Action, Mode, Rules
from bootcd.update.gates import Gate
from bootcd.update.surroundings import Source, Surroundings
from tests.support.jobs import DONE, SOMEBODY, SetClock, WorkerScript
from tests.support.service import (
    BOOTED,
    FAILED,
    FOUND,
    STAGED,
    TAKEN,
    ServiceBench,
    host_of,
    show_host,
    update_to,
)

PAUSED = f"first check; user {SOMEBODY.uid} has paused updates"


class Time:
    """A clock and the sleeps on it: time passes only as the test says, and then wakes who sleeps."""

    def __init__(self, clock: SetClock | None = None) -> None:
        self.clock = clock or SetClock()
        self._sleepers: dict[asyncio.Event, float] = {}
        self._changed = asyncio.Event()

    async def sleep(self, secs: float) -> None:
        wake = asyncio.Event()
        self._sleepers[wake] = secs
        self._changed.set()
        try:
            await wake.wait()
        finally:
            del self._sleepers[wake]

    async def sleeper(self, secs: float | None = None) -> None:
        """Wait until somebody sleeps, and that long if it matters."""
        while not (self._sleepers if secs is None else secs in self._sleepers.values()):
            self._changed.clear()
            await self._changed.wait()

    async def passes(self, **span: float) -> None:
        """Let time pass for somebody who sleeps."""
        await self.sleeper()
        self.clock.move(**span)
        for wake in self._sleepers:
            wake.set()


class RunningClock(SetClock):
    """A clock that is later at each look, as every real one is."""

    def now(self) -> datetime:
        self.move(microseconds=1)
        return self.time


@asynccontextmanager
async def agent_at_work(bench: ServiceBench, time: Time, chance: float = 0.5) -> AsyncIterator[None]:
    agent = Agent(bench.service, clock=time.clock, chance=chance, sleep=time.sleep)
    task = asyncio.ensure_future(agent.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task.exception()


@pytest.fixture
def time() -> Time:
    return Time()


async def test_pause_outlives_the_service_and_ends_by_itself_or_when_resumed(
    tmp_path: Path, script: WorkerScript, time: Time
) -> None:
    script.steps(["ready"], FOUND)
    until = time.clock.now() + timedelta(days=3)
    async with ServiceBench(tmp_path, script, clock=time.clock, mode=Mode.CHECK) as bench:
        await bench.service.pause(until, SOMEBODY)
    time.clock.move(days=2)
    bench = ServiceBench(tmp_path, script, clock=time.clock, mode=Mode.CHECK)
    async with bench, agent_at_work(bench, time):
        snapshot = await bench.shown(state="idle", next_action=NextAction("check", PAUSED, until))
        assert snapshot.paused
        assert snapshot.paused.until == until
        assert [(gate.name, gate.ends) for gate in snapshot.gates] == [("paused", until)]
        await time.passes(hours=23)
        assert script.pids() == []
        await time.passes(hours=2)
        await bench.shown(state="available", paused=None, gates=())
        await bench.service.pause(None, SOMEBODY)
        await bench.shown(next_action=NextAction("", PAUSED.split("; ")[1], None))
        assert (await asyncio.to_thread(load_memory, bench.state / "agent.json")).pause
        await bench.service.resume(SOMEBODY)
        await bench.shown(paused=None, gates=())
        assert (await asyncio.to_thread(load_memory, bench.state / "agent.json")).pause is None
    assert len(script.pids()) == 1


async def test_pause_holds_as_long_as_asked_for_when_the_clock_goes_back(
    tmp_path: Path, script: WorkerScript, time: Time
) -> None:
    async with ServiceBench(tmp_path, script, clock=time.clock) as bench:
        until = time.clock.now() + timedelta(days=3)
        await bench.service.pause(until, SOMEBODY)
        time.clock.move(days=-9999)
        moved = bench.service.plan(now=time.clock.now(), started=time.clock.now(), chance=0)
        await bench.service.reload()
        assert bench.service.snapshot.paused
        assert bench.service.snapshot.paused.until == time.clock.now() + timedelta(days=3)
        time.clock.move(days=9999)
        await bench.service.reload()
        assert bench.service.snapshot.paused.until == until
        time.clock.move(days=-9999)
        await bench.service.reload()
        time.clock.move(days=4)
        await bench.service.reload()
        assert bench.service.snapshot.paused is None
    assert moved.not_before is None


async def test_pause_that_cannot_be_kept_is_refused(tmp_path: Path, script: WorkerScript, time: Time) -> None:
    async with ServiceBench(tmp_path, script, clock=time.clock) as bench:
        await bench.service.host_ready()
        (bench.state / "agent.json").unlink(missing_ok=True)
        (bench.state / "agent.json").mkdir()
        with pytest.raises(BackendFailed, match=r"agent\.json"):
            await bench.service.pause(None, SOMEBODY)


async def test_appointment_outlives_the_service_and_reboots_at_its_time_and_not_before(
    tmp_path: Path, script: WorkerScript, time: Time
) -> None:
    show_host(script, STAGED)
    script.steps(["ready"], ["outcome", {"state": "done", "reboot": True}])
    when = time.clock.now() + timedelta(hours=2)
    async with ServiceBench(tmp_path, script, clock=time.clock) as bench:
        await bench.shown(state="staged")
        await bench.service.schedule_apply(when, SOMEBODY, JobOptions())
        with pytest.raises(InvalidArguments):
            await bench.service.schedule_apply(time.clock.now(), SOMEBODY, JobOptions())
    time.clock.move(hours=1)
    bench = ServiceBench(tmp_path, script, clock=time.clock, mode=Mode.APPLY)
    async with bench, agent_at_work(bench, time):
        sentence = f"user {SOMEBODY.uid} has the host reboot at a time of their own"
        gate = Gate("scheduled", sentence, when, (Action.APPLY,))
        await bench.shown(state="staged", reboot_at=when, gates=(gate,))
        assert script.pids() == []
    time.clock.move(hours=1)
    async with ServiceBench(tmp_path, script, clock=time.clock) as bench:
        await bench.shown(state="rebooting", appointment=None)
        [record] = bench.service.jobs()
        assert (record.request.kind, record.requester) == (JobKind.APPLY, SOMEBODY)
    memory = await asyncio.to_thread(load_memory, bench.state / "agent.json")
    assert memory.appointment is None


async def test_appointment_is_dropped_when_called_off_or_missed_and_by_a_reboot(
    tmp_path: Path, script: WorkerScript, time: Time
) -> None:
    show_host(script, STAGED)
    async with ServiceBench(tmp_path, script, clock=time.clock) as bench:
        await bench.shown(state="staged")
        later = [time.clock.now() + timedelta(days=days) for days in (1, 2)]
        await bench.service.schedule_apply(later[0], SOMEBODY, JobOptions())
        await bench.service.cancel_apply(SOMEBODY)
        assert bench.service.snapshot.appointment is None
        await bench.service.schedule_apply(later[1], SOMEBODY, JobOptions())
        show_host(script, BOOTED)
        await bench.shown(state="idle")
        with pytest.raises(WrongState):
            await bench.service.schedule_apply(later[1], SOMEBODY, JobOptions())
    time.clock.move(days=3)
    async with ServiceBench(tmp_path, script, clock=time.clock) as bench:
        await bench.shown(appointment=None, state="idle")
        await bench.service.cancel_apply(SOMEBODY)
        show_host(script, STAGED)
        await bench.shown(state="staged")
        when = time.clock.now() + timedelta(days=1)
        await bench.service.schedule_apply(when, SOMEBODY, JobOptions())
    async with ServiceBench(tmp_path, script, clock=time.clock, boot_id="another") as bench:
        assert bench.service.snapshot.appointment is None
    assert script.pids() == []


class CallingOff:
    """The other services of a host where somebody has said `shutdown -c`."""

    def __init__(self) -> None:
        self.told: list[datetime | None] = []

    def watch(self, sources: frozenset[Source], seen: Callable[[Surroundings], None]) -> None:
        seen(Surroundings())

    async def tell(self, when: datetime | None) -> None:
        self.told.append(when)

    async def called_off(self) -> bool:
        return True


async def test_appointment_that_people_called_off_is_dropped(
    tmp_path: Path, script: WorkerScript, time: Time
) -> None:
    show_host(script, STAGED)
    bench, outside = ServiceBench(tmp_path, script, clock=time.clock), CallingOff()
    async with bench, agent_at_work(bench, time):
        bench.service.attach(outside)
        await bench.shown(state="staged")
        when = time.clock.now() + timedelta(milliseconds=1)
        await bench.service.schedule_apply(when, SOMEBODY, JobOptions())
        await bench.shown(reboot_at=when)
        time.clock.move(seconds=1)
        await bench.shown(appointment=None)
    assert outside.told == [when]
    assert script.pids() == []


async def test_mode_off_does_nothing_and_says_so(tmp_path: Path, script: WorkerScript, time: Time) -> None:
    async with ServiceBench(tmp_path, script, clock=time.clock) as bench, agent_at_work(bench, time):
        await bench.shown(next_action=NextAction("", "background work is switched off", None), state="idle")
        time.clock.move(days=30)
        await bench.service.reload()
    assert script.pids() == []


async def test_first_check_waits_for_its_time_and_is_then_made(
    tmp_path: Path, script: WorkerScript, time: Time
) -> None:
    script.steps(["ready"], FOUND)
    bench = ServiceBench(tmp_path, script, clock=time.clock, mode=Mode.CHECK)
    async with bench, agent_at_work(bench, time):
        await bench.shown(state="idle")
        due = time.clock.now() + timedelta(minutes=30)  # half of the hour in which first checks spread
        await bench.shown(next_action=NextAction("check", "first check", due))
        await time.passes(minutes=29)
        assert script.pids() == []
        await time.passes(minutes=2)
        await bench.shown(state="available")
        [record] = bench.service.jobs()
        assert (record.request.kind, record.requester.name) == (JobKind.CHECK, "agent")
        due = time.clock.now() + timedelta(hours=6)
        await bench.shown(next_action=NextAction("check", "regular check", due))
    assert len(script.pids()) == 1


async def test_update_is_found_and_staged_with_nobody_asking(
    tmp_path: Path, script: WorkerScript, time: Time
) -> None:
    await staged_with_nobody_asking(tmp_path, script, time)


async def test_what_is_to_be_done_at_once_is_done_though_the_clock_runs(
    tmp_path: Path, script: WorkerScript
) -> None:
    await staged_with_nobody_asking(tmp_path, script, Time(RunningClock()))


async def staged_with_nobody_asking(tmp_path: Path, script: WorkerScript, time: Time) -> None:
    script.steps(["ready"], FOUND)
    bench = ServiceBench(tmp_path, script, clock=time.clock, mode=Mode.STAGE)
    async with bench, agent_at_work(bench, time):
        await bench.shown(state="idle")
        await time.passes(hours=1)
        await bench.shown(state="checking")
        script.steps(["ready"], *TAKEN)  # for the next worker
        await bench.shown(state="staged")
        kinds = [record.request.kind for record in bench.service.jobs()]
        assert kinds == [JobKind.CHECK, JobKind.UPGRADE]


async def test_update_is_staged_when_the_turn_of_this_machine_comes(
    tmp_path: Path, script: WorkerScript, time: Time
) -> None:
    script.steps(["ready"], FOUND)
    bench = ServiceBench(tmp_path, script, clock=time.clock, mode=Mode.STAGE)
    rules = replace(bench.settings.rules, rollout=Rollout(wariness=1, period=timedelta(hours=2)))
    bench.settings = replace(bench.settings, rules=rules)
    async with bench:
        await bench.service.reload()
        async with agent_at_work(bench, time):
            await bench.shown(state="idle")
            await time.passes(hours=1)
            await bench.shown(state="available")
            turn = time.clock.now() + timedelta(hours=2)  # what is found says nothing of its time
            words = "other machines take this version first"
            await bench.shown(
                next_action=NextAction("stage", f"an update is available; {words}", turn),
                gates=(Gate("rollout", words, turn, (Action.STAGE,)),),
            )
            await time.passes(minutes=119)
            assert len(script.pids()) == 1
            script.steps(["ready"], *TAKEN)
            await time.passes(minutes=1)
            await bench.shown(state="staged", gates=())


async def test_failed_check_is_tried_again_later_and_later(
    tmp_path: Path, script: WorkerScript, time: Time
) -> None:
    script.steps(["ready"], FAILED)
    bench = ServiceBench(tmp_path, script, clock=time.clock, mode=Mode.CHECK)
    async with bench, agent_at_work(bench, time, chance=0.0):
        await bench.shown(state="idle")
        await time.passes(hours=1)
        reasons = ("the last check failed", "the last 2 checks failed", "the last 3 checks failed")
        for minutes, reason in zip((5, 10, 20), reasons, strict=True):
            due = time.clock.now() + timedelta(minutes=minutes)
            reason = (
                "the last check failed" if minutes == 5 else f"the last {minutes // 10 + 1} checks failed"
            )
            await bench.shown(next_action=NextAction("check", reason, due))
            await time.passes(minutes=minutes)
        await bench.until(lambda change: getattr(change, "record", None) is not None)
    assert len(script.pids()) >= 3


async def test_refused_check_is_put_off_like_a_failed_one(
    tmp_path: Path, script: WorkerScript, time: Time
) -> None:
    script.steps(FAILED)  # before it was ever ready
    bench = ServiceBench(tmp_path, script, clock=time.clock, mode=Mode.CHECK)
    async with bench, agent_at_work(bench, time, chance=0.0):
        await bench.shown(state="idle")
        await time.passes(hours=1)
        due = time.clock.now() + timedelta(minutes=5)
        await bench.shown(next_action=NextAction("check", "the last check failed", due))
        assert bench.service.snapshot.last_check_result == "RegistryUnavailable"
        assert bench.service.jobs() == ()
    assert len(script.pids()) == 1


async def test_agent_waits_for_the_job_of_somebody_else(
    tmp_path: Path, script: WorkerScript, time: Time
) -> None:
    script.steps(["ready"], ["hold"], DONE)
    bench = ServiceBench(tmp_path, script, clock=time.clock, mode=Mode.CHECK)
    async with bench, agent_at_work(bench, time):
        await bench.shown(state="idle")
        record = await bench.service.begin(JobKind.UPGRADE, SOMEBODY)
        await bench.shown(next_action=NextAction("", "a job is at work", None))
        time.clock.move(hours=7)
        script.release()
        await bench.service.wait(record.request.uuid)
        snapshot = await bench.shown(state="idle")
        due = time.clock.now() + timedelta(hours=6)
        await bench.shown(next_action=NextAction("check", "regular check", due))
    assert snapshot.last_check_result == "up-to-date"
    assert len(script.pids()) == 1


async def test_busy_agent_tries_again_when_the_other_was_refused(
    tmp_path: Path, script: WorkerScript, time: Time
) -> None:
    script.steps(["hold"], FAILED)
    bench = ServiceBench(tmp_path, script, clock=time.clock, mode=Mode.CHECK)
    async with bench, agent_at_work(bench, time):
        await bench.shown(state="idle")
        other = asyncio.ensure_future(bench.service.begin(JobKind.UPGRADE, SOMEBODY))
        while not script.pids():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        await time.passes(hours=1)  # the check is due, and the other is neither accepted nor refused
        await time.sleeper(30.0)
        script.steps(["ready"], DONE)
        script.release()
        await asyncio.wait([other])
        await time.passes(seconds=30)
        await bench.shown(last_check_result="up-to-date")
    assert len(script.pids()) == 2


async def test_new_settings_are_a_new_plan(tmp_path: Path, script: WorkerScript, time: Time) -> None:
    async with ServiceBench(tmp_path, script, clock=time.clock) as bench, agent_at_work(bench, time):
        await bench.shown(next_action=NextAction("", "background work is switched off", None))
        rules = Rules(mode=Mode.CHECK, interval=timedelta(minutes=1), jitter=timedelta(0))
        bench.settings = Settings(rules=rules, worker=bench.settings.worker)
        await bench.service.reload()
        due = time.clock.now() + timedelta(seconds=30)
        await bench.shown(next_action=NextAction("check", "first check", due))


async def test_host_that_is_no_image_host_is_left_alone(
    tmp_path: Path, script: WorkerScript, time: Time
) -> None:
    show_host(script, host_of())
    bench = ServiceBench(tmp_path, script, clock=time.clock, mode=Mode.STAGE)
    async with bench, agent_at_work(bench, time):
        reason = "the host was not booted from an image deployment"
        await bench.shown(next_action=NextAction("", reason, None))
        time.clock.move(days=1)
        await bench.service.reload()
    assert script.pids() == []


async def test_cancelled_staging_is_not_started_again_at_once(
    tmp_path: Path, script: WorkerScript, time: Time
) -> None:
    script.steps(["ready"], FOUND)
    bench = ServiceBench(tmp_path, script, clock=time.clock, mode=Mode.STAGE)
    async with bench, agent_at_work(bench, time):
        await bench.shown(state="idle")
        await time.passes(hours=1)
        await bench.shown(state="checking")
        script.steps(["ready"], ["hold"])
        await bench.shown(state="upgrading")
        uuid = bench.service.snapshot.active_job
        await bench.service.cancel(uuid)
        assert (await bench.service.wait(uuid)).state is JobState.CANCELLED
        snapshot = await bench.shown(state="available")
        await bench.shown(active_job="")
        assert snapshot.available == update_to("b")
        await bench.until(
            lambda change: (
                getattr(getattr(change, "snapshot", None), "next_action", NextAction()).reason
                not in ("", "a job is at work")
            )
        )
    assert len(script.pids()) == 2


async def test_staged_update_is_applied_when_its_window_opens(
    tmp_path: Path, script: WorkerScript, time: Time
) -> None:
    show_host(script, STAGED)
    script.steps(["ready"], ["outcome", {"state": "done", "reboot": True}])
    async with ServiceBench(tmp_path, script, clock=time.clock) as bench, agent_at_work(bench, time):
        await bench.shown(state="staged")
        opens = (time.clock.now() + timedelta(minutes=20)).replace(second=0, microsecond=0)
        rules = Rules(
            mode=Mode.APPLY,
            interval=timedelta(days=9),
            jitter=timedelta(0),
            windows=(parse_window(f"{opens:%H:%M}", timedelta(minutes=30)),),
        )
        bench.settings = Settings(rules=rules, worker=bench.settings.worker)
        await bench.service.reload()
        words = f"the next maintenance window opens {opens:%a %Y-%m-%d %H:%M} UTC"
        await bench.shown(
            next_action=NextAction("apply", f"an update is staged; {words}", opens),
            gates=(Gate("window", words, opens, (Action.APPLY,)),),
        )
        assert script.pids() == []
        await time.passes(seconds=(opens - time.clock.now()).total_seconds())
        await bench.shown(state="rebooting", gates=())
        [record] = bench.service.jobs()
        assert (record.request.kind, record.requester.name) == (JobKind.APPLY, "agent")
        assert record.request.fleet_lock


class Outside:
    """The rest of a host on which Ann is logged in, and can call a reboot off."""

    def __init__(self) -> None:
        self.told: list[datetime | None] = []
        self.off = False

    def watch(self, sources: frozenset[Source], seen: Callable[[Surroundings], None]) -> None:
        seen(Surroundings(people=("ann",)))

    async def tell(self, when: datetime | None) -> None:
        self.told.append(when)

    async def called_off(self) -> bool:
        return self.off


async def test_reboot_waits_for_people_and_longer_if_they_call_it_off(
    tmp_path: Path, script: WorkerScript, time: Time
) -> None:
    show_host(script, STAGED)
    outside = Outside()
    outside.off = True
    bench = ServiceBench(tmp_path, script, clock=time.clock, mode=Mode.APPLY)
    async with bench, agent_at_work(bench, time):
        bench.service.attach(outside)
        first = time.clock.now() + timedelta(minutes=10)
        await bench.shown(reboot_at=first)
        await time.sleeper(600.0)
        await time.passes(minutes=10)
        off = time.clock.now() + timedelta(hours=1)
        called_off = Gate(
            "called-off", "somebody who is logged in called the reboot off", off, (Action.APPLY,)
        )
        await bench.shown(reboot_at=None, gates=(called_off,))
        assert script.pids() == []
        outside.off = False
        await time.passes(hours=1)
        again = time.clock.now() + timedelta(minutes=10)
        await bench.shown(reboot_at=again, active_job="", last_check_result="up-to-date")
        script.steps(["ready"], ["outcome", {"state": "done", "reboot": True}])
        await time.passes(minutes=10)
        await bench.shown(state="rebooting")
    assert outside.told == [first, again]


async def test_people_are_told_before_a_window_opens(
    tmp_path: Path, script: WorkerScript, time: Time
) -> None:
    show_host(script, STAGED)
    bench, outside = ServiceBench(tmp_path, script, clock=time.clock, mode=Mode.APPLY), Outside()
    rules = replace(bench.settings.rules, windows=(parse_window("12:25", timedelta(hours=1)),))
    bench.settings = replace(bench.settings, rules=rules)
    opens = time.clock.now() + timedelta(minutes=25)
    async with bench, agent_at_work(bench, time):
        bench.service.attach(outside)
        await bench.service.reload()
        await time.sleeper(600.0)
        await time.passes(minutes=10)
        await time.sleeper(300.0)
        assert bench.service.snapshot.reboot_at is None
        await time.passes(minutes=5)
        await bench.shown(reboot_at=opens)
        script.steps(["ready"], ["outcome", {"state": "done", "reboot": True}])
        await time.passes(minutes=10)
        await bench.shown(state="rebooting")
    assert outside.told == [opens]


async def test_appointment_is_called_off_by_people_who_were_told_of_it(
    tmp_path: Path, script: WorkerScript, time: Time
) -> None:
    show_host(script, STAGED)
    outside = Outside()
    outside.off = True
    bench = ServiceBench(tmp_path, script, clock=time.clock)
    async with bench, agent_at_work(bench, time):
        bench.service.attach(outside)
        await bench.shown(state="staged")
        when = time.clock.now() + timedelta(minutes=10)
        await bench.service.schedule_apply(when, SOMEBODY, JobOptions())
        await bench.shown(reboot_at=when)
        time.clock.move(minutes=10)
        await bench.service._appointments._keep()
        await bench.shown(appointment=None, reboot_at=None)
    assert script.pids() == []
    assert outside.told == [when]


async def test_simulation_decides_as_the_plan_does_for_another_time_and_other_surroundings(
    tmp_path: Path, script: WorkerScript, time: Time
) -> None:
    script.steps(["ready"], FOUND)
    async with ServiceBench(tmp_path, script, clock=time.clock, mode=Mode.STAGE) as bench:
        await bench.service.host_ready()
        await bench.service.wait((await bench.service.begin(JobKind.CHECK, SOMEBODY)).request.uuid)
        before = bench.service.snapshot
        now = bench.service.simulate(None, {})
        assert (now.action, now.gates) == (Action.STAGE, ())
        metered = bench.service.simulate(None, {"metered": True})
        assert [gate.name for gate in metered.gates] == ["metered"]
        await bench.service.pause(time.clock.now() + timedelta(days=1), SOMEBODY)
        assert [gate.name for gate in bench.service.simulate(None, {}).gates] == ["paused"]
        later = time.clock.now() + timedelta(days=2)
        assert bench.service.simulate(later, {}).action is not Action.NOTHING
        assert "paused" not in [gate.name for gate in bench.service.simulate(later, {}).gates]
        with pytest.raises(InvalidArguments):
            bench.service.simulate(time.clock.now() + timedelta(days=9999), {})
        assert bench.service.snapshot.next_action == before.next_action
