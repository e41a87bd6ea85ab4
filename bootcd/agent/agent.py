"""The background loop: plan, wait, start a job, plan again.

A plan is made anew at everything that happens, so there is nothing to keep in step: the loop sleeps
until the time the plan names or until something happens, whichever comes first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from bootcd.agent.alarm import LONGEST_SLEEP_SECS
from bootcd.agent.service import Service
from bootcd.agent.snapshot import Change, JobChanged, NextAction, SnapshotChanged
from bootcd.host.clock import Clock
from bootcd.model.errors import Busy
from bootcd.update.facts import Action
from bootcd.update.planner import Plan

_BUSY_SECS = 30.0


class Agent:
    """Does unasked what the plan says. `chance` is as in `Facts`; `sleep` waits for seconds."""

    def __init__(
        self,
        service: Service,
        *,
        clock: Clock,
        chance: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._service = service
        self._clock = clock
        self._chance = chance
        self._sleep = sleep
        self._wake = asyncio.Event()
        self._announcing = False

    async def run(self) -> None:
        """Work until cancelled."""
        started = self._clock.now()
        unsubscribe = self._service.subscribe(self._observe)
        try:
            while True:
                self._wake.clear()
                now = self._clock.now()
                plan = self._service.plan(now=now, started=started, chance=self._chance)
                self._announce(plan)
                # By the moment it was made for: one for a moment that has come since may be another by then.
                if plan.is_due(now):
                    await self._act(plan.action)
                else:
                    await self._wait(plan)
        finally:
            unsubscribe()

    async def _act(self, action: Action) -> None:
        # A refusal is remembered and an accepted job is at work by now: both change the next plan.
        try:
            await self._service.perform(action)
        except Busy:
            # Somebody else's job that may yet be refused, which nobody would tell.
            await self._rest(_BUSY_SECS)

    async def _wait(self, plan: Plan) -> None:
        until = min((time for time in (plan.not_before, plan.notice_from) if time), default=None)
        if until is None:
            await self._wake.wait()
        else:
            await self._rest((until - self._clock.now()).total_seconds())

    async def _rest(self, secs: float) -> None:
        """Return after a time, or as soon as something happens."""
        waits = {
            asyncio.ensure_future(self._wake.wait()),
            asyncio.ensure_future(self._sleep(min(secs, LONGEST_SLEEP_SECS))),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.wait(waits)

    def _announce(self, plan: Plan) -> None:
        self._announcing = True
        try:
            action = NextAction(plan.action.value, plan.reason, plan.not_before)
            self._service.announce(action, plan.gates, plan.notice)
        finally:
            self._announcing = False

    def _observe(self, change: Change) -> None:
        match change:
            case SnapshotChanged() if not self._announcing:
                self._wake.set()
            case JobChanged(record) if record.state.ended:
                self._wake.set()
            case _:
                pass
