"""The host the stand-in pretends: deployments, jobs that run by the clock, and what they change."""

from __future__ import annotations

import asyncio
import json
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dbus_fast import Variant, unpack_variants

from bootcctl import __version__
from bootcctl.client import DEPLOYMENT, JOB, MANAGER, ROOT
from bootcctl.documents import ENDED, job_document
from bootcctl.mock.export import BusError, Exporter
from bootcctl.mock.interfaces import Interface
from bootcctl.mock.scenario import JobScript, Scenario
from bootcctl.progressfd import ProgressReport

KINDS = {
    "Check": "check",
    "Upgrade": "upgrade",
    "Switch": "switch",
    "Rollback": "rollback",
    "Apply": "apply",
    "SetKernelArguments": "kernel-arguments",
    "Pin": "pin",
    "Unpin": "unpin",
    "Drop": "drop",
    "OverlayUsr": "usr-overlay",
}
IMAGE = "registry.example/os:stable"
_STATES = {
    "check": "checking",
    "upgrade": "upgrading",
    "switch": "switching",
    "rollback": "rolling-back",
    "apply": "applying",
}
_ERROR = "org.bootcd1.Error."
_STEP_SECS = 0.2
"Progress comes at most five times a second."
_AWAY_SECS = 2.0
"A reboot, as a client sees it."
_TYPES = {
    "download-size": "x",
    "uid": "u",
    "pid": "u",
    "layers": "u",
    "layers-added": "u",
    "layers-removed": "u",
}
_ORDINARY: dict[type, str] = {bool: "b", int: "t", str: "s", list: "as"}


class World:
    """`speed` says how many times faster than real everything goes."""

    def __init__(self, scenario: Scenario, interfaces: dict[str, Interface], speed: float) -> None:
        self._scenario = scenario
        self._speed = speed
        self.exporter = Exporter(ROOT, interfaces, self._answer)
        self._deployments: dict[str, dict[str, Any]] = {"booted": _deployment("1.0", "a")}
        self._deployments["rollback"] = _deployment("0.9", "9")
        self._queued = False
        self._available = scenario.available
        self._known = scenario.available and scenario.manager.get("State") != "unmanaged"
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._ended: dict[str, asyncio.Event] = {}
        self._cancelled: set[str] = set()
        self._history: list[dict[str, Any]] = []
        self._reports: dict[str, list[tuple[ProgressReport, int]]] = {}
        "Who reads the progress of a job, with our end of the pipe, by the job's path."
        self._inhibitors: dict[int, list[Any]] = {}
        "By the descriptor of our end, which tells when the other is closed."
        self._paused: dict[str, Any] = {}
        self._generation = 1
        self._number = 0
        self._checked = (0, "")
        if scenario.staged:
            self._deployments["staged"] = _deployment(scenario.version, "b")
        for name, interface in interfaces.items():
            if name not in (DEPLOYMENT, JOB):
                values = {"Version": __version__, "ApiLevel": 1, "Backend": "ostree", "Mode": "check"}
                values["Features"] = [
                    "allow-downgrade",
                    *KINDS.values(),
                    "diff",
                    "inhibit",
                    "notes",
                    "pause",
                    "schedule-apply",
                ]
                known = {key: value for key, value in values.items() if key in interface.properties}
                self.exporter.put(ROOT, name, known)
        self._show()
        given = {
            key: value for key, value in scenario.manager.items() if key in interfaces[MANAGER].properties
        }
        self.exporter.put(ROOT, MANAGER, given)

    def begin(self) -> None:
        """Start what is at work from the beginning."""
        if self._scenario.busy:
            self._start("upgrade", "", self._script("upgrade"), {"uid": 0, "pid": 1, "name": "agent"})

    async def stop(self) -> None:
        for task in self._jobs.values():
            task.cancel()
        await asyncio.gather(*self._jobs.values(), return_exceptions=True)

    # Calls

    async def _answer(
        self, path: str, name: str, member: str, arguments: list[Any], interactive: bool
    ) -> tuple[list[Any], list[int]]:
        """Serve a call; what is not told here is answered with what says nothing."""
        if name == MANAGER and member in KINDS:
            *texts, options = arguments
            age = options.get("max-age", Variant("t", 0)).value
            if "." not in self._checked[1] and _now() - self._checked[0] <= age:
                return ["/"], []
            allowed = options.get("allow-downgrade", Variant("b", False)).value
            script = self._script(KINDS[member], downgrade=allowed)
            return [self._ask(KINDS[member], texts[0] if texts else "", script, interactive)], []
        if name == JOB and member == "OpenProgress":
            return [0], [self._open_progress(path)]
        if name == JOB and member == "OpenLog":
            return [0], [_memory({"uuid": self.exporter.value(path, JOB, "Uuid")})]
        if name == JOB:
            return await self._answer_of_job(path, member), []
        match member:
            case "GetStatus":
                return [json.dumps(self._host())], []
            case "GetHistory":
                limit = arguments[0].get("limit", Variant("u", 50)).value
                return [[_entries(item) for item in self._history[:limit]]], []
            case "GetNotes":
                return [self._scenario.notes if self._known or "staged" in self._deployments else ""], []
            case "Inhibit":
                return [0], [self._inhibit(arguments)]
            case "Simulate":
                action = self.exporter.value(ROOT, MANAGER, "NextAction")
                return [*action, self.exporter.value(ROOT, MANAGER, "BlockedBy")], []
            case "ListInhibitors":
                return [list(self._inhibitors.values())], []
            case "ScheduleApply":
                self._schedule({"when": arguments[0], "uid": os.getuid(), "soft-reboot": ""})
                return [], []
            case "CancelApply":
                self._schedule({})
                return [], []
            case "Pause":
                self._paused = {"since": _now(), "until": arguments[0], "uid": os.getuid()}
                self._show_gates()
                return [], []
            case "Resume":
                self._paused = {}
                self._show_gates()
                return [], []
            case "ClearFailures":
                return [[]], []
            case "Diff" | "ConfigDiff":
                return [0], [_memory(_document(member))]
            case _:
                return [], []

    def _schedule(self, made: dict[str, Any]) -> None:
        self.exporter.put(ROOT, MANAGER, {"ScheduledApply": _entries(made)})
        self.exporter.signal(MANAGER, "RebootScheduled", made.get("when", 0), "asked for by mock", {})

    def _inhibit(self, arguments: list[Any]) -> int:
        """Return the end of a pipe that holds an inhibitor for as long as it is open."""
        what, who, why, mode, options = arguments
        until = options.get("not-after", Variant("t", 0)).value
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._inhibitors[writer] = [what, who, why, mode, os.getuid(), until]
        # Of the end to write to, the kernel reports only that nobody reads any more.
        asyncio.get_running_loop().add_reader(writer, self._release, writer)
        self._show_gates()
        return reader

    def _release(self, writer: int) -> None:
        asyncio.get_running_loop().remove_reader(writer)
        os.close(writer)
        del self._inhibitors[writer]
        self._show_gates()

    def _show_gates(self) -> None:
        blocked = []
        for what, who, why, mode, uid, until in self._inhibitors.values():
            facts = {"what": what, "who": who, "why": why, "mode": mode, "uid": uid}
            blocked.append(["inhibitor", f"{who} inhibits {what}: {why}", until, _entries(facts)])
        if self._paused:
            actions = _entries({"actions": ["check"]})
            sentence = f"user {os.getuid()} has paused updates"
            blocked.append(["paused", sentence, self._paused["until"], actions])
        self.exporter.put(ROOT, MANAGER, {"BlockedBy": blocked, "Paused": _entries(self._paused)})

    def _open_progress(self, path: str) -> int:
        """Return the end to read from of a pipe with the progress of a job."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self._reports.setdefault(path, []).append((ProgressReport(writer, lambda _: None), writer))
        self._report(path)
        return reader

    def _report(self, path: str) -> None:
        """Write to whoever reads the progress of a job."""
        reports = self._reports.get(path, [])
        if not reports:
            return
        job = job_document(path, unpack_variants(self.exporter.values(path, JOB)))
        ended = job["state"] in ENDED
        for report, writer in reports:
            (report.end if ended else report.show)(job)
            if ended:
                os.close(writer)
        if ended:
            del self._reports[path]

    async def _answer_of_job(self, path: str, member: str) -> list[Any]:
        match member:
            case "Wait":
                await self._ended[path].wait()
                return [self.exporter.value(path, JOB, "State"), self.exporter.value(path, JOB, "Outcome")]
            case "Cancel":
                if not self.exporter.value(path, JOB, "Cancellable"):
                    raise BusError(
                        _ERROR + "NotCancellable", "the job has ended, or is past its last safe step"
                    )
                self._cancelled.add(path)
                self.exporter.put(path, JOB, {"State": "cancelling", "Cancellable": False})
            case _:
                pass
        return []

    def _script(self, kind: str, *, downgrade: bool = False) -> JobScript:
        script = self._scenario.job(kind)
        return replace(script, fail="") if downgrade and script.fail == "DowngradeRefused" else script

    def _ask(self, kind: str, argument: str, script: JobScript, interactive: bool) -> str:
        if interactive and script.refuse.endswith(".InteractiveAuthorizationRequired"):
            denied = "org.freedesktop.DBus.Error.AccessDenied"
            raise BusError(denied, "the authentication was dismissed")
        if script.refuse:
            raise BusError(_full(script.refuse), f"{script.message}\n{script.hint}".strip())
        active = self.exporter.value(ROOT, MANAGER, "ActiveJob")
        if active != "/":
            if self.exporter.value(active, JOB, "Kind") == kind:
                return str(active)  # who asks for the same joins it
            text = f"another job is at work ({active}, {self.exporter.value(active, JOB, 'Uuid')})"
            raise BusError(_ERROR + "Busy", f"{text}\nwait for its end, or cancel it")
        if kind == "apply" and "staged" not in self._deployments and not self._queued:
            raise BusError(_ERROR + "WrongState", "nothing is staged or queued that could be applied")
        requester = {"uid": os.getuid(), "pid": os.getpid(), "name": "mock"}
        return self._start(kind, argument, script, requester)

    # Jobs

    def _start(self, kind: str, argument: str, script: JobScript, requester: dict[str, Any]) -> str:
        self._number += 1
        path = f"{ROOT}/job/_{self._number}"
        self.exporter.put(
            path,
            JOB,
            {
                "Uuid": str(uuid.uuid4()),
                "Kind": kind,
                "Image": argument if kind == "switch" else "",
                "Transport": "registry" if kind == "switch" else "",
                "Requester": _entries(requester),
                "Created": _now(),
                "State": "running",
                "Phase": "prepare",
                "Progress": -1.0,
                "Cancellable": script.cancellable,
            },
        )
        self._ended[path] = asyncio.Event()
        self.exporter.signal(MANAGER, "JobNew", path, self.exporter.value(path, JOB, "Uuid"), kind)
        self.exporter.put(ROOT, MANAGER, {"ActiveJob": path, "State": _STATES.get(kind, "changing")})
        self._jobs[path] = asyncio.get_running_loop().create_task(self._run(path, kind, argument, script))
        return path

    async def _run(self, path: str, kind: str, argument: str, script: JobScript) -> None:
        begun, total = time.monotonic(), max(script.seconds, 0.01) / self._speed
        fraction = 0.0
        while fraction < 1.0:
            self._show_progress(path, script, fraction, total)
            self._report(path)
            await asyncio.sleep(min(_STEP_SECS, total / 10))
            fraction = min((time.monotonic() - begun) / total, 1.0)
            if path in self._cancelled:
                self._end(path, kind, "cancelled", {})
                return
            if script.fail and fraction >= script.at:
                self._end(path, kind, "failed", {}, script)
                return
        self.exporter.put(path, JOB, {"Cancellable": False})
        outcome = self._change(kind, argument)
        if script.bytes:
            outcome["bytes-fetched"] = script.bytes
            outcome["bytes-reused"] = script.bytes * 2
        self._end(path, kind, "done", outcome)
        if kind == "apply":
            await self._reboot()

    def _show_progress(self, path: str, script: JobScript, fraction: float, total: float) -> None:
        if not script.bytes:
            self.exporter.put(path, JOB, {"Phase": "resolve"})
            return
        fetched = min(fraction / 0.8, 1.0)
        steps = ((0.05, "resolve"), (0.8, "fetch"), (0.9, "import"), (2.0, "stage"))
        phase = next(name for end, name in steps if fraction < end)
        self.exporter.put(
            path,
            JOB,
            {
                "Phase": phase,
                "Progress": fetched,
                "Digest": "sha256:" + "b" * 64,
                "BytesDone": int(script.bytes * fetched),
                "BytesTotal": script.bytes,
                "BytesCached": script.bytes * 2,
                "StepsDone": int(script.layers * fetched),
                "StepsTotal": script.layers,
                "StepsCached": 30,
                "EtaUsec": int((1 - fetched) * total * 0.8 * 1e6),
                "Cancellable": script.cancellable and phase != "stage" and path not in self._cancelled,
            },
        )

    def _change(self, kind: str, argument: str) -> dict[str, Any]:
        """Do what a job of the kind does to the host; return its outcome."""
        changed = kind not in ("check", "apply")
        match kind:
            case "check":
                self._known = self._available
                self._checked = (_now(), "available" if self._known else "up-to-date")
                return {"changed": False, **(self._update() if self._known else {})}
            case "upgrade" if not self._available:
                return {"changed": False}
            case "upgrade" | "switch":
                update = self._update()
                staged = _deployment(self._scenario.version, "b")
                if kind == "switch":
                    staged["Image"] = update["image"] = argument
                self._deployments["staged"] = staged
                self._available = self._known = False
                self._generation += 1
                return {"changed": True, **update}
            case "rollback":
                self._queued = not self._queued
                self._deployments.pop("staged", None)
            case "pin" | "unpin":
                role = argument if argument in self._deployments else "booted"
                self._deployments[role]["Pinned"] = kind == "pin"
            case "drop":
                changed = self._deployments.pop(argument, None) is not None
            case "apply":
                return {"changed": False, "reboot": True}
            case _:
                pass
        self._generation += changed
        return {"changed": changed}

    def _end(
        self, path: str, kind: str, state: str, outcome: dict[str, Any], failure: JobScript | None = None
    ) -> None:
        if kind == "check" and failure:
            self._checked = (_now(), _full(failure.fail))
        error = (
            (_full(failure.fail), failure.message or "it was to fail", failure.hint)
            if failure
            else ("", "", "")
        )
        entries = _entries(
            {
                **{"changed": False, "reboot": False, "soft-reboot": False},
                **{"bytes-fetched": 0, "bytes-reused": 0},
                **outcome,
            }
        )
        final = {"State": state, "Finished": _now(), "Cancellable": False, "EtaUsec": 0, "Outcome": entries}
        final |= dict(zip(("ErrorName", "ErrorMessage", "ErrorHint"), error, strict=True))
        if state == "done":
            final["Progress"] = 1.0
        self.exporter.put(path, JOB, final)
        value: Callable[[str], Any] = lambda key: self.exporter.value(path, JOB, key)  # noqa: E731
        self.exporter.signal(MANAGER, "JobRemoved", path, value("Uuid"), kind, state, entries)
        if outcome.get("reboot"):
            facts = {"uuid": value("Uuid"), "soft-reboot": False, "uid": os.getuid()}
            details = {"job": Variant("o", path), **_entries(facts)}
            self.exporter.signal(MANAGER, "RebootScheduled", _now(), f"{kind}, asked for by mock", details)
        self._history.insert(0, self._remembered(path, outcome))
        self._show()
        self._report(path)
        self._ended[path].set()

    def _remembered(self, path: str, outcome: dict[str, Any]) -> dict[str, Any]:
        names = ("Uuid", "Kind", "Image", "Transport", "Summary", "State", "Created", "Finished")
        requester = self.exporter.value(path, JOB, "Requester")
        return {
            **{name.lower(): self.exporter.value(path, JOB, name) for name in names},
            "uid": requester["uid"].value,
            "requester": requester["name"].value,
            "changed": outcome.get("changed", False),
            "digest": outcome.get("digest", ""),
            "version": outcome.get("version", ""),
            "dropped": "",
            "reason": "",
            "bytes-fetched": outcome.get("bytes-fetched", 0),
            "bytes-reused": outcome.get("bytes-reused", 0),
            "warnings": outcome.get("warnings", []),
            "error-name": self.exporter.value(path, JOB, "ErrorName"),
            "error-message": self.exporter.value(path, JOB, "ErrorMessage"),
            "hint": self.exporter.value(path, JOB, "ErrorHint"),
        }

    async def _reboot(self) -> None:
        """Leave the bus for a moment, and be the next boot after it."""
        self.exporter.put(ROOT, MANAGER, {"State": "rebooting"})
        await asyncio.sleep(_STEP_SECS / self._speed)
        await self.exporter.leave()
        roles = self._deployments
        successor = roles.pop("staged", None) or roles.get("rollback")
        if successor is not None:
            roles["booted"], roles["rollback"] = successor, roles["booted"]
        self._queued = False
        self._generation += 1
        await asyncio.sleep(_AWAY_SECS / self._speed)
        self._show()
        await self.exporter.own()

    # What is shown

    def _show(self) -> None:
        """Make the objects say what the host is like now."""
        paths = {role: _path(entry) for role, entry in self._deployments.items()}
        for role, entry in self._deployments.items():
            self.exporter.put(paths[role], DEPLOYMENT, {**entry, "Role": role})
        staged = "staged" in self._deployments
        state = (
            "staged"
            if staged
            else "rollback-queued"
            if self._queued
            else "available"
            if self._known
            else "idle"
        )
        action = ["check", "regular check", _now() + 6 * 3600 * 10**6]
        self.exporter.put(
            ROOT,
            MANAGER,
            {
                "State": state,
                "StateSince": _now(),
                "Generation": self._generation,
                **{role.title(): paths.get(role, "/") for role in ("booted", "staged", "rollback")},
                "ActiveJob": "/",
                "RebootRequired": staged or self._queued,
                "LastCheck": self._checked[0],
                "LastCheckResult": self._checked[1],
                "AvailableUpdate": _entries(self._update()) if self._known else {},
                "NextAction": action,
            },
        )
        for path in self.exporter.paths(f"{ROOT}/deployment/"):
            if path not in paths.values():
                self.exporter.remove(path)

    def _update(self) -> dict[str, Any]:
        return {
            "image": IMAGE,
            "transport": "registry",
            "digest": "sha256:" + "b" * 64,
            "version": self._scenario.version,
            "created": _now() - 86_400_000_000,
            "download-size": self._scenario.job("upgrade").bytes,
            "has-notes": bool(self._scenario.notes),
        }

    def _host(self) -> dict[str, Any]:
        """Return the host as bootc's status has it."""
        roles = {role: _boot_entry(entry) for role, entry in self._deployments.items()}
        image = {"image": IMAGE, "transport": "registry"}
        return {
            "apiVersion": "org.containers.bootc/v1",
            "kind": "BootcHost",
            "metadata": {"name": "host"},
            "spec": {"bootOrder": "rollback" if self._queued else "default", "image": image},
            "status": {
                **{role: roles.get(role) for role in ("staged", "booted", "rollback")},
                "rollbackQueued": self._queued,
                "type": "bootcHost",
            },
        }


def _deployment(version: str, digit: str) -> dict[str, Any]:
    return {
        "Id": f"{digit * 64}.0",
        "Image": IMAGE,
        "Transport": "registry",
        "Digest": f"sha256:{digit * 64}",
        "Version": version,
        "Timestamp": 1_767_225_600_000_000,
        "Stateroot": "default",
        "Pinned": False,
        "Health": "good",
        "KernelArguments": ["root=LABEL=root", "rw", "quiet"],
    }


def _boot_entry(entry: dict[str, Any]) -> dict[str, Any]:
    reference = {"image": entry["Image"], "transport": entry["Transport"]}
    checksum, _, serial = entry["Id"].partition(".")
    return {
        "image": {
            "image": reference,
            "version": entry["Version"],
            "timestamp": "2026-01-01T00:00:00Z",
            "imageDigest": entry["Digest"],
            "architecture": "amd64",
        },
        "cachedUpdate": None,
        "incompatible": False,
        "pinned": entry["Pinned"],
        "softRebootCapable": False,
        "downloadOnly": False,
        "store": "ostreeContainer",
        "ostree": {"stateroot": "default", "checksum": checksum, "deploySerial": int(serial)},
        "composefs": None,
    }


def _path(entry: dict[str, Any]) -> str:
    return f"{ROOT}/deployment/_{entry['Id'].replace('.', '_')}"


def _document(member: str) -> dict[str, Any]:
    lists: dict[str, list[Any]] = {"added": [], "removed": [], "changed": []}
    if member == "ConfigDiff":
        changes = {"added": ["/etc/motd"], "modified": ["/etc/fstab"], "removed": [], "unreadable": []}
        return {"deployment": f"{'a' * 64}.0", **changes, "truncated": False}
    sides = {
        side: {"id": f"{digit * 64}.0", "image": IMAGE, "digest": f"sha256:{digit * 64}", "version": version}
        for side, digit, version in (("before", "a", "1.0"), ("after", "b", "2.0"))
    }
    kernel = {"name": "linux", "before": "6.1", "after": "6.2"}
    counts = ("files-added", "files-removed", "files-changed", "bytes-added", "bytes-removed")
    return {
        **sides,
        "kernel-arguments": {"added": ["quiet"], "removed": []},
        "packages": {"database": "rpm", **lists, "changed": [kernel]},
        "files": {**lists, "truncated": False},
        "totals": dict.fromkeys(counts, 0),
    }


def _memory(document: dict[str, Any]) -> int:
    descriptor = os.memfd_create("mock", os.MFD_CLOEXEC)
    os.write(descriptor, json.dumps(document).encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _full(name: str) -> str:
    return name if "." in name else _ERROR + name


def _entries(values: dict[str, Any]) -> dict[str, Variant]:
    return {key: Variant(_TYPES.get(key) or _ORDINARY[type(value)], value) for key, value in values.items()}


def _now() -> int:
    return time.time_ns() // 1000
