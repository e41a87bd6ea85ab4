"""What each method of Manager and Job does with the service behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from bootcd.agent.snapshot import Change, Snapshot
from bootcd.bus.dispatch import Call, Handlers
from bootcd.bus.interfaces import JOB, MANAGER, history_entry, outcome_entries
from bootcd.bus.publisher import Publisher
from bootcd.model.errors import BackendFailed, Busy, InvalidArguments
from bootcd.model.job import JobRecord, Requester

_HISTORY_DEFAULT = 50
_HISTORY_LIMIT = 1000
_HOST_SECS = 20.0


class UpdateService(Protocol):
    """The service as a front end needs it; `bootcd.agent.service.Service` is the real one."""

    @property
    def snapshot(self) -> Snapshot: ...
    def jobs(self) -> tuple[JobRecord, ...]: ...
    async def check(self, requester: Requester) -> JobRecord: ...
    async def upgrade(
        self, requester: Requester, *, download_only: bool = False, apply: bool = False
    ) -> JobRecord: ...
    async def switch(
        self, requester: Requester, image: str, *, download_only: bool = False, apply: bool = False
    ) -> JobRecord: ...
    async def rollback(self, requester: Requester, *, apply: bool = False) -> JobRecord: ...
    async def apply(self, requester: Requester) -> JobRecord: ...
    async def cancel(self, uuid: str) -> None: ...
    async def wait(self, uuid: str) -> JobRecord: ...
    async def history(self, limit: int) -> list[JobRecord]: ...
    async def reload(self) -> None: ...
    async def host_ready(self) -> None: ...
    def subscribe(self, observer: Callable[[Change], None]) -> Callable[[], None]: ...


class Methods:
    def __init__(self, service: UpdateService, publisher: Publisher) -> None:
        self._service = service
        self._publisher = publisher

    def handlers(self) -> Handlers:
        manager = {
            "Check": self._check,
            "Upgrade": self._upgrade,
            "Switch": self._switch,
            "Rollback": self._rollback,
            "Apply": self._apply,
            "GetStatus": self._get_status,
            "GetHistory": self._get_history,
            "Reload": self._reload,
        }
        job = {"Cancel": self._cancel, "Wait": self._wait}
        return {(MANAGER.name, name): handler for name, handler in manager.items()} | {
            (JOB.name, name): handler for name, handler in job.items()
        }

    async def _check(self, call: Call) -> list[Any]:
        return await self._start(self._service.check(call.requester))

    async def _upgrade(self, call: Call) -> list[Any]:
        return await self._start(
            self._service.upgrade(
                call.requester,
                download_only=call.options.get("download-only", False),
                apply=call.options.get("apply", False),
            )
        )

    async def _switch(self, call: Call) -> list[Any]:
        return await self._start(
            self._service.switch(
                call.requester,
                call.arguments[0],
                download_only=call.options.get("download-only", False),
                apply=call.options.get("apply", False),
            )
        )

    async def _rollback(self, call: Call) -> list[Any]:
        return await self._start(
            self._service.rollback(call.requester, apply=call.options.get("apply", False))
        )

    async def _apply(self, call: Call) -> list[Any]:
        return await self._start(self._service.apply(call.requester))

    async def _get_status(self, call: Call) -> list[Any]:
        if not self._service.snapshot.host_json:
            try:
                async with asyncio.timeout(_HOST_SECS):
                    await self._service.host_ready()
            except TimeoutError:
                raise BackendFailed("the host has not been looked at yet", hint="try again shortly") from None
        return [self._service.snapshot.host_json]

    async def _get_history(self, call: Call) -> list[Any]:
        limit = call.options.get("limit", _HISTORY_DEFAULT)
        if not 1 <= limit <= _HISTORY_LIMIT:
            raise InvalidArguments(f"limit is {limit}, which is not between 1 and {_HISTORY_LIMIT}")
        return [[history_entry(record) for record in await self._service.history(limit)]]

    async def _reload(self, _: Call) -> list[Any]:
        await self._service.reload()
        return []

    async def _cancel(self, call: Call) -> list[Any]:
        await self._service.cancel(self._publisher.uuid_at(call.path))
        return []

    async def _wait(self, call: Call) -> list[Any]:
        record = await self._service.wait(self._publisher.uuid_at(call.path))
        return [record.state.value, outcome_entries(record.outcome)]

    async def _start(self, starting: Awaitable[JobRecord]) -> list[Any]:
        """Answer with the path of a job, which exists by the time the caller learns it."""
        try:
            return [self._publisher.ensure(await starting)]
        except Busy as error:
            uuid = str(error.fields.get("uuid", ""))
            path = self._publisher.path_of(uuid)
            where = f" ({path}, {uuid})" if path != "/" else ""
            raise Busy(error.message + where, hint=error.hint, **error.fields) from None
