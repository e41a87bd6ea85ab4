"""The appointment that is made, kept when its time has come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

from bootcd.agent.alarm import Alarm
from bootcd.host.clock import Clock
from bootcd.model.errors import BootcdError, Busy, Inhibited
from bootcd.update.appointment import Appointment

log = logging.getLogger(__name__)

_AGAIN = timedelta(minutes=1)
"Until it is tried again where a job is at work, or somebody inhibits it."


class Appointments:
    """`begin` starts the job and raises BootcdError; `over` is called when an appointment is."""

    def __init__(
        self, clock: Clock, begin: Callable[[Appointment], Awaitable[object]], over: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._begin = begin
        self._over = over
        self._alarm = Alarm(clock, self._ring)
        self._task: asyncio.Task[None] | None = None
        self.made: Appointment | None = None

    def make(self, appointment: Appointment | None) -> None:
        """Keep this one from now on, or none."""
        self.made = appointment
        self._alarm.set(appointment.when if appointment else None)

    async def stop(self) -> None:
        """Leave it to the next service."""
        self._alarm.set(None)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _ring(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def _keep(self) -> None:
        appointment = self.made
        if appointment is None:
            return
        try:
            if appointment.is_missed(self._clock.now()):
                log.warning("the time of a reboot that was asked for has passed by, so it does not come")
            else:
                await self._begin(appointment)
        except (Busy, Inhibited) as error:
            log.info("a reboot that was asked for has to wait: %s", error.message)
            if self.made is appointment:
                self._alarm.set(self._clock.now() + _AGAIN)
            return
        except BootcdError as error:
            log.warning("a reboot that was asked for does not come: %s", error.message)
        if self.made is appointment:
            self.make(None)
            self._over()
