"""The three interfaces of the service: their methods, and how each property follows from the model.

dbus/org.bootcd1.*.xml is the contract and says what every member means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dbus_fast import Variant

from bootcd.agent.snapshot import Snapshot
from bootcd.bus.entries import gate_entry, microseconds, outcome_entries, signature_entries, update_entries
from bootcd.bus.errors import bus_name, clean_text
from bootcd.bus.healthentries import boot_health_entries, failed_version_entries
from bootcd.bus.schema import Argument, Interface, Method, Property, Signal, variant
from bootcd.model.errors import ErrorInfo
from bootcd.model.host import BootEntry
from bootcd.model.job import JobKind, JobRecord, JobState
from bootcd.model.report import DeploymentDetails
from bootcd.model.right import CLEAR_FAILURES, INHIBIT, PAUSE, RIGHTS, Right
from bootcd.update.features import features, read_only_reason

ROOT_PATH = "/org/bootcd1"
JOB_ROOT = ROOT_PATH + "/job"
DEPLOYMENT_ROOT = ROOT_PATH + "/deployment"
API_LEVEL = 1

_OPTIONS = Argument("options", "a{sv}")
_JOB = Argument("job", "o")
_DEPLOYMENT = Argument("deployment", "s")
_UUID = {"job-uuid": "s"}
_EXPECTED = {"expect-generation": "t", **_UUID}
_BOOTING = {"ignore-inhibitors": "b", **_EXPECTED}
"Of what changes what is booted next, or when."


@dataclass(frozen=True, slots=True)
class ManagerView:
    """What Manager shows: the snapshot, and the paths only the bus knows."""

    snapshot: Snapshot
    active_job: str


@dataclass(frozen=True, slots=True)
class DeploymentView:
    entry: BootEntry
    role: str
    details: DeploymentDetails
    health: str


@dataclass(frozen=True, slots=True)
class JobView:
    record: JobRecord
    eta_secs: float = 0.0


def job_path(record: JobRecord) -> str:
    return f"{JOB_ROOT}/_{record.number}"


def deployment_path(entry: BootEntry | None) -> str:
    """Return the object path of a deployment, or "/" for one that has none."""
    if entry is None or entry.ostree is None:
        return "/"
    return f"{DEPLOYMENT_ROOT}/_{entry.ostree.checksum}_{entry.ostree.deploy_serial}"


def deployments(snapshot: Snapshot) -> Iterator[DeploymentView]:
    """Yield every deployment that has a path, with its role."""
    state = snapshot.host.status
    roles = (("staged", state.staged), ("booted", state.booted), ("rollback", state.rollback))
    for role, entry in (*roles, *(("other", entry) for entry in state.other_deployments)):
        if entry is not None and entry.ostree is not None:
            details = snapshot.details.get(entry.id, DeploymentDetails())
            yield DeploymentView(entry, role, details, _health(snapshot, entry))


def _health(snapshot: Snapshot, entry: BootEntry) -> str:
    digest = entry.image.image_digest if entry.image else ""
    return "bad" if digest in snapshot.failed else "good" if digest in snapshot.good else "unknown"


def reboot_told(record: JobRecord) -> tuple[int, str, dict[str, Variant]]:
    """Return what Manager.RebootScheduled says of a job that has had the host reboot."""
    who, request = record.requester, record.request
    asked_by = clean_text(who.name) or f"user {who.uid}"
    soft = record.outcome is not None and record.outcome.soft_reboot
    details = {
        "job": variant("o", job_path(record)),
        "uuid": variant("s", request.uuid),
        "soft-reboot": variant("b", soft),
        "uid": variant("u", who.uid),
    }
    return microseconds(record.finished), f"{request.kind}, asked for by {asked_by}", details


def reboot_planned(snapshot: Snapshot) -> tuple[int, str, dict[str, Variant]]:
    """Return what it says of a reboot nobody asked for, or of one that does not come after all."""
    if snapshot.reboot_at is None:
        return 0, "the host does not reboot for now", {}
    made = snapshot.appointment
    asked_for = f"asked for by user {made.requester.uid}" if made else snapshot.next_action.reason
    return microseconds(snapshot.reboot_at), asked_for, {}


def _requester(view: JobView) -> dict[str, Variant]:
    who = view.record.requester
    return {"uid": variant("u", who.uid), "pid": variant("u", who.pid), "name": variant("s", who.name)}


def _progress(view: JobView) -> float:
    fraction = view.record.fraction
    return -1.0 if fraction is None else fraction


def _layers(view: JobView) -> list[tuple[str, str, int, int]]:
    layers = view.record.progress.layers
    return [(layer.id, layer.kind, layer.bytes_done, layer.bytes_total) for layer in layers]


def _error(view: JobView) -> ErrorInfo:
    outcome = view.record.outcome
    return outcome.error if outcome and outcome.error else ErrorInfo(name="", message="")


def _error_name(view: JobView) -> str:
    name = _error(view).name
    return bus_name(name) if name else ""


def _check_result(view: ManagerView) -> str:
    result = view.snapshot.last_check_result
    return result if result in ("", "up-to-date", "available") or "." in result else bus_name(result)


def _next_action(view: ManagerView) -> tuple[str, str, int]:
    action = view.snapshot.next_action
    return action.action, action.reason, microseconds(action.when)


def _blocked_by(view: ManagerView) -> list[tuple[str, str, int, dict[str, Variant]]]:
    """Return all that holds something up: what kind, in words, until when, and facts."""
    return [
        (
            "inhibitor",
            inhibitor.sentence,
            microseconds(inhibitor.not_after),
            {
                "what": variant("s", inhibitor.names),
                "who": variant("s", inhibitor.who),
                "why": variant("s", inhibitor.why),
                "mode": variant("s", inhibitor.how.value),
                "uid": variant("u", inhibitor.uid),
            },
        )
        for inhibitor in view.snapshot.inhibitors
    ] + [gate_entry(gate) for gate in view.snapshot.gates]


def _scheduled_apply(view: ManagerView) -> dict[str, Variant]:
    if (made := view.snapshot.appointment) is None:
        return {}
    return {
        "when": variant("t", microseconds(made.when)),
        "uid": variant("u", made.requester.uid),
        "soft-reboot": variant("s", made.soft_reboot.value),
    }


def _paused(view: ManagerView) -> dict[str, Variant]:
    if (pause := view.snapshot.paused) is None:
        return {}
    return {
        "since": variant("t", microseconds(pause.since)),
        "until": variant("t", microseconds(pause.until)),
        "uid": variant("u", pause.uid),
    }


def _image_time(view: DeploymentView) -> int:
    created = view.entry.image.created if view.entry.image else None
    return microseconds(created) if created else 0


MANAGER = Interface.of(
    "org.bootcd1.Manager",
    Method(
        "Check",
        (_OPTIONS,),
        (_JOB,),
        options={"max-age": "t", "ignore-inhibitors": "b", **_UUID},
        right=RIGHTS[JobKind.CHECK],
    ),
    Method(
        "Upgrade",
        (_OPTIONS,),
        (_JOB,),
        options={
            "download-only": "b",
            "from-downloaded": "b",
            "tag": "s",
            "allow-downgrade": "b",
            "soft-reboot": "s",
            "apply": "b",
            "expect-digest": "s",
            **_BOOTING,
        },
        right=RIGHTS[JobKind.UPGRADE],
    ),
    Method(
        "Switch",
        (Argument("image", "s"), _OPTIONS),
        (_JOB,),
        options={
            "transport": "s",
            "download-only": "b",
            "retain": "b",
            "soft-reboot": "s",
            "apply": "b",
            "enforce-container-sigpolicy": "b",
            "expect-digest": "s",
            **_BOOTING,
        },
        right=RIGHTS[JobKind.SWITCH],
    ),
    Method(
        "Rollback",
        (_OPTIONS,),
        (_JOB,),
        options={"soft-reboot": "s", "apply": "b", **_BOOTING},
        right=RIGHTS[JobKind.ROLLBACK],
    ),
    Method(
        "Apply", (_OPTIONS,), (_JOB,), options={"soft-reboot": "s", **_BOOTING}, right=RIGHTS[JobKind.APPLY]
    ),
    Method(
        "ScheduleApply",
        (Argument("when", "t"), _OPTIONS),
        options={"soft-reboot": "s", "ignore-inhibitors": "b"},
        right=RIGHTS[JobKind.APPLY],
    ),
    Method("CancelApply", (_OPTIONS,), options={}, right=Right("apply")),
    Method(
        "SetKernelArguments",
        (_OPTIONS,),
        (_JOB,),
        options={"delete": "as", "replace": "as", "append": "as", "apply": "b", **_BOOTING},
        right=RIGHTS[JobKind.KERNEL_ARGUMENTS],
    ),
    Method("Pin", (_DEPLOYMENT, _OPTIONS), (_JOB,), options=_EXPECTED, right=RIGHTS[JobKind.PIN]),
    Method("Unpin", (_DEPLOYMENT, _OPTIONS), (_JOB,), options=_EXPECTED, right=RIGHTS[JobKind.UNPIN]),
    Method("Drop", (_DEPLOYMENT, _OPTIONS), (_JOB,), options=_EXPECTED, right=RIGHTS[JobKind.DROP]),
    Method(
        "OverlayUsr",
        (_OPTIONS,),
        (_JOB,),
        options={"read-only": "b", **_EXPECTED},
        right=RIGHTS[JobKind.USR_OVERLAY],
    ),
    Method("GetStatus", (_OPTIONS,), (Argument("status", "s"),), options={"wait-generation": "t"}),
    Method("GetHistory", (_OPTIONS,), (Argument("entries", "aa{sv}"),), options={"limit": "u"}),
    Method("GetNotes", (_OPTIONS,), (Argument("notes", "s"),), options={}),
    Method(
        "Diff",
        (Argument("from", "o"), Argument("to", "o"), _OPTIONS),
        (Argument("document", "h"),),
        options={},
    ),
    Method("ConfigDiff", (_OPTIONS,), (Argument("document", "h"),), options={}, right=Right("config-diff")),
    Method(
        "Inhibit",
        (
            Argument("what", "s"),
            Argument("who", "s"),
            Argument("why", "s"),
            Argument("mode", "s"),
            _OPTIONS,
        ),
        (Argument("inhibitor", "h"),),
        options={"not-after": "t"},
        right=INHIBIT,
    ),
    Method(
        "Simulate",
        (_OPTIONS,),
        (
            Argument("action", "s"),
            Argument("reason", "s"),
            Argument("when", "t"),
            Argument("gates", "a(ssta{sv})"),
        ),
        options={"at": "t", "metered": "b", "on-battery": "b", "battery-percent": "u", "power-saver": "b"},
    ),
    Method("ListInhibitors", outputs=(Argument("inhibitors", "a(ssssut)"),)),
    Method("Pause", (Argument("until", "t"), _OPTIONS), options={}, right=PAUSE),
    Method("Resume", (_OPTIONS,), options={}, right=PAUSE),
    Method(
        "ClearFailures",
        (Argument("digest", "s"), _OPTIONS),
        (Argument("digests", "as"),),
        options={},
        right=CLEAR_FAILURES,
    ),
    Method("Reload", right=Right("reload")),
    Signal("JobNew", (_JOB, Argument("uuid", "s"), Argument("kind", "s"))),
    Signal(
        "JobRemoved",
        (
            _JOB,
            Argument("uuid", "s"),
            Argument("kind", "s"),
            Argument("result", "s"),
            Argument("outcome", "a{sv}"),
        ),
    ),
    Signal("RebootScheduled", (Argument("when", "t"), Argument("reason", "s"), Argument("details", "a{sv}"))),
    Property("Version", "s", lambda view: view.snapshot.version, const=True),
    Property("ApiLevel", "u", lambda _: API_LEVEL, const=True),
    Property("Backend", "s", lambda view: view.snapshot.backend, const=True),
    Property("Features", "as", lambda view: list(features(view.snapshot.backend)), const=True),
    Property("State", "s", lambda view: view.snapshot.state),
    Property("StateSince", "t", lambda view: microseconds(view.snapshot.state_since)),
    Property("Generation", "t", lambda view: view.snapshot.generation),
    Property("Booted", "o", lambda view: deployment_path(view.snapshot.host.status.booted)),
    Property("Staged", "o", lambda view: deployment_path(view.snapshot.host.status.staged)),
    Property("Rollback", "o", lambda view: deployment_path(view.snapshot.host.status.rollback)),
    Property("ActiveJob", "o", lambda view: view.active_job),
    Property("RebootRequired", "b", lambda view: view.snapshot.reboot_required),
    Property("LastCheck", "t", lambda view: microseconds(view.snapshot.last_check)),
    Property("LastCheckResult", "s", _check_result),
    Property("AvailableUpdate", "a{sv}", lambda view: update_entries(view.snapshot.available)),
    Property("Mode", "s", lambda view: view.snapshot.mode),
    Property("NextAction", "(sst)", _next_action),
    Property(
        "ReadOnlyReason", "s", lambda view: read_only_reason(view.snapshot.state, view.snapshot.host.status)
    ),
    Property("BootHealth", "a{sv}", lambda view: boot_health_entries(view.snapshot.boot_health)),
    Property(
        "FailedVersions",
        "aa{sv}",
        lambda view: [failed_version_entries(failure) for failure in view.snapshot.failures],
    ),
    Property("ScheduledApply", "a{sv}", _scheduled_apply),
    Property("Paused", "a{sv}", _paused),
    Property("BlockedBy", "a(ssta{sv})", _blocked_by),
)

DEPLOYMENT = Interface.of(
    "org.bootcd1.Deployment",
    Property("Id", "s", lambda view: view.entry.id, const=True),
    Property("Role", "s", lambda view: view.role),
    Property("Image", "s", lambda view: view.entry.image.image.image if view.entry.image else ""),
    Property("Transport", "s", lambda view: view.entry.image.image.transport if view.entry.image else ""),
    Property("Digest", "s", lambda view: view.entry.image.image_digest if view.entry.image else ""),
    Property("Version", "s", lambda view: (view.entry.image and view.entry.image.version) or ""),
    Property("Timestamp", "t", _image_time),
    Property("Stateroot", "s", lambda view: view.entry.ostree.stateroot),
    Property("Pinned", "b", lambda view: view.entry.pinned),
    Property("Incompatible", "b", lambda view: view.entry.incompatible),
    Property("DownloadOnly", "b", lambda view: view.entry.download_only),
    Property("SoftRebootCapable", "b", lambda view: view.entry.soft_reboot_capable),
    Property("Health", "s", lambda view: view.health),
    Property("KernelArguments", "as", lambda view: list(view.details.kernel_arguments)),
    Property("Signature", "a{sv}", lambda view: signature_entries(view.details.trust), const=True),
)

JOB = Interface.of(
    "org.bootcd1.Job",
    Method("Cancel", (_OPTIONS,), options={}, right=Right("cancel")),
    Method("Wait", (_OPTIONS,), (Argument("result", "s"), Argument("outcome", "a{sv}")), options={}),
    Method("OpenProgress", outputs=(Argument("progress", "h"),)),
    Method("OpenLog", outputs=(Argument("log", "h"),), right=Right("job-log")),
    Property("Uuid", "s", lambda view: view.record.request.uuid, const=True),
    Property("Kind", "s", lambda view: view.record.request.kind.value, const=True),
    Property("Image", "s", lambda view: view.record.request.image, const=True),
    Property(
        "Transport",
        "s",
        lambda view: view.record.request.transport if view.record.request.image else "",
        const=True,
    ),
    Property("Summary", "s", lambda view: view.record.request.summary, const=True),
    Property("Requester", "a{sv}", _requester, const=True),
    Property("Created", "t", lambda view: microseconds(view.record.created), const=True),
    Property("Finished", "t", lambda view: microseconds(view.record.finished)),
    Property("State", "s", lambda view: view.record.state.value),
    Property("Phase", "s", lambda view: view.record.progress.phase.value),
    Property("Progress", "d", _progress),
    Property("BytesDone", "t", lambda view: view.record.progress.bytes_done),
    Property("BytesTotal", "t", lambda view: view.record.progress.bytes_total),
    Property("BytesCached", "t", lambda view: view.record.progress.bytes_cached),
    Property("StepsDone", "u", lambda view: view.record.progress.steps_done),
    Property("StepsTotal", "u", lambda view: view.record.progress.steps_total),
    Property("StepsCached", "u", lambda view: view.record.progress.steps_cached),
    Property("Digest", "s", lambda view: view.record.progress.digest),
    Property("Layers", "a(sstt)", _layers),
    Property("EtaUsec", "t", lambda view: int(min(view.eta_secs, 1e9) * 1_000_000)),
    Property(
        "Cancellable",
        "b",
        lambda view: view.record.state is JobState.RUNNING and view.record.progress.cancellable,
    ),
    Property("ErrorName", "s", _error_name),
    Property("ErrorMessage", "s", lambda view: _error(view).message),
    Property("ErrorHint", "s", lambda view: _error(view).hint),
    Property("Outcome", "a{sv}", lambda view: outcome_entries(view.record.outcome)),
)
