"""Keeps the exported objects what the service says they are."""

from __future__ import annotations

from bootcd.agent.snapshot import (
    Change,
    JobAdded,
    JobChanged,
    JobForgotten,
    Snapshot,
    SnapshotChanged,
)
from bootcd.bus.entries import outcome_entries
from bootcd.bus.errors import ProtocolError
from bootcd.bus.interfaces import (
    DEPLOYMENT,
    DEPLOYMENT_ROOT,
    JOB,
    MANAGER,
    ROOT_PATH,
    JobView,
    ManagerView,
    deployment_path,
    deployments,
    job_path,
    reboot_planned,
    reboot_told,
)
from bootcd.bus.objects import Emit, ObjectTree
from bootcd.model.job import JobRecord


class Publisher:
    def __init__(self, tree: ObjectTree, emit: Emit, snapshot: Snapshot, jobs: tuple[JobRecord, ...]) -> None:
        self._tree = tree
        self._emit = emit
        self._snapshot = snapshot
        self._jobs: dict[str, JobRecord] = {}
        for record in jobs:
            self._show_job(record)
        self._show_snapshot()

    def observe(self, change: Change) -> None:
        """Take one change of the service."""
        match change:
            case SnapshotChanged(snapshot):
                told, self._snapshot = self._snapshot.reboot_at, snapshot
                self._show_snapshot()
                if snapshot.reboot_at != told:
                    signal = MANAGER.signals["RebootScheduled"]
                    self._emit(ROOT_PATH, MANAGER, signal, *reboot_planned(snapshot))
            case JobAdded(record):
                self.ensure(record)
            case JobChanged(record, eta_secs):
                self.ensure(record)
                self._change_job(record, eta_secs)
            case JobForgotten(record):
                if self._jobs.pop(job_path(record), None):
                    self._tree.remove(job_path(record))

    def ensure(self, record: JobRecord) -> str:
        """Return the path of a job, exporting and announcing it if it is new."""
        path = job_path(record)
        if path not in self._jobs:
            self._show_job(record)
            uuid, kind = record.request.uuid, record.request.kind.value
            self._emit(ROOT_PATH, MANAGER, MANAGER.signals["JobNew"], path, uuid, kind)
            self._show_manager()
        return path

    def path_of(self, uuid: str) -> str:
        """Return the path of the job with a uuid, or "/" where there is none."""
        return next((path for path, record in self._jobs.items() if record.request.uuid == uuid), "/")

    def uuid_at(self, path: str) -> str:
        """Return the uuid of the job at a path; raises UnknownObject where it has just gone."""
        return self.record_at(path).request.uuid

    def record_at(self, path: str) -> JobRecord:
        """Return the job at a path; raises UnknownObject where it has just gone."""
        record = self._jobs.get(path)
        if record is None:
            raise ProtocolError("UnknownObject", f"there is no object {path}")
        return record

    def deployment_at(self, path: str) -> str:
        """Return the id of the deployment at a path; raises UnknownObject where there is none."""
        for view in deployments(self._snapshot):
            if deployment_path(view.entry) == path:
                return view.entry.id
        raise ProtocolError("UnknownObject", f"there is no object {path}")

    def owner_of(self, path: str) -> int | None:
        """Return the uid of whoever started the job at a path, None for any other path."""
        record = self._jobs.get(path)
        return record.requester.uid if record else None

    def _show_job(self, record: JobRecord) -> None:
        path = job_path(record)
        self._jobs[path] = record
        self._tree.put(path, JOB, JobView(record))

    def _change_job(self, record: JobRecord, eta_secs: float) -> None:
        path = job_path(record)
        ends = record.state.ended and not self._jobs[path].state.ended
        self._jobs[path] = record
        # The last change precedes JobRemoved, also when the bus is slow.
        self._tree.put(path, JOB, JobView(record, eta_secs), now=ends)
        if ends:
            self._emit(
                ROOT_PATH,
                MANAGER,
                MANAGER.signals["JobRemoved"],
                path,
                record.request.uuid,
                record.request.kind.value,
                record.state.value,
                outcome_entries(record.outcome),
            )
            if record.outcome and record.outcome.reboot:
                signal = MANAGER.signals["RebootScheduled"]
                self._emit(ROOT_PATH, MANAGER, signal, *reboot_told(record))

    def _show_snapshot(self) -> None:
        """Add what is new before Manager points at it, and remove what is gone after."""
        views = {deployment_path(view.entry): view for view in deployments(self._snapshot)}
        for path, view in views.items():
            self._tree.put(path, DEPLOYMENT, view)
        self._show_manager()
        for path in self._tree.paths(DEPLOYMENT_ROOT):
            if path not in views:
                self._tree.remove(path)

    def _show_manager(self) -> None:
        view = ManagerView(self._snapshot, self.path_of(self._snapshot.active_job))
        self._tree.put(ROOT_PATH, MANAGER, view)
