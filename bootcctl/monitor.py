"""The verb monitor: changes of the service and of its jobs as they come, until Ctrl-C.

It never starts the service: while it is away, the monitor waits for it. Each event is one line; as
JSON it is `{"event": ..., "time": ...}` with

    service   "service": the document of the service; first of all, and at each change
    job       "job": the document of a job; at each change, the last one with its end
    gone      the service left the bus
"""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

from bootcctl.client import JOB, MANAGER, ROOT, BusGone, Changed, Client, Gap, Interrupt, Owner
from bootcctl.documents import ENDED, JOB_PREFIX, job_document, service_document
from bootcctl.exitcodes import Failure
from bootcctl.outcomes import render_outcome
from bootcctl.render import ProgressLog, clean
from bootcctl.terminal import Terminal

_DAY_SECS = 86400.0
_JOBS_KEPT = 50


async def monitor(client: Client, terminal: Terminal) -> None:
    """Print events until Ctrl-C."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, client.interrupt)
    try:
        await client.subscribe()
        await _Monitor(client, terminal).run()
    finally:
        loop.remove_signal_handler(signal.SIGINT)


class _Monitor:
    def __init__(self, client: Client, terminal: Terminal) -> None:
        self._client = client
        self._terminal = terminal
        self._manager: dict[str, Any] = {}
        self._jobs: dict[str, dict[str, Any]] = {}
        self._logs: dict[str, ProgressLog] = {}
        self._said = ""

    async def run(self) -> None:
        if self._client.service_present:
            await self._read_all()
        else:
            self._say_gone()
        while True:
            match await self._client.next_event(_DAY_SECS):
                case Interrupt():
                    return
                case BusGone():
                    raise Failure("Unreachable", "the system bus closed the connection")
                case Owner(present=False):
                    self._say_gone()
                case Owner() | Gap():
                    await self._read_all()
                case Changed(interface="org.bootcd1.Manager", values=values, stale=stale):
                    self._manager.update(values)
                    if stale:
                        await self._read_all()
                    else:
                        self._say_service()
                case Changed(path=path, interface="org.bootcd1.Job", values=values):
                    await self._on_job(path, values)
                case _:
                    pass

    async def _read_all(self) -> None:
        try:
            self._manager = await self._client.get_all(ROOT, MANAGER)
            jobs = await self._client.jobs()
        except Failure:
            # It went away again, and an event says so.
            return
        self._say_service()
        for path, properties in jobs.items():
            if properties.get("State") not in ENDED or path in self._jobs:
                changed = self._jobs.get(path) != properties
                self._jobs[path] = properties
                if changed:
                    self._say_job(path)

    async def _on_job(self, path: str, values: dict[str, Any]) -> None:
        if path in self._jobs:
            self._jobs[path].update(values)
        else:
            try:
                self._jobs[path] = await self._client.get_all(path, JOB)
            except Failure:
                return
        self._say_job(path)

    def _event(self, event: str, **document: Any) -> None:
        self._terminal.event({"event": event, "time": int(time.time() * 1e6), **document})

    def _line(self, text: str) -> None:
        self._terminal.line(f"{time.strftime('%H:%M:%S')}  {text}")

    def _say_gone(self) -> None:
        self._event("gone")
        self._say("the service is not running")

    def _say(self, text: str) -> None:
        if text != self._said:
            self._line(text)
            self._said = text

    def _say_service(self) -> None:
        active = self._manager.get("ActiveJob", "/")
        job = job_document(active, self._jobs[active]) if active in self._jobs else None
        service = service_document(self._manager, job)
        if job is None and active.startswith(JOB_PREFIX):
            service["active-job"] = {"uuid": "", "number": int(active.removeprefix(JOB_PREFIX)), "kind": ""}
        self._event("service", service=service)
        text = f"state: {clean(service['state'])}"
        available = service["available"]
        if available:
            text += f", available: {clean(available.get('version') or available.get('digest'))}"
        if service["reboot-required"]:
            text += ", reboot needed"
        self._say(text)

    def _say_job(self, path: str) -> None:
        job = job_document(path, self._jobs[path])
        self._event("job", job=job)
        label = f"job {job['number']} ({clean(job['kind'])})"
        if job["state"] in ENDED:
            self._logs.pop(path, None)
            while len(self._jobs) > _JOBS_KEPT:
                self._jobs.pop(next(iter(self._jobs)))
            text = render_outcome(job) if job["state"] == "done" else job["state"]
            if job["error"]:
                text += f": {clean(job['error']['message'])}"
            self._line(f"{label}: {text}")
            return
        line = self._logs.setdefault(path, ProgressLog()).line(time.monotonic(), job)
        if line:
            self._line(f"{label}: {line}")
