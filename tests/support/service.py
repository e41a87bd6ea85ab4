"""The service without a bus, over real worker processes that do what a test says."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

from bootcd.agent.errand import Comparisons
from bootcd.agent.inspection import inspect_host
from bootcd.agent.service import Service, Settings
from bootcd.agent.snapshot import Change, Snapshot, SnapshotChanged
from bootcd.jobs.history import History
from bootcd.jobs.manager import JobManager, Limits
from bootcd.jobs.records import JobStore
from bootcd.jobs.runner import SubprocessRunner
from bootcd.model.errors import BootcdError
from bootcd.model.host import (
    BootEntry,
    Host,
    HostSpec,
    HostState,
    ImageReferenceStatus,
    ImageStatus,
    OstreeStatus,
)
from bootcd.model.job import ImageUpdate, WorkerSettings
from bootcd.update.facts import Mode, Rules
from tests.support.jobs import SCRIPTED_WORKER, SetClock, WorkerScript

IMAGE = "registry.example/os:1"


def deployment(digit: str, *, download_only: bool = False) -> BootEntry:
    """Make a deployment of the tracked image whose digest and checksum repeat one hexadecimal digit."""
    reference = ImageReferenceStatus(image=IMAGE, transport="registry")
    image = ImageStatus(image=reference, image_digest="sha256:" + digit * 64, architecture="amd64")
    ostree = OstreeStatus(stateroot="default", checksum=digit * 64, deploy_serial=0)
    return BootEntry(image=image, ostree=ostree, download_only=download_only)


def host_of(
    booted: BootEntry | None = None, staged: BootEntry | None = None, *, rollback_queued: bool = False
) -> Host:
    return Host(
        spec=HostSpec(image=booted.image.image if booted and booted.image else None),
        status=HostState(booted=booted, staged=staged, rollback_queued=rollback_queued),
    )


def update_to(digit: str) -> ImageUpdate:
    return ImageUpdate(image=IMAGE, digest="sha256:" + digit * 64, version=digit)


BOOTED = host_of(deployment("a"))
STAGED = host_of(deployment("a"), deployment("b"))

# What a worker does, for `WorkerScript.steps`.
FOUND = ["outcome", {"state": "done", "update": update_to("b").model_dump(mode="json")}]
FAILED = [
    "outcome",
    {
        "state": "failed",
        "error": {"name": "RegistryUnavailable", "message": "no answer", "hint": "", "fields": {}},
    },
]
TAKEN = [["host", json.loads(STAGED.to_json())], ["outcome", {"state": "done", "changed": True}]]


class ServiceBench:
    """One daemon's life over a directory; make another for the next life."""

    def __init__(
        self,
        root: Path,
        script: WorkerScript,
        *,
        mode: Mode = Mode.OFF,
        clock: SetClock | None = None,
        limits: Limits | None = None,
        boot_id: str = "this",
    ) -> None:
        self.script = script
        self.clock = clock or SetClock()
        self.runtime = root / "run"
        self.runtime.mkdir(exist_ok=True)
        self.state = root / "state"
        self.state.mkdir(exist_ok=True)
        self.settings = Settings(
            rules=Rules(mode=mode, interval=timedelta(hours=6), jitter=timedelta(0)),
            worker=WorkerSettings(sysroot=str(script.sysroot)),
        )
        self.load_error: BootcdError | None = None
        store = JobStore(self.state / "jobs")
        manager = JobManager(
            store=store,
            history=History(self.state / "history.sqlite"),
            runner=SubprocessRunner(store.open_log),
            socket_path=self.runtime / "worker.sock",
            worker=SCRIPTED_WORKER,
            clock=self.clock,
            limits=limits,
        )
        self.service = Service(
            manager=manager,
            settings=self.settings,
            load=self._load,
            inspect=partial(inspect_host, SCRIPTED_WORKER),
            comparisons=Comparisons(SCRIPTED_WORKER),
            state=self.state,
            runtime=self.runtime,
            clock=self.clock,
            version="0.0",
            boot_id=boot_id,
            health=(sys.executable, "-m", "bootcd.health"),
        )
        self.changes: list[Change] = []
        self._happened = asyncio.Event()
        self.service.subscribe(self._note)

    async def __aenter__(self) -> ServiceBench:
        await self.service.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.service.stop()

    def _load(self) -> Settings:
        if self.load_error is not None:
            raise self.load_error
        return self.settings

    def _note(self, change: Change) -> None:
        self.changes.append(change)
        self._happened.set()

    async def until(self, wanted: Callable[[Change], bool]) -> Change:
        """Return the first change that is wanted, past or to come."""
        seen = 0
        while True:
            for change in self.changes[seen:]:
                if wanted(change):
                    return change
            seen = len(self.changes)
            self._happened.clear()
            await self._happened.wait()

    async def shown(self, **wanted: object) -> Snapshot:
        """Return the snapshot once it shows what is wanted."""

        def holds(snapshot: Snapshot) -> bool:
            return all(getattr(snapshot, name) == value for name, value in wanted.items())

        if holds(self.service.snapshot):
            return self.service.snapshot
        begun = len(self.changes)
        await self.until(
            lambda change: (
                isinstance(change, SnapshotChanged)
                and holds(change.snapshot)
                and any(change is new for new in self.changes[begun:])
            )
        )
        return self.service.snapshot


def show_host(script: WorkerScript, host: Host) -> None:
    """Make the host look like this, as somebody else would."""
    (script.sysroot / "host.json").write_text(host.to_json())
    (script.sysroot / "ostree/deploy").mkdir(parents=True, exist_ok=True)
    (script.sysroot / "ostree/deploy").touch()
