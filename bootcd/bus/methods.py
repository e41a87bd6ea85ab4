"""What each method of Manager and Job does with the service behind it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

from pydantic import ValidationError

from bootcd.agent.interface import HISTORY_DEFAULT, HISTORY_LIMIT, UpdateService, host_looked_at
from bootcd.agent.snapshot import Change, SnapshotChanged
from bootcd.bus.dispatch import Call, Descriptor, Handler, Handlers, Readers
from bootcd.bus.entries import gate_entry, history_entry, inhibitor_entry, microseconds, outcome_entries
from bootcd.bus.errors import clean_text
from bootcd.bus.interfaces import JOB, MANAGER
from bootcd.bus.progress import ProgressPipes
from bootcd.bus.publisher import Publisher
from bootcd.host.files import sealed_memory
from bootcd.model import moment
from bootcd.model.errors import Busy, InvalidArguments
from bootcd.model.job import JobKind, JobOptions
from bootcd.update.inhibit import parse_wish

_GENERATION_SECS = 20.0
_DIGEST_LIMIT = 128
_JOBS = {
    "Check": JobKind.CHECK,
    "Upgrade": JobKind.UPGRADE,
    "Switch": JobKind.SWITCH,
    "Rollback": JobKind.ROLLBACK,
    "Apply": JobKind.APPLY,
    "SetKernelArguments": JobKind.KERNEL_ARGUMENTS,
    "Pin": JobKind.PIN,
    "Unpin": JobKind.UNPIN,
    "Drop": JobKind.DROP,
    "OverlayUsr": JobKind.USR_OVERLAY,
}
"Methods that start a job."


class Methods:
    def __init__(self, service: UpdateService, publisher: Publisher, progress: ProgressPipes) -> None:
        self._service = service
        self._progress = progress
        self._publisher = publisher

    def handlers(self) -> Handlers:
        manager: dict[str, Handler] = {
            **{name: partial(self._start, kind) for name, kind in _JOBS.items()},
            "Check": self._check,
            "GetStatus": self._get_status,
            "GetHistory": self._get_history,
            "GetNotes": self._get_notes,
            "Diff": self._diff,
            "ConfigDiff": self._config_diff,
            "Inhibit": self._inhibit,
            "Simulate": self._simulate,
            "ListInhibitors": self._list_inhibitors,
            "ScheduleApply": self._schedule_apply,
            "CancelApply": self._cancel_apply,
            "ClearFailures": self._clear_failures,
            "Pause": self._pause,
            "Resume": self._resume,
            "Reload": self._reload,
        }
        job: dict[str, Handler] = {
            "Cancel": self._cancel,
            "Wait": self._wait,
            "OpenProgress": self._open_progress,
            "OpenLog": self._open_log,
        }
        return {(MANAGER.name, name): handler for name, handler in manager.items()} | {
            (JOB.name, name): handler for name, handler in job.items()
        }

    def readers(self) -> Readers:
        # Asked for more often than all the others, and by nobody in particular.
        return {(MANAGER.name, "GetStatus"): self._status_in_memory}

    def _status_in_memory(self, options: Mapping[str, Any]) -> list[Any] | None:
        snapshot = self._service.snapshot
        ready = snapshot.host_json and snapshot.generation >= options.get("wait-generation", 0)
        return [snapshot.host_json] if ready else None

    async def _get_status(self, call: Call) -> list[Any]:
        await host_looked_at(self._service)
        await self._reach_generation(call.options.get("wait-generation", 0))
        return [self._service.snapshot.host_json]

    async def _reach_generation(self, wanted: int) -> None:
        """Return once the host is of a generation, or after a while as it is."""
        reached = asyncio.Event()

        def observe(change: Change) -> None:
            if isinstance(change, SnapshotChanged) and change.snapshot.generation >= wanted:
                reached.set()

        if self._service.snapshot.generation >= wanted:
            return
        unsubscribe = self._service.subscribe(observe)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GENERATION_SECS):
                    await reached.wait()
        finally:
            unsubscribe()

    async def _get_history(self, call: Call) -> list[Any]:
        limit = call.options.get("limit", HISTORY_DEFAULT)
        if not 1 <= limit <= HISTORY_LIMIT:
            raise InvalidArguments(f"limit is {limit}, which is not between 1 and {HISTORY_LIMIT}")
        return [[history_entry(record) for record in await self._service.history(limit)]]

    async def _get_notes(self, _: Call) -> list[Any]:
        return [self._service.notes()]

    async def _diff(self, call: Call) -> list[Any]:
        before, after = map(self._publisher.deployment_at, call.arguments)
        return [await _memory("diff", await self._service.diff(before, after))]

    async def _config_diff(self, _: Call) -> list[Any]:
        return [await _memory("config-diff", await self._service.config_diff())]

    async def _inhibit(self, call: Call) -> list[Any]:
        what, who, why, mode = call.arguments
        not_after = moment.from_microseconds(call.options.get("not-after", 0))
        wish = parse_wish(what, who, why, mode, call.caller.uid, not_after)
        return [Descriptor(await self._service.inhibit(wish))]

    async def _simulate(self, call: Call) -> list[Any]:
        facts = {name.replace("-", "_"): value for name, value in call.options.items() if name != "at"}
        planned = self._service.simulate(moment.from_microseconds(call.options.get("at", 0)), facts)
        gates = [list(gate_entry(gate)) for gate in planned.gates]
        return [planned.action.value, clean_text(planned.reason), microseconds(planned.not_before), gates]

    async def _list_inhibitors(self, _: Call) -> list[Any]:
        return [[list(inhibitor_entry(inhibitor)) for inhibitor in self._service.snapshot.inhibitors]]

    async def _schedule_apply(self, call: Call) -> list[Any]:
        given = call.given()
        when = moment.from_microseconds(given.pop("when"))
        if when is None:
            raise InvalidArguments("the time of the reboot is in the past")
        await self._service.schedule_apply(when, call.requester, _options(call, given))
        return []

    async def _cancel_apply(self, call: Call) -> list[Any]:
        await self._service.cancel_apply(call.requester)
        return []

    async def _clear_failures(self, call: Call) -> list[Any]:
        return [list(await self._service.clear_failures(_digest(call.arguments[0])))]

    async def _pause(self, call: Call) -> list[Any]:
        await self._service.pause(moment.from_microseconds(call.arguments[0]), call.requester)
        return []

    async def _resume(self, call: Call) -> list[Any]:
        await self._service.resume(call.requester)
        return []

    async def _reload(self, _: Call) -> list[Any]:
        await self._service.reload()
        return []

    async def _cancel(self, call: Call) -> list[Any]:
        await self._service.cancel(self._publisher.uuid_at(call.path))
        return []

    async def _wait(self, call: Call) -> list[Any]:
        record = await self._service.wait(self._publisher.uuid_at(call.path))
        return [record.state.value, outcome_entries(record.outcome)]

    async def _open_progress(self, call: Call) -> list[Any]:
        return [Descriptor(self._progress.open(self._publisher.record_at(call.path), call.caller.uid))]

    async def _open_log(self, call: Call) -> list[Any]:
        uuid = self._publisher.uuid_at(call.path)
        return [await _memory("job-log", await self._service.log(uuid))]

    async def _check(self, call: Call) -> list[Any]:
        options = dict(call.options)
        # More than this is for ever.
        age = timedelta(microseconds=min(options.pop("max-age", 0), 1 << 56))
        if age and self._service.checked_within(age):
            return ["/"]
        return await self._start(JobKind.CHECK, replace(call, options=options))

    async def _start(self, kind: JobKind, call: Call) -> list[Any]:
        """Answer with the path of a job, which exists by the time the caller learns it."""
        try:
            record = await self._service.begin(kind, call.requester, _job_options(call))
            return [self._publisher.ensure(record)]
        except Busy as error:
            uuid = str(error.fields.get("uuid", ""))
            path = self._publisher.path_of(uuid)
            where = f" ({path}, {uuid})" if path != "/" else ""
            raise Busy(error.message + where, hint=error.hint, **error.fields) from None


async def _memory(name: str, document: bytes) -> Descriptor:
    return Descriptor(await asyncio.to_thread(sealed_memory, name, document))


def _job_options(call: Call) -> JobOptions:
    """Return the arguments and options of a call by the names a request has for them."""
    given = call.given()
    if call.method.right and call.method.right.is_limited(call.action, call.caller.uid):
        given["verified_only"] = True
    return _options(call, given)


def _digest(text: str) -> str:
    # It becomes an argument of a command. Where an image has none, a version is named by its commit.
    if text.startswith("-") or len(text) > _DIGEST_LIMIT:
        raise InvalidArguments("this is no digest", hint="see: bootcctl health")
    return text


def _options(call: Call, given: dict[str, Any]) -> JobOptions:
    try:
        return JobOptions(**given)
    except ValidationError as error:
        wrong = str(error.errors()[0]["loc"][0]).replace("_", "-")
        raise InvalidArguments(f"{wrong} of {call.method.name} has a value it cannot have") from None
