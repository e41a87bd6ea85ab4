"""Dictionaries and tuples in which the bus carries what has many facts. No I/O.

dbus/org.bootcd1.*.xml says what every key means.
"""

from __future__ import annotations

from datetime import datetime

from dbus_fast import Variant

from bootcd.bus.errors import bus_name, clean_text
from bootcd.bus.schema import variant
from bootcd.model import moment
from bootcd.model.job import ImageChanges, ImageUpdate, JobRecord, Outcome
from bootcd.model.trust import Verdict
from bootcd.update.gates import Gate
from bootcd.update.inhibit import Inhibitor


def microseconds(when: datetime | None) -> int:
    """Return microseconds since the epoch; 0 for an unknown time and for one before it."""
    return max(0, moment.microseconds(when)) if when else 0


def outcome_entries(outcome: Outcome | None) -> dict[str, Variant]:
    """Return Job.Outcome: empty until the end."""
    if outcome is None:
        return {}
    entries = {
        "changed": variant("b", outcome.changed),
        "reboot": variant("b", outcome.reboot),
        "soft-reboot": variant("b", outcome.soft_reboot),
        "bytes-fetched": variant("t", outcome.bytes_fetched),
        "bytes-reused": variant("t", outcome.bytes_reused),
        **update_entries(outcome.update),
    }
    if outcome.warnings:
        entries["warnings"] = variant("as", list(outcome.warnings))
    if outcome.dropped:
        entries["dropped"] = variant("s", outcome.dropped)
    for name, value in (outcome.error.fields if outcome.error else {}).items():
        entries[f"error-{name}"] = _fact(value)
    return entries


def update_entries(update: ImageUpdate | None) -> dict[str, Variant]:
    """Return an image version as Manager.AvailableUpdate and Job.Outcome carry it; empty for none."""
    if update is None:
        return {}
    entries = {
        "image": variant("s", update.image),
        "transport": variant("s", update.transport),
        "digest": variant("s", update.digest),
        "version": variant("s", update.version),
        "created": variant("t", microseconds(update.created)),
        "download-size": variant("x", update.download_bytes),
        "has-notes": variant("b", update.has_notes),
        **_change_entries(update.changes),
    }
    if update.trust is not None:
        entries["signature"] = variant("a{sv}", signature_entries(update.trust))
    return entries


def _change_entries(changes: ImageChanges | None) -> dict[str, Variant]:
    if changes is None:
        return {}
    return {
        "from-digest": variant("s", changes.from_digest),
        "from-version": variant("s", changes.from_version),
        "layers": variant("u", changes.layers),
        "layers-added": variant("u", changes.added_layers),
        "bytes-added": variant("t", changes.added_bytes),
        "layers-removed": variant("u", changes.removed_layers),
        "bytes-removed": variant("t", changes.removed_bytes),
    }


def signature_entries(verdict: Verdict | None) -> dict[str, Variant]:
    """Return why an image was let in; empty where nobody knows."""
    if verdict is None:
        return {}
    return {
        "scope": variant("s", verdict.scope),
        "verified": variant("b", verdict.verified),
        "method": variant("s", verdict.method),
        "key": variant("s", verdict.key),
        "signer": variant("s", verdict.signer),
        "identity": variant("s", verdict.identity),
        "time": variant("t", microseconds(verdict.time)),
    }


def history_entry(record: JobRecord) -> dict[str, Variant]:
    """Return one ended job as Manager.GetHistory lists it."""
    outcome = record.outcome or Outcome(state=record.state)
    error = outcome.error
    return {
        "uuid": variant("s", record.request.uuid),
        "kind": variant("s", record.request.kind.value),
        "image": variant("s", record.request.image),
        "transport": variant("s", record.request.transport if record.request.image else ""),
        "summary": variant("s", record.request.summary),
        "state": variant("s", record.state.value),
        "created": variant("t", microseconds(record.created)),
        "finished": variant("t", microseconds(record.finished)),
        "uid": variant("u", record.requester.uid),
        "requester": variant("s", record.requester.name),
        "changed": variant("b", outcome.changed),
        "digest": variant("s", outcome.update.digest if outcome.update else ""),
        "version": variant("s", outcome.update.version if outcome.update else ""),
        "dropped": variant("s", outcome.dropped),
        "reason": variant("s", outcome.reason),
        "bytes-fetched": variant("t", outcome.bytes_fetched),
        "bytes-reused": variant("t", outcome.bytes_reused),
        "warnings": variant("as", list(outcome.warnings)),
        "error-name": variant("s", bus_name(error.name) if error else ""),
        "error-message": variant("s", error.message if error else ""),
        "hint": variant("s", error.hint if error else ""),
    }


def _fact(value: str | int | bool) -> Variant:
    match value:
        case bool():
            return variant("b", value)
        case int():
            return variant("x", value)
        case _:
            return variant("s", value)


def gate_entry(gate: Gate) -> tuple[str, str, int, dict[str, Variant]]:
    """Return a gate as Manager.BlockedBy lists it."""
    actions = variant("as", [action.value for action in gate.actions])
    return gate.name, clean_text(gate.reason), microseconds(gate.ends), {"actions": actions}


def inhibitor_entry(inhibitor: Inhibitor) -> tuple[str, str, str, str, int, int]:
    """Return an inhibitor as Manager.ListInhibitors lists it."""
    names, until = inhibitor.names, microseconds(inhibitor.not_after)
    return (
        names,
        clean_text(inhibitor.who),
        clean_text(inhibitor.why),
        inhibitor.how.value,
        inhibitor.uid,
        until,
    )
