"""Jobs of a simulated machine: what `JobManager` is to the service, with workers led by chance.

A worker outlives the service, and what it left is found by the next one; it does not outlive a reboot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import UUID

from bootcd.jobs.events import JobAdded, JobChanged, JobEvent
from bootcd.model.errors import BootcdError, Busy, NoSuchJob
from bootcd.model.job import JobRecord, JobRequest, JobState, Outcome, Requester

if TYPE_CHECKING:
    from tests.simulate.machine import Machine

_CANCEL_SECS = 2.0


class Works:
    """`current` is the job that is being accepted or at work, whether there is a service or not."""

    def __init__(self, world: Machine) -> None:
        self._world = world
        self._last_number = 0
        self._on_event: Callable[[JobEvent], None] | None = None
        self._settle: Callable[[JobRecord], Awaitable[None]] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._left: JobRecord | None = None
        "A job whose worker ended while there was no service."
        self.current: JobRecord | None = None

    # What the service calls

    async def start(
        self, *, on_event: Callable[[JobEvent], None], settle: Callable[[JobRecord], Awaitable[None]]
    ) -> None:
        self._on_event, self._settle = on_event, settle
        if self.current is not None:
            on_event(JobAdded(self.current))
        if (left := self._left) is not None:
            self._left = None
            on_event(JobAdded(left.model_copy(update={"state": JobState.RUNNING, "outcome": None})))
            on_event(JobChanged(left))

    async def stop(self) -> None:
        self._on_event = self._settle = None
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def busy(self) -> bool:
        return self.current is not None

    def jobs(self) -> tuple[JobRecord, ...]:
        return (self.current,) if self.current else ()

    async def retried(self, request: JobRequest, requester: Requester) -> JobRecord | None:
        return None

    async def create(self, request: JobRequest, requester: Requester) -> JobRecord:
        if self.current is not None:
            raise Busy("another job is at work")
        self._last_number += 1
        uuid = str(UUID(int=self._last_number))
        record = JobRecord(
            number=self._last_number,
            request=request.model_copy(update={"uuid": uuid}),
            requester=requester,
            created=self._world.clock.now(),
        )
        self.current = record
        self._world.oracle.begins(record)
        error, secs = self._world.refusal(record), self._world.random.expovariate(1.0)
        if error is None:
            # Whatever becomes of the service meanwhile.
            self._world.after(secs + self._world.duration(record), self._ends_by_itself(uuid))
        try:
            await asyncio.sleep(secs)
        finally:
            if error is not None:
                self.current = None
        if error is not None:
            self._world.oracle.refused(record, error)
            raise error
        if self._on_event is not None:
            self._on_event(JobAdded(record))
        return record

    async def cancel(self, uuid: str) -> None:
        if self.current is None or self.current.request.uuid != uuid:
            raise NoSuchJob("there is no such job")
        self.current = self.current.model_copy(update={"state": JobState.CANCELLING})
        if self._on_event is not None:
            self._on_event(JobChanged(self.current))
        self._world.after(_CANCEL_SECS, self._ends(uuid, Outcome(state=JobState.CANCELLED)))

    async def remember(self, record: JobRecord) -> None:
        pass

    # What the world does

    async def kill(self) -> None:
        """End the worker, as a reboot does."""
        if self.current is not None:
            await self._ends(self.current.request.uuid, Outcome(state=JobState.INTERRUPTED))()

    def _ends_by_itself(self, uuid: str) -> Callable[[], Awaitable[None]]:
        async def ends() -> None:
            if self.current is not None and self.current.request.uuid == uuid:
                await self._ends(uuid, self._world.outcome(self.current))()

        return ends

    def _ends(self, uuid: str, outcome: Outcome) -> Callable[[], Awaitable[None]]:
        async def ends() -> None:
            record = self.current
            if record is None or record.request.uuid != uuid or self._left is not None:
                return
            update = {"state": outcome.state, "outcome": outcome, "finished": self._world.clock.now()}
            ended = record.model_copy(update=update)
            self._world.oracle.ended(ended)
            if self._on_event is None or self._settle is None:
                self.current, self._left = None, ended
                return
            task = asyncio.get_running_loop().create_task(self._bring_out(ended, self._settle))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return ends

    async def _bring_out(self, ended: JobRecord, settle: Callable[[JobRecord], Awaitable[None]]) -> None:
        self._left = ended  # until it is told
        try:
            await settle(ended)
        except BootcdError:
            pass
        except asyncio.CancelledError:
            self.current = None
            raise
        self.current, self._left = None, None
        if self._on_event is not None:
            self._on_event(JobChanged(ended))
