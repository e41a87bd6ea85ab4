"""Jobs, updates and the service as JSON objects of the interface. No I/O.

What is not known is left out. Times are microseconds since the epoch.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from bootcd.agent.snapshot import Snapshot
from bootcd.model.errors import ErrorInfo
from bootcd.model.health import BootHealth, FailedBoot
from bootcd.model.job import ImageUpdate, JobRecord, JobState, Outcome
from bootcd.model.moment import microseconds
from bootcd.model.trust import Verdict
from bootcd.update.appointment import Appointment
from bootcd.update.features import features, read_only_reason
from bootcd.update.gates import Gate
from bootcd.update.inhibit import Inhibitor
from bootcd.update.pause import Pause
from bootcd.update.planner import Plan

Document = dict[str, Any]


def job(record: JobRecord, eta_secs: float = 0.0) -> Document:
    request, progress, outcome = record.request, record.progress, record.outcome
    return _known(
        uuid=request.uuid,
        number=record.number,
        kind=request.kind.value,
        image=request.image or None,
        transport=request.transport if request.image else None,
        summary=request.summary or None,
        state=record.state.value,
        requester={
            "uid": record.requester.uid,
            "pid": record.requester.pid,
            "name": record.requester.name,
        },
        created=_usec(record.created),
        finished=_usec(record.finished),
        phase=progress.phase.value,
        progress=record.fraction,
        bytesDone=progress.bytes_done,
        bytesTotal=progress.bytes_total,
        bytesCached=progress.bytes_cached,
        layersDone=progress.steps_done,
        layersTotal=progress.steps_total,
        layersCached=progress.steps_cached,
        etaUsec=int(eta_secs * 1e6) if 0 < eta_secs < 1e9 else None,
        cancellable=record.state is JobState.RUNNING and progress.cancellable,
        error=error(outcome.error) if outcome and outcome.error else None,
        outcome=_outcome(outcome) if outcome else None,
    )


def error(info: ErrorInfo) -> Document:
    return {"name": info.name, "message": info.message, "hint": info.hint, "details": dict(info.fields)}


def status(snapshot: Snapshot) -> Document:
    action = snapshot.next_action
    return _known(
        version=snapshot.version,
        backend=snapshot.backend,
        state=snapshot.state,
        stateSince=_usec(snapshot.state_since),
        generation=snapshot.generation,
        mode=snapshot.mode,
        rebootRequired=snapshot.reboot_required,
        activeJob=snapshot.active_job or None,
        lastCheck=_usec(snapshot.last_check),
        lastCheckResult=snapshot.last_check_result or None,
        available=update(snapshot.available),
        features=list(features(snapshot.backend)),
        readOnlyReason=read_only_reason(snapshot.state, snapshot.host.status) or None,
        blockedBy=[gate(shut) for shut in snapshot.gates],
        inhibitors=[inhibitor(held) for held in snapshot.inhibitors],
        bootHealth=boot_health(snapshot.boot_health),
        failedVersions=[failed_version(failure) for failure in snapshot.failures],
        scheduledApply=scheduled_apply(snapshot.appointment),
        paused=paused(snapshot.paused),
        nextAction=_known(action=action.action, reason=action.reason, when=_usec(action.when)),
        host=json.loads(snapshot.host_json) if snapshot.host_json else {},
    )


def plan(planned: Plan) -> Document:
    return _known(action=planned.action.value, reason=planned.reason, when=_usec(planned.not_before))


def gate(shut: Gate) -> Document:
    return _known(
        name=shut.name,
        reason=shut.reason,
        until=_usec(shut.ends),
        actions=[action.value for action in shut.actions],
    )


def boot_health(health: BootHealth | None) -> Document | None:
    if health is None:
        return None
    return _known(
        good=health.good,
        digest=health.digest,
        version=health.version or None,
        time=_usec(health.time),
        problems=list(health.problems),
        warnings=list(health.warnings),
        reason=health.reason or None,
    )


def failed_version(failure: FailedBoot) -> Document:
    return _known(
        digest=failure.digest,
        image=failure.image or None,
        version=failure.version or None,
        time=_usec(failure.time),
        reasons=list(failure.reasons),
        state=failure.state.value,
    )


def scheduled_apply(made: Appointment | None) -> Document | None:
    if made is None:
        return None
    soft = made.soft_reboot.value or None
    return _known(when=_usec(made.when), uid=made.requester.uid, softReboot=soft)


def paused(pause: Pause | None) -> Document | None:
    if pause is None:
        return None
    return _known(since=_usec(pause.since), until=_usec(pause.until), uid=pause.uid)


def inhibitor(held: Inhibitor) -> Document:
    return _known(
        what=[item.value for item in held.what],
        who=held.who,
        why=held.why,
        mode=held.how.value,
        uid=held.uid,
        notAfter=_usec(held.not_after),
    )


def update(found: ImageUpdate | None) -> Document | None:
    if found is None:
        return None
    return _known(
        image=found.image,
        transport=found.transport,
        digest=found.digest,
        version=found.version or None,
        created=_usec(found.created),
        downloadSize=found.download_bytes if found.download_bytes >= 0 else None,
        hasNotes=found.has_notes,
        signature=_signature(found.trust),
    )


def _outcome(outcome: Outcome) -> Document:
    return _known(
        changed=outcome.changed,
        reboot=outcome.reboot,
        softReboot=outcome.soft_reboot,
        bytesFetched=outcome.bytes_fetched,
        bytesReused=outcome.bytes_reused,
        update=update(outcome.update),
        dropped=outcome.dropped or None,
        reason=outcome.reason or None,
        warnings=list(outcome.warnings) or None,
    )


def _signature(verdict: Verdict | None) -> Document | None:
    if verdict is None:
        return None
    return _known(
        scope=verdict.scope,
        verified=verdict.verified,
        method=verdict.method,
        key=verdict.key or None,
        signer=verdict.signer or None,
        identity=verdict.identity or None,
        time=_usec(verdict.time),
    )


def _usec(when: datetime | None) -> int | None:
    return microseconds(when) if when else None


def _known(**fields: Any) -> Document:
    return {name: value for name, value in fields.items() if value is not None}
