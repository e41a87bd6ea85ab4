"""What every front end needs of the service, whatever protocol it speaks."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Protocol

from bootcd.agent.snapshot import Change, Snapshot
from bootcd.model.errors import BackendFailed
from bootcd.model.job import JobKind, JobOptions, JobRecord, Requester
from bootcd.update.inhibit import Wish
from bootcd.update.planner import Plan
from bootcd.update.surroundings import Source, Surroundings

HISTORY_DEFAULT = 50
HISTORY_LIMIT = 1000
"Of jobs in one answer."

_HOST_SECS = 20.0
_log = logging.getLogger(__name__)


class Outside(Protocol):
    """Other services of the host."""

    def watch(self, sources: frozenset[Source], seen: Callable[[Surroundings], None]) -> None:
        """Follow these from now on and no others, and call `seen` whenever what is known changes."""

    async def tell(self, when: datetime | None) -> None:
        """Tell people who are logged in when the host reboots, or that it does not; raises nothing."""

    async def called_off(self) -> bool:
        """Tell, when it is time for the reboot people were told of, whether one of them has called it off."""


class UpdateService(Protocol):
    """The service as a front end needs it; `bootcd.agent.service.Service` is the real one."""

    @property
    def snapshot(self) -> Snapshot: ...
    def jobs(self) -> tuple[JobRecord, ...]: ...
    async def begin(self, kind: JobKind, requester: Requester, options: JobOptions) -> JobRecord: ...
    async def cancel(self, uuid: str) -> None: ...
    async def wait(self, uuid: str) -> JobRecord: ...
    async def log(self, uuid: str) -> bytes: ...
    async def history(self, limit: int) -> list[JobRecord]: ...
    def checked_within(self, age: timedelta) -> bool: ...
    def notes(self) -> str: ...
    def simulate(self, at: datetime | None, surroundings: Mapping[str, bool | int]) -> Plan: ...
    async def diff(self, before: str, after: str) -> bytes: ...
    async def config_diff(self) -> bytes: ...
    async def inhibit(self, wish: Wish) -> int: ...
    async def pause(self, until: datetime | None, requester: Requester) -> None: ...
    async def resume(self, requester: Requester) -> None: ...
    async def schedule_apply(self, when: datetime, requester: Requester, options: JobOptions) -> None: ...
    async def cancel_apply(self, requester: Requester) -> None: ...
    async def clear_failures(self, digest: str) -> tuple[str, ...]: ...
    async def reload(self) -> None: ...
    async def host_ready(self) -> None: ...
    def subscribe(self, observer: Callable[[Change], None]) -> Callable[[], None]: ...


async def host_looked_at(service: UpdateService) -> None:
    """Return once the snapshot shows the host. Raises BackendFailed if that takes too long."""
    if service.snapshot.host_json:
        return
    try:
        async with asyncio.timeout(_HOST_SECS):
            await service.host_ready()
    except TimeoutError:
        raise BackendFailed("the host has not been looked at yet", hint="try again shortly") from None


def unexpected(error: Exception, doing: str) -> str:
    """Log an error that is none of ours, and return what a caller is told of it."""
    reference = secrets.token_hex(4)
    _log.error("internal error %s in %s", reference, doing, exc_info=error)
    return f"internal error; the journal has the details under {reference}"
