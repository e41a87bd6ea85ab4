"""The interface as Varlink describes it; methods and errors follow from the code that serves them. No I/O.

https://varlink.org/Interface-Definition. `python -m bootcd.varlink.description` prints it, which is how
`docs/io.bootcd.varlink` is made.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from bootcd.model.errors import BootcdError, all_errors
from bootcd.varlink.verbs import INTERACTIVE, VERBS

INTERFACE = "io.bootcd"
SERVICE_INTERFACE = "org.varlink.service"

_RIGHT = {INTERACTIVE: "?bool"}
READS: dict[str, Mapping[str, str]] = {
    "GetStatus": {},
    "GetHistory": {"limit": "?int"},
    "GetNotes": {},
    "ListJobs": {},
    "ListInhibitors": {},
    "Simulate": {
        "at": "?int",
        "metered": "?bool",
        "onBattery": "?bool",
        "batteryPercent": "?int",
        "powerSaver": "?bool",
    },
    "Wait": {"uuid": "string"},
    "Diff": {"before": "string", "after": "string"},
}
"Methods that need no right, with their parameters."
CHANGES: dict[str, Mapping[str, str]] = {
    "Cancel": {"uuid": "string", **_RIGHT},
    "GetLog": {"uuid": "string", **_RIGHT},
    "ConfigDiff": _RIGHT,
    "ClearFailures": {"digest": "?string", **_RIGHT},
    "ScheduleApply": {
        "when": "int",
        "softReboot": "?string",
        "ignoreInhibitors": "?bool",
        **_RIGHT,
    },
    "CancelApply": _RIGHT,
    "Pause": {"until": "?int", **_RIGHT},
    "Resume": _RIGHT,
    "Reload": _RIGHT,
}
"Those that do and start no job."

_ANSWERS = {
    "GetStatus": "status: Status",
    "GetHistory": "jobs: []Job",
    "GetNotes": "notes: string",
    "ListJobs": "jobs: []Job",
    "ListInhibitors": "inhibitors: []Inhibitor",
    "Simulate": "nextAction: NextAction, gates: []Gate",
    "Wait": "job: Job",
    "Diff": "document: object",
    "ConfigDiff": "document: object",
    "ClearFailures": "digests: []string",
    "GetLog": "log: string",
}

_MEANINGS = {
    "GetStatus": "The service and the host, from memory. With 'more', again after every change.",
    "GetHistory": "Ended jobs, newest first: 50, or up to 1000.",
    "GetNotes": "Release notes of the update that is available or staged, Markdown; empty if there are none.",
    "ListJobs": "The job at work and those that ended lately.",
    "Simulate": "What would be done unasked at a time, or now, in these surroundings; and what holds it up.",
    "ListInhibitors": "What holds up updates, and who asked for it. To ask for it takes the bus.",
    "Wait": "Answers when the job has ended, at once if it has. With 'more', also at every step before.",
    "Cancel": "Asks a job to stop. Needs no right if the caller started it.",
    "Diff": "Compares two deployments, named '<checksum>.<serial>', as 'bootcctl diff --json' does.",
    "GetLog": "What a job's worker has printed so far. Needs no right if the caller started the job.",
    "ConfigDiff": "Compares /etc with that of the image, as 'bootcctl config-diff --json' does.",
    "ClearFailures": "Lets versions that booted badly be taken again, or that one, and names them.",
    "ScheduleApply": "Reboots at a time into what is staged or queued then, and not before it.",
    "CancelApply": "Calls that off.",
    "Pause": "Does nothing unasked until a time, or until resumed. What is asked for is done all the same.",
    "Resume": "Ends a pause.",
    "Reload": "Reads the configuration again and looks at the host again.",
    "Check": "Asks the registry for a newer version of the tracked image.",
    "Upgrade": "Stages the newest version of the tracked image.",
    "Switch": "Tracks another image and stages it.",
    "Rollback": "Swaps the boot order of the booted and the rollback deployment.",
    "Apply": "Reboots into what is staged or queued.",
    "SetKernelArguments": "Stages the newest deployment once more with other kernel arguments.",
    "Pin": "Keeps a deployment whatever comes after it.",
    "Unpin": "Lets a deployment go like any other.",
    "Drop": "Takes a deployment off the host.",
    "OverlayUsr": "Mounts an overlay on /usr until the next reboot.",
}

OTHER_ERRORS = ("InteractiveAuthorizationRequired", "LimitsExceeded")
"Beside those of the product: the caller did not let a person be asked, and too much at once."

_HEAD = """\
# The update service of an image-based host, at /run/bootcd/io.bootcd.
#
# Methods that start a job answer once its worker's own checks have passed: a request that cannot work is an
# error of the method, never a failed job. Called with 'more' they answer again at every step of the job, the
# last time with its end. Who leaves takes no job along. Options, rights and errors are those of the methods
# of the same name on the bus, which docs/dbus.md describes; 'allowInteractiveAuthentication' lets a person be
# asked for a password. Times are microseconds since the epoch.
interface io.bootcd

type Error (name: string, message: string, hint: string, details: object)

# Why the signature policy let an image in.
type Signature (
  scope: string, verified: bool, method: string, key: ?string, signer: ?string, identity: ?string, time: ?int
)

# An image version that could be, or was, taken.
type Update (
  image: string, transport: string, digest: string, version: ?string, created: ?int, downloadSize: ?int,
  hasNotes: bool, signature: ?Signature
)

type Outcome (
  changed: bool, reboot: bool, softReboot: bool, bytesFetched: int, bytesReused: int, update: ?Update,
  dropped: ?string, reason: ?string, warnings: ?[]string
)

type Requester (uid: int, pid: int, name: string)

# 'progress' is from 0 to 1 and left out while unknown; bytes are compressed bytes of layers.
type Job (
  uuid: string, number: int, kind: string, image: ?string, transport: ?string, summary: ?string,
  state: string, requester: Requester, created: int, finished: ?int, phase: string, progress: ?float,
  bytesDone: int, bytesTotal: int, bytesCached: int, layersDone: int, layersTotal: int, layersCached: int,
  etaUsec: ?int, cancellable: bool, error: ?Error, outcome: ?Outcome
)

type NextAction (action: string, reason: string, when: ?int)

# 'what' is one or more of check, download, stage and reboot, 'mode' is block or delay.
type Inhibitor (what: []string, who: string, why: string, mode: string, uid: int, notAfter: ?int)

# What holds something up that would be done unasked, with the actions it holds up: check, stage or apply.
type Gate (name: string, reason: string, until: ?int, actions: []string)

# The verdict on this boot, see bootcd-health(8).
type BootHealth (
  good: bool, digest: string, version: ?string, time: int, problems: []string, warnings: []string,
  reason: ?string
)

# A version that booted badly and is not taken again unasked; 'state' is bad, rolling-back or rolled-back.
type FailedVersion (
  digest: string, image: ?string, version: ?string, time: int, reasons: []string, state: string
)

# The host reboots then, as somebody has asked for.
type ScheduledApply (when: int, uid: int, softReboot: ?string)

# Nothing is done unasked until then, or until resumed.
type Paused (since: int, until: ?int, uid: int)

# 'features' tells what works on this host, 'readOnlyReason' why nothing that is deployed can be changed.
# 'host' is what 'bootc status --json' prints; it has no members before the host was looked at.
type Status (
  version: string, backend: string, state: string, stateSince: int, generation: int, mode: string,
  rebootRequired: bool, activeJob: ?string, lastCheck: ?int, lastCheckResult: ?string, available: ?Update,
  features: []string, readOnlyReason: ?string, blockedBy: []Gate, inhibitors: []Inhibitor,
  bootHealth: ?BootHealth, failedVersions: []FailedVersion,
  scheduledApply: ?ScheduledApply, paused: ?Paused, nextAction: NextAction, host: object
)
"""

SERVICE_DESCRIPTION = """\
# The Varlink service interface is provided by every Varlink service.
interface org.varlink.service

method GetInfo() -> (vendor: string, product: string, version: string, url: string, interfaces: []string)

method GetInterfaceDescription(interface: string) -> (description: string)

error InterfaceNotFound (interface: string)

error MethodNotFound (method: string)

error MethodNotImplemented (method: string)

error InvalidParameter (parameter: string)

error PermissionDenied ()

error ExpectedMore ()
"""


def methods() -> dict[str, Mapping[str, str]]:
    """Return every method with its parameters and their types."""
    return {**READS, **CHANGES, **{name: verb.parameters() for name, verb in VERBS.items()}}


def description() -> str:
    """Return the interface definition of the service."""
    parts = [_HEAD]
    for name, parameters in methods().items():
        given = ", ".join(f"{key}: {kind}" for key, kind in parameters.items())
        answer = _ANSWERS.get(name, "job: Job" if name in VERBS else "")
        line = f"method {name}({given}) -> ({answer})"
        wrapped = textwrap.wrap(line, 110, subsequent_indent="  ", break_long_words=False)
        parts.append(f"# {_MEANINGS[name]}\n" + "\n".join(wrapped) + "\n")
    errors = {name: error.__doc__ for name, error in all_errors().items()}
    errors |= {BootcdError.name: None, **dict.fromkeys(OTHER_ERRORS)}
    parts += [f"error {name} (message: string, hint: string, details: object)\n" for name in sorted(errors)]
    return "\n".join(parts)


if __name__ == "__main__":
    print(description(), end="")  # noqa: T201 - what it is for
