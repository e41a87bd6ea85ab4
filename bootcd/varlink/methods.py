"""What each method does with the service behind it: an answer, or several to who takes more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic.alias_generators import to_camel

from bootcd.agent.authorisation import Authorise
from bootcd.agent.interface import HISTORY_DEFAULT, HISTORY_LIMIT, UpdateService, host_looked_at
from bootcd.agent.snapshot import Change, JobChanged, SnapshotChanged
from bootcd.host.peers import Peer
from bootcd.model import moment
from bootcd.model.errors import NoSuchDeployment, NoSuchJob
from bootcd.model.job import JobKind, JobOptions, JobRecord, Requester, SoftReboot
from bootcd.model.right import CLEAR_FAILURES, PAUSE, RIGHTS
from bootcd.varlink import documents
from bootcd.varlink.verbs import INTERACTIVE, VERBS, InvalidParameter, Verb, job_options

_LATEST = 1 << 62
"Microseconds, and more than can be told."
Document = dict[str, Any]

_SURROUNDINGS = ("metered", "on_battery", "battery_percent", "power_saver")


@dataclass(frozen=True, slots=True)
class Request:
    """A call whose parameters are what the method takes."""

    peer: Peer
    values: Mapping[str, Any]
    more: bool

    @property
    def interactive(self) -> bool:
        return bool(self.values.get(INTERACTIVE))


@dataclass(frozen=True, slots=True)
class Reply:
    parameters: Document
    continues: bool = False
    document: bytes = b""
    "In the place of parameters: the JSON text of the one called `document`, of up to some megabytes."


Replies = AsyncIterator[Reply]


class Methods:
    def __init__(self, service: UpdateService, authorise: Authorise) -> None:
        self._service = service
        self._authorise = authorise
        self._begun: set[asyncio.Task[JobRecord]] = set()

    def handlers(self) -> dict[str, Callable[[Request], Replies]]:
        """Return what serves each method, by its name."""

        def starter(verb: Verb) -> Callable[[Request], Replies]:
            return lambda request: self._start(verb, request)

        return {
            "GetStatus": self._get_status,
            "GetHistory": self._get_history,
            "GetNotes": self._get_notes,
            "ListJobs": self._list_jobs,
            "ListInhibitors": self._list_inhibitors,
            "Simulate": self._simulate,
            "Wait": self._wait,
            "Diff": self._diff,
            "Cancel": self._cancel,
            "GetLog": self._get_log,
            "ConfigDiff": self._config_diff,
            "ScheduleApply": self._schedule_apply,
            "CancelApply": self._cancel_apply,
            "ClearFailures": self._clear_failures,
            "Pause": self._pause,
            "Resume": self._resume,
            "Reload": self._reload,
            **{name: starter(verb) for name, verb in VERBS.items()},
        }

    async def _get_status(self, request: Request) -> Replies:
        await host_looked_at(self._service)
        changed = asyncio.Event()

        def observe(change: Change) -> None:
            if isinstance(change, SnapshotChanged):
                changed.set()

        unsubscribe = self._service.subscribe(observe) if request.more else lambda: None
        try:
            while True:
                changed.clear()
                shown = documents.status(self._service.snapshot)
                yield Reply({"status": shown}, continues=request.more)
                if not request.more:
                    return
                # Changes while the last reply was being taken are one.
                await changed.wait()
        finally:
            unsubscribe()

    async def _get_history(self, request: Request) -> Replies:
        limit = request.values.get("limit", HISTORY_DEFAULT)
        if not 1 <= limit <= HISTORY_LIMIT:
            raise InvalidParameter("limit")
        records = await self._service.history(limit)
        yield Reply({"jobs": [documents.job(record) for record in records]})

    async def _get_notes(self, _: Request) -> Replies:
        yield Reply({"notes": self._service.notes()})

    async def _list_jobs(self, _: Request) -> Replies:
        yield Reply({"jobs": [documents.job(record) for record in self._service.jobs()]})

    async def _simulate(self, request: Request) -> Replies:
        at = request.values.get("at", 0)
        names = {to_camel(name): name for name in _SURROUNDINGS}
        facts = {names[name]: value for name, value in request.values.items() if name in names}
        if not 0 <= at < 1 << 62:
            raise InvalidParameter("at")
        planned = self._service.simulate(moment.from_microseconds(at), facts)
        yield Reply(
            {"nextAction": documents.plan(planned), "gates": [documents.gate(gate) for gate in planned.gates]}
        )

    async def _list_inhibitors(self, _: Request) -> Replies:
        held = self._service.snapshot.inhibitors
        yield Reply({"inhibitors": [documents.inhibitor(inhibitor) for inhibitor in held]})

    async def _wait(self, request: Request) -> Replies:
        uuid = request.values["uuid"]
        record = self._find(uuid)
        if record is None:
            raise NoSuchJob(f"there is no job {uuid}")
        if not request.more:
            record = await self._service.wait(uuid)
            yield Reply({"job": documents.job(record)})
            return
        async for reply in self._follow(record):
            yield reply

    async def _diff(self, request: Request) -> Replies:
        before, after = request.values["before"], request.values["after"]
        status = self._service.snapshot.host.status
        entries = (status.booted, status.staged, status.rollback, *status.other_deployments)
        known = {entry.id for entry in entries if entry}
        for wanted in (before, after):
            if wanted not in known:
                raise NoSuchDeployment(f"there is no deployment {wanted!r}", deployment=wanted)
        yield Reply({}, document=await self._service.diff(before, after))

    async def _cancel(self, request: Request) -> Replies:
        uuid = await self._require_of_job(request, "cancel")
        await self._service.cancel(uuid)
        yield Reply({})

    async def _get_log(self, request: Request) -> Replies:
        uuid = await self._require_of_job(request, "job-log")
        yield Reply({"log": (await self._service.log(uuid)).decode(errors="replace")})

    async def _config_diff(self, request: Request) -> Replies:
        await self._require(request, "config-diff")
        yield Reply({}, document=await self._service.config_diff())

    async def _schedule_apply(self, request: Request) -> Replies:
        values, right = request.values, RIGHTS[JobKind.APPLY]
        if not 0 < values["when"] < _LATEST or not (when := moment.from_microseconds(values["when"])):
            raise InvalidParameter("when")
        try:
            soft = SoftReboot(values.get("softReboot", ""))
        except ValueError:
            raise InvalidParameter("softReboot") from None
        options = JobOptions(soft_reboot=soft, ignore_inhibitors=values.get("ignoreInhibitors", False))
        for action in right.actions(options.model_dump(), verified=True):
            await self._require(request, action)
        await self._service.schedule_apply(when, _requester(request.peer), options)
        yield Reply({})

    async def _cancel_apply(self, request: Request) -> Replies:
        await self._require(request, "apply")
        await self._service.cancel_apply(_requester(request.peer))
        yield Reply({})

    async def _clear_failures(self, request: Request) -> Replies:
        digest = request.values.get("digest", "")
        if digest.startswith("-"):
            raise InvalidParameter("digest")
        await self._require(request, CLEAR_FAILURES.action)
        yield Reply({"digests": list(await self._service.clear_failures(digest))})

    async def _pause(self, request: Request) -> Replies:
        until = request.values.get("until", 0)
        if not 0 <= until < _LATEST:
            raise InvalidParameter("until")
        await self._require(request, PAUSE.action)
        await self._service.pause(moment.from_microseconds(until), _requester(request.peer))
        yield Reply({})

    async def _resume(self, request: Request) -> Replies:
        await self._require(request, PAUSE.action)
        await self._service.resume(_requester(request.peer))
        yield Reply({})

    async def _reload(self, request: Request) -> Replies:
        await self._require(request, "reload")
        await self._service.reload()
        yield Reply({})

    async def _start(self, verb: Verb, request: Request) -> Replies:
        job_options(verb, request.values, verified_only=False)  # for what it raises, before anybody is asked
        given = verb.given(request.values)
        actions = verb.right.actions(given, verified=self._service.snapshot.trust.verifies)
        for action in actions:
            await self._require(request, action, verb.right.details(given))
        limited = verb.right.is_limited(actions[0], request.peer.uid)
        options = job_options(verb, request.values, verified_only=limited)
        record = await self._begin(verb.kind, request.peer, options)
        if not request.more:
            yield Reply({"job": documents.job(record)})
            return
        async for reply in self._follow(self._find(record.request.uuid) or record):
            yield reply

    async def _begin(self, kind: JobKind, peer: Peer, options: JobOptions) -> JobRecord:
        """Start a job; from here on it goes on whether or not the caller is still there."""
        task = asyncio.get_running_loop().create_task(self._service.begin(kind, _requester(peer), options))
        self._begun.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[JobRecord]) -> None:
        self._begun.discard(task)
        if not task.cancelled():
            task.exception()  # told to the caller, if there still is one

    async def _follow(self, record: JobRecord) -> Replies:
        """Reply at every step of a job, as fast as they are taken, and last when it has ended."""
        uuid, eta_secs = record.request.uuid, 0.0
        changed = asyncio.Event()

        def observe(change: Change) -> None:
            nonlocal record, eta_secs
            if isinstance(change, JobChanged) and change.record.request.uuid == uuid:
                record, eta_secs = change.record, change.eta_secs
                changed.set()

        unsubscribe = self._service.subscribe(observe)
        try:
            while not record.state.ended:
                changed.clear()
                yield Reply({"job": documents.job(record, eta_secs)}, continues=True)
                await changed.wait()
        finally:
            unsubscribe()
        # By then the status shows what the job did.
        yield Reply({"job": documents.job(await self._service.wait(uuid))})

    def _find(self, uuid: str) -> JobRecord | None:
        return next((record for record in self._service.jobs() if record.request.uuid == uuid), None)

    async def _require_of_job(self, request: Request, action: str) -> str:
        """Return the uuid of the job a call is about, once the caller may; who started it may."""
        uuid: str = request.values["uuid"]
        record = self._find(uuid)
        if record is None or record.requester.uid != request.peer.uid:
            await self._require(request, action, {"job": uuid})
        return uuid

    async def _require(self, request: Request, action: str, details: Mapping[str, str] | None = None) -> None:
        if request.peer.uid != 0:
            full = {"verb": action, **(details or {})}
            await self._authorise(request.peer, action, full, interactive=request.interactive)


def _requester(peer: Peer) -> Requester:
    return Requester(uid=peer.uid, pid=peer.pid, name=peer.name)
