"""Files that say what the service says, for whoever cannot or need not ask over the bus.

    <runtime>/status.json    the host, byte for byte what `bootc status --json` prints
    <runtime>/service.json   the service itself, keys as below

    version, backend, state, mode, last-check-result   text, as the properties of org.bootcd1.Manager
    state-since, last-check                            microseconds since the epoch, 0 for never
    generation                                         number
    booted, staged, rollback                           deployment id `<checksum>.<serial>`, empty for none
    reboot-required                                    boolean
    active-job              null, or: uuid, number, kind
    available               null, or: image, transport, digest, version, created,
                            download-size (bytes, -1 unknown), has-notes
    scheduled-apply         null, or: when, uid
    paused                  null, or: since, until (0 until resumed), uid
    next-action             action (empty for none), reason, when
    signatures              of booted, staged and rollback, by id: scope, verified, method, key, signer,
                            identity, time (microseconds, 0 unknown); empty if another program deployed it

Both are world-readable, replaced as a whole, and only when their content changed.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bootcd.agent.snapshot import Snapshot
from bootcd.host.files import write_atomic
from bootcd.model.errors import BackendFailed
from bootcd.model.host import BootEntry
from bootcd.model.job import JobRecord
from bootcd.model.moment import microseconds
from bootcd.model.trust import Verdict

log = logging.getLogger(__name__)


def render_service(snapshot: Snapshot, active: JobRecord | None) -> bytes:
    """Return the content of service.json."""
    host, update, action = snapshot.host.status, snapshot.available, snapshot.next_action
    paused, made = snapshot.paused, snapshot.appointment
    document: dict[str, Any] = {
        "version": snapshot.version,
        "backend": snapshot.backend,
        "state": snapshot.state,
        "state-since": _usec(snapshot.state_since),
        "generation": snapshot.generation,
        "booted": _id(host.booted),
        "staged": _id(host.staged),
        "rollback": _id(host.rollback),
        "reboot-required": snapshot.reboot_required,
        "active-job": active
        and {"uuid": active.request.uuid, "number": active.number, "kind": active.request.kind.value},
        "last-check": _usec(snapshot.last_check),
        "last-check-result": snapshot.last_check_result,
        "available": update
        and {
            "image": update.image,
            "transport": update.transport,
            "digest": update.digest,
            "version": update.version,
            "created": _usec(update.created),
            "download-size": update.download_bytes,
            "has-notes": update.has_notes,
        },
        "mode": snapshot.mode,
        "scheduled-apply": made and {"when": _usec(made.when), "uid": made.requester.uid},
        "paused": paused and {"since": _usec(paused.since), "until": _usec(paused.until), "uid": paused.uid},
        "next-action": {"action": action.action, "reason": action.reason, "when": _usec(action.when)},
        "signatures": {
            id: _signature(snapshot.details[id].trust)
            for id in map(_id, (host.booted, host.staged, host.rollback))
            if id in snapshot.details
        },
    }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _signature(verdict: Verdict | None) -> dict[str, Any]:
    if verdict is None:
        return {}
    facts = verdict.model_dump(exclude={"time"})
    return facts | {"verified": verdict.verified, "time": _usec(verdict.time)}


@dataclass(frozen=True, slots=True)
class _Content:
    data: bytes
    mode: int
    durable: bool


class Publication:
    """Writes the newest content offered for each file, off the loop and one at a time."""

    def __init__(self) -> None:
        self._offered: dict[Path, _Content] = {}
        self._written: dict[Path, bytes] = {}
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    def offer(self, path: Path, data: bytes, *, mode: int = 0o644, durable: bool = False) -> None:
        if self._written.get(path) == data:
            self._offered.pop(path, None)
        else:
            self._offered[path] = _Content(data, mode, durable)
            self._idle.clear()
            self._changed.set()

    async def written(self, path: Path) -> None:
        """Return once what was offered for a file is there. Raises BackendFailed if it cannot be written."""
        await self._idle.wait()
        if path not in self._written:
            raise BackendFailed(f"{path} cannot be written", hint="see: journalctl -u bootcd.service")

    async def run(self) -> None:
        """Write what is offered until closed; the last offers are written."""
        while not self._closed or self._offered:
            await self._changed.wait()
            self._changed.clear()
            while self._offered:
                await self._write(*self._offered.popitem())
            self._idle.set()

    def close(self) -> None:
        """End `run`."""
        self._closed = True
        self._changed.set()

    async def _write(self, path: Path, content: _Content) -> None:
        try:
            await asyncio.to_thread(
                write_atomic, path, content.data, mode=content.mode, durable=content.durable
            )
        except OSError as error:
            # As it is until the next offer.
            self._written.pop(path, None)
            log.warning("cannot write %s, proceeding: %s", path, error.strerror)
        else:
            self._written[path] = content.data


def _id(entry: BootEntry | None) -> str:
    return entry.id if entry else ""


def _usec(when: datetime | None) -> int:
    return microseconds(when) if when else 0
