"""JSON documents bootcctl prints, made from what the bus says. Pure.

Keys are the names of the bus in kebab-case, times are microseconds since the epoch (0: never or
unknown), sizes are bytes. The shapes are described in bootcctl(1) and only ever grow.
"""

from __future__ import annotations

from typing import Any

from bootcctl.exitcodes import error_kind

JOB_PREFIX = "/org/bootcd1/job/_"
DEPLOYMENT_PREFIX = "/org/bootcd1/deployment/_"

ENDED = ("done", "failed", "cancelled", "interrupted")


def job_document(path: str, properties: dict[str, Any]) -> dict[str, Any]:
    """Make the document of a job from the properties of its object."""
    get = properties.get
    name = get("ErrorName", "")
    number = path.removeprefix(JOB_PREFIX)
    return {
        "number": int(number) if number.isascii() and number.isdigit() else 0,
        "uuid": get("Uuid", ""),
        "kind": get("Kind", ""),
        "image": get("Image", ""),
        "transport": get("Transport", ""),
        "summary": get("Summary", ""),
        "requester": get("Requester", {}),
        "created": get("Created", 0),
        "finished": get("Finished", 0),
        "state": get("State", ""),
        "phase": get("Phase", ""),
        "progress": get("Progress", -1.0),
        "bytes-done": get("BytesDone", 0),
        "bytes-total": get("BytesTotal", 0),
        "bytes-cached": get("BytesCached", 0),
        "steps-done": get("StepsDone", 0),
        "steps-total": get("StepsTotal", 0),
        "steps-cached": get("StepsCached", 0),
        "digest": get("Digest", ""),
        "layers": [
            {"id": id, "kind": kind, "bytes-done": done, "bytes-total": total}
            for id, kind, done, total in get("Layers", [])
        ],
        "eta-usec": get("EtaUsec", 0),
        "cancellable": get("Cancellable", False),
        "error": {"name": error_kind(name), "message": get("ErrorMessage", ""), "hint": get("ErrorHint", "")}
        if name
        else None,
        "outcome": get("Outcome", {}),
    }


def ended_job_properties(entry: dict[str, Any]) -> dict[str, Any]:
    """Turn an entry of the history into the properties its job object had."""
    outcome = {
        key: entry[key]
        for key in (
            "changed",
            "bytes-fetched",
            "bytes-reused",
            "digest",
            "version",
            "dropped",
            "reason",
            "warnings",
        )
        if entry.get(key)
    }
    return {
        "Uuid": entry.get("uuid", ""),
        "Kind": entry.get("kind", ""),
        "Image": entry.get("image", ""),
        "Transport": entry.get("transport", ""),
        "Summary": entry.get("summary", ""),
        "Requester": {"uid": entry.get("uid", 0), "name": entry.get("requester", "")},
        "Created": entry.get("created", 0),
        "Finished": entry.get("finished", 0),
        "State": entry.get("state", "interrupted"),
        "ErrorName": entry.get("error-name", ""),
        "ErrorMessage": entry.get("error-message", ""),
        "ErrorHint": entry.get("hint", ""),
        "Outcome": outcome,
    }


def kargs_document(properties: dict[str, Any]) -> dict[str, Any]:
    """Make the document of a deployment's kernel arguments from the properties of its object."""
    get = properties.get
    return {
        "id": get("Id", ""),
        "role": get("Role", ""),
        "kernel-arguments": get("KernelArguments", []),
    }


def service_document(
    properties: dict[str, Any],
    active_job: dict[str, Any] | None = None,
    signatures: dict[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Make the document of the service, of the same shape as the file service.json.

    `signatures` are the properties Signature of deployments, by the deployment's id.
    """
    get = properties.get
    action, reason, when = get("NextAction", ("", "", 0))
    return {
        "version": get("Version", ""),
        "backend": get("Backend", ""),
        "state": get("State", ""),
        "state-since": get("StateSince", 0),
        "generation": get("Generation", 0),
        "booted": deployment_id(get("Booted", "/")),
        "staged": deployment_id(get("Staged", "/")),
        "rollback": deployment_id(get("Rollback", "/")),
        "active-job": {key: active_job[key] for key in ("uuid", "number", "kind")} if active_job else None,
        "reboot-required": get("RebootRequired", False),
        "last-check": get("LastCheck", 0),
        "last-check-result": get("LastCheckResult", ""),
        "available": get("AvailableUpdate") or None,
        "mode": get("Mode", ""),
        "scheduled-apply": get("ScheduledApply") or None,
        "paused": get("Paused") or None,
        "next-action": {"action": action, "reason": reason, "when": when},
        "signatures": signatures or {},
    }


def deployment_id(path: str) -> str:
    if not path.startswith(DEPLOYMENT_PREFIX):
        return ""
    return path.removeprefix(DEPLOYMENT_PREFIX).replace("_", ".", 1)
