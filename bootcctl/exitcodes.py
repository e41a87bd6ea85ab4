"""Exit codes of bootcctl, so that a script can tell kinds of failure apart.

The codes are part of the command's interface: they are listed in bootcctl(1) and in `--help`, and
never change their meaning. The kind of a failure is the last part of its bus error name.
"""

from __future__ import annotations

DONE = 0
FAILED = 1
USAGE = 2
BUSY = 3
DENIED = 4
WRONG_STATE = 5
HOST = 6
REGISTRY_UNREACHABLE = 7
NOT_FOUND = 8
CONTENT = 9
NO_SPACE = 10
CANCELLED = 11
INTERRUPTED = 12
UNREACHABLE = 13
NOTHING_NEW = 77
UNHEALTHY = 78
DETACHED = 130

MEANINGS: tuple[tuple[int, str], ...] = (
    (DONE, "done; for check: an update is available"),
    (FAILED, "any other failure"),
    (USAGE, "wrong option, argument or image reference"),
    (BUSY, "another job is at work, or somebody inhibits it"),
    (DENIED, "not allowed"),
    (WRONG_STATE, "makes no sense now, such as apply with nothing staged"),
    (HOST, "this host or this service cannot do it"),
    (
        REGISTRY_UNREACHABLE,
        "the registry does not answer or asks to wait, or a medium is not there; try again later",
    ),
    (NOT_FOUND, "no such image, job or deployment, or the registry refuses to give it"),
    (CONTENT, "what the registry or medium gave was refused"),
    (NO_SPACE, "not enough space on disk"),
    (CANCELLED, "the job was cancelled"),
    (INTERRUPTED, "the job was killed or stalled"),
    (UNREACHABLE, "the service cannot be reached"),
    (NOTHING_NEW, "check: nothing newer"),
    (UNHEALTHY, "health: this boot is bad"),
    (DETACHED, "left with Ctrl-C; a job that was started may go on"),
)

CODES = {
    "Failed": FAILED,
    "BackendFailed": FAILED,
    "InvalidConfig": FAILED,
    "HookFailed": FAILED,
    "FleetLockRefused": BUSY,
    "FleetLockUnavailable": FAILED,
    "InvalidArguments": USAGE,
    "InvalidImage": USAGE,
    "Busy": BUSY,
    "Inhibited": BUSY,
    "LimitsExceeded": BUSY,
    "AccessDenied": DENIED,
    "WrongState": WRONG_STATE,
    "StaleGeneration": WRONG_STATE,
    "NotCancellable": WRONG_STATE,
    "NotBootcSystem": HOST,
    "LocalModifications": HOST,
    "ReadOnlyHost": HOST,
    "Unsupported": HOST,
    "RegistryUnavailable": REGISTRY_UNREACHABLE,
    "RegistryRateLimited": REGISTRY_UNREACHABLE,
    "RegistryProtocol": REGISTRY_UNREACHABLE,
    "Truncated": REGISTRY_UNREACHABLE,
    "MediumUnavailable": REGISTRY_UNREACHABLE,
    "NoSuchJob": NOT_FOUND,
    "NoSuchDeployment": NOT_FOUND,
    "NotFound": NOT_FOUND,
    "RegistryAuth": NOT_FOUND,
    "RegistryDenied": NOT_FOUND,
    "RegistryTlsFailed": NOT_FOUND,
    "RegistryBlocked": DENIED,
    "DigestMismatch": CONTENT,
    "DowngradeRefused": CONTENT,
    "InvalidManifest": CONTENT,
    "InvalidLayer": CONTENT,
    "InvalidLayout": CONTENT,
    "NoMatchingPlatform": CONTENT,
    "NotBootable": CONTENT,
    "SignatureRejected": CONTENT,
    "OutOfSpace": NO_SPACE,
    "Cancelled": CANCELLED,
    "Interrupted": INTERRUPTED,
    "Stalled": INTERRUPTED,
    "Unreachable": UNREACHABLE,
    "Detached": DETACHED,
}

# What the bus itself, libraries and the service manager answer; dbus-specification, "Standard errors".
_BY_BUS_NAME = {
    "org.freedesktop.DBus.Error.AccessDenied": "AccessDenied",
    "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired": "AccessDenied",
    "org.freedesktop.DBus.Error.InvalidArgs": "InvalidArguments",
    "org.freedesktop.DBus.Error.LimitsExceeded": "LimitsExceeded",
    "org.freedesktop.DBus.Error.UnknownMethod": "Unsupported",
    "org.freedesktop.DBus.Error.UnknownInterface": "Unsupported",
    "org.freedesktop.DBus.Error.UnknownProperty": "Unsupported",
    "org.freedesktop.DBus.Error.UnknownObject": "NoSuchJob",
    "org.freedesktop.DBus.Error.ServiceUnknown": "Unreachable",
    "org.freedesktop.DBus.Error.NameHasNoOwner": "Unreachable",
    "org.freedesktop.DBus.Error.NoReply": "Unreachable",
    "org.freedesktop.DBus.Error.NoServer": "Unreachable",
    "org.freedesktop.DBus.Error.Disconnected": "Unreachable",
    "org.freedesktop.DBus.Error.Timeout": "Unreachable",
    "org.freedesktop.DBus.Error.TimedOut": "Unreachable",
}

_OWN_PREFIX = "org.bootcd1.Error."
_ACTIVATION_PREFIXES = ("org.freedesktop.DBus.Error.Spawn.", "org.freedesktop.systemd1.")


def error_kind(bus_name: str) -> str:
    """Return the kind of a full bus error name; `Failed` for one that is not known."""
    if bus_name.startswith(_OWN_PREFIX):
        return bus_name.removeprefix(_OWN_PREFIX)
    if bus_name.startswith(_ACTIVATION_PREFIXES):
        return "Unreachable"
    return _BY_BUS_NAME.get(bus_name, "Failed")


def exit_code(kind: str) -> int:
    """Return the exit code of a kind of error."""
    return CODES.get(kind, FAILED)


class Failure(Exception):
    """What ends a command: a kind, one sentence without a full stop, and what to do about it."""

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint

    @property
    def code(self) -> int:
        return exit_code(self.kind)

    def document(self) -> dict[str, str]:
        """Return the JSON form."""
        return {"name": self.kind, "message": self.message, "hint": self.hint}


def failure_from_bus(error_name: str, text: str) -> Failure:
    """Build a failure from a bus error, whose text is a sentence and, on a second line, a hint."""
    message, _, hint = text.partition("\n")
    kind = error_kind(error_name)
    if error_name.startswith(_OWN_PREFIX):
        return Failure(kind, message or "the service gave no reason", hint)
    if kind == "Unreachable":
        return Failure(
            kind, f"the bootcd service cannot be reached: {message}", "see: systemctl status bootcd.service"
        )
    if kind == "AccessDenied":
        return Failure(kind, message or "not allowed", hint or "run it as root, or ask an administrator")
    return Failure(kind, message or error_name, hint)
