"""What people are told of a reboot, over plans that come and go."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest

from bootcd.agent.courtesy import Courtesy
from tests.support.jobs import SetClock


class Told:
    """Remembers what was told; the first telling takes until it is let go."""

    def __init__(self) -> None:
        self.times: list[datetime | None] = []
        self.off = False
        self.go = asyncio.Event()
        self.heard = asyncio.Event()

    async def tell(self, when: datetime | None) -> None:
        await self.go.wait()
        self.times.append(when)
        self.heard.set()

    async def called_off(self) -> bool:
        return self.off

    async def next(self) -> None:
        await self.heard.wait()
        self.heard.clear()


def courtesy(told: Told, clock: SetClock) -> Courtesy:
    made = Courtesy(clock, lambda: None)
    made.by(told)
    return made


async def test_people_are_told_once_and_that_it_does_not_come() -> None:
    told, clock = Told(), SetClock()
    told.go.set()
    made = courtesy(told, clock)
    until = clock.now() + timedelta(minutes=10)
    made.follow(None)
    made.follow(until)
    made.follow(until)
    await told.next()
    clock.move(minutes=4)
    made.follow(until)
    assert made.until == until
    made.follow(None)
    await told.next()
    assert told.times == [until, None]
    assert made.until is None
    await made.stop()


async def test_what_was_told_holds_for_a_reboot_that_has_to_be_tried_again() -> None:
    told, clock = Told(), SetClock()
    told.go.set()
    made = courtesy(told, clock)
    until = clock.now() + timedelta(minutes=10)
    made.follow(until)
    await told.next()
    clock.move(minutes=10)
    made.follow(None)
    assert made.until == until
    clock.move(minutes=15)
    assert made.until is None
    made.follow(None)
    assert told.times == [until]
    await made.stop()


async def test_only_the_newest_time_is_told_after_one_that_takes_long() -> None:
    told, clock = Told(), SetClock()
    made = courtesy(told, clock)
    times = [clock.now() + timedelta(minutes=minutes) for minutes in (5, 6, 7)]
    made.follow(times[0])
    await asyncio.sleep(0)
    made.follow(times[1])
    made.follow(times[2])
    told.go.set()
    await told.next()
    await told.next() if len(told.times) < 2 else None
    assert told.times[-1] == times[2]
    assert times[1] not in told.times
    await made.stop()


async def test_reboot_that_people_called_off_is_off_though_something_else_came_in_its_way() -> None:
    told, clock = Told(), SetClock()
    told.go.set()
    made = courtesy(told, clock)
    first = clock.now() + timedelta(minutes=10)
    made.follow(first)
    await told.next()
    told.off = True
    clock.move(minutes=5)
    made.follow(None)
    assert await made.called_off()
    assert made.off_until == clock.now() + timedelta(hours=1)
    assert made.until is None
    assert await made.called_off(first)
    assert not await made.called_off(clock.now()), "that is of another reboot"
    await made.stop()


async def test_whether_people_call_it_off_is_asked_at_its_time_though_nothing_reboots() -> None:
    told, clock, heard = Told(), SetClock(), asyncio.Event()
    told.go.set()
    made = Courtesy(clock, heard.set)
    made.by(told)
    made.follow(clock.now() + timedelta(milliseconds=5))
    await told.next()
    told.off = True
    clock.move(seconds=1)
    await heard.wait()
    assert made.off_until == clock.now() + timedelta(hours=1)
    await made.stop()


@pytest.mark.parametrize("minutes", [11, 20])
async def test_reboot_whose_time_the_host_slept_through_is_told_anew(minutes: int) -> None:
    told, clock, replanned = Told(), SetClock(), asyncio.Event()
    told.go.set()
    made = Courtesy(clock, replanned.set)
    made.by(told)
    first = clock.now() + timedelta(minutes=10)
    made.follow(first)
    await told.next()
    clock.move(minutes=minutes)
    assert not await made.called_off(first), "what somebody asked for stands"
    assert replanned.is_set()
    assert made.until is None
    made.follow(first + timedelta(minutes=minutes))
    await told.next()
    assert told.times == [first, first + timedelta(minutes=minutes)]
    assert not await made.called_off()
    await made.stop()


async def test_reboot_that_is_due_after_its_time_was_slept_through_does_not_come() -> None:
    told, clock = Told(), SetClock()
    told.go.set()
    made = courtesy(told, clock)
    made.follow(clock.now() + timedelta(minutes=10))
    await told.next()
    clock.move(minutes=12)
    assert await made.called_off()
    assert not await made.called_off(), "once"
    assert made.off_until is None
    await made.stop()
