"""What the stand-in shows and does: built-in scenarios by name, or a file of the same keys.

    [manager]             properties of org.bootcd1.Manager to begin with, such as Mode = "stage"
    staged = true         whether an update is staged, and ...
    available = true      ... whether a check finds one
    busy = true           whether an upgrade is at work from the beginning, started by somebody else
    notes = "..."         release notes of the update
    version = "2.0"       of the update

    [jobs.upgrade]        what becomes of a job of the kind; of every other kind with [jobs.any]
    seconds = 8           how long it takes
    bytes = 310000000     how much it fetches, in how many layers
    layers = 14
    cancellable = true
    refuse = "Busy"       the method fails with this error, and there is no job; or
    fail = "OutOfSpace"   the job fails with it, when it is so far:
    at = 0.4
    message = "..."       of either error
    hint = "..."

The file is TOML, or JSON with the same structure.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from bootcctl.exitcodes import Failure

_LIMIT = 1 << 20


@dataclass(frozen=True)
class JobScript:
    seconds: float = 8.0
    bytes: int = 310_000_000
    layers: int = 14
    cancellable: bool = True
    refuse: str = ""
    fail: str = ""
    at: float = 0.4
    message: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Scenario:
    available: bool = False
    staged: bool = False
    busy: bool = False
    notes: str = ""
    version: str = "2.0"
    manager: dict[str, Any] = field(default_factory=dict)
    jobs: dict[str, JobScript] = field(default_factory=dict)

    def job(self, kind: str) -> JobScript:
        """Return what becomes of a job of a kind; those that fetch nothing are short."""
        if kind in self.jobs or "any" in self.jobs:
            return self.jobs.get(kind) or self.jobs["any"]
        if kind in ("upgrade", "switch"):
            return JobScript()
        return JobScript(seconds=1.5, bytes=0, layers=0)


_NOTES = "# Version 2.0\n\n- A newer kernel.\n- Fewer faults.\n"
_NO_ROOM = {
    "fail": "OutOfSpace",
    "message": "there is no room for the image: 3.1 GB are needed and 1.2 GB free",
    "hint": "delete what is not needed below /var",
}
_NO_REGISTRY = {
    "fail": "RegistryUnavailable",
    "message": "registry.example does not answer",
    "hint": "check the network",
    "seconds": 3,
    "bytes": 0,
    "at": 1,
}
_OLDER = {
    "fail": "DowngradeRefused",
    "message": "the newest version of registry.example/os:stable is 0.8, older than 1.0, which is booted",
    "hint": "to take it all the same: bootcctl upgrade --allow-downgrade",
    "at": 0,
}
_DENIED = {
    "refuse": "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
    "message": "an administrator has to authenticate",
    "hint": "allow interactive authorisation in the call",
}

BUILT_IN: dict[str, tuple[str, dict[str, Any]]] = {
    "idle": ("the host is up to date", {}),
    "available": ("a check finds an update, and an upgrade takes it", {"available": True, "notes": _NOTES}),
    "staged": ("an update waits for a reboot", {"staged": True, "notes": _NOTES}),
    "busy": (
        "somebody else's upgrade is at work, for minutes",
        {"available": True, "busy": True, "jobs": {"upgrade": {"seconds": 180}}},
    ),
    "slow": (
        "as available, with five minutes of download",
        {"available": True, "jobs": {"upgrade": {"seconds": 300, "bytes": 4_100_000_000, "layers": 68}}},
    ),
    "failing": (
        "checks do not reach the registry, upgrades run out of space",
        {"available": True, "jobs": {"upgrade": _NO_ROOM, "switch": _NO_ROOM, "check": _NO_REGISTRY}},
    ),
    "older": (
        "the registry hands out an older version, which is taken only where that is allowed",
        {"available": True, "version": "0.8", "jobs": {"upgrade": _OLDER}},
    ),
    "denied": (
        "everything needs a password, and where one may be asked for, the question is dismissed",
        {"available": True, "jobs": {"any": _DENIED}},
    ),
    "unmanaged": (
        "the host was not booted from an image",
        {
            "manager": {"State": "unmanaged"},
            "jobs": {
                "any": {"refuse": "NotBootcSystem", "message": "this host was not booted from an image"}
            },
        },
    ),
}


def load_scenario(name: str, script: str) -> Scenario:
    """Return a built-in scenario, or that of a file if one is named. Raises Failure."""
    if not script:
        if name not in BUILT_IN:
            raise Failure("InvalidArguments", f"there is no scenario {name}", f"one of {', '.join(BUILT_IN)}")
        return parse_scenario(BUILT_IN[name][1], f"scenario {name}")
    try:
        with Path(script).open("rb") as file:
            text = file.read(_LIMIT).decode()
        document = json.loads(text) if script.endswith(".json") else tomllib.loads(text)
    except OSError as error:
        raise Failure("InvalidArguments", f"{script} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise Failure("InvalidArguments", f"{script} is not what its name says: {error}") from None
    return parse_scenario(document, script)


def parse_scenario(document: Any, where: str) -> Scenario:
    """Return the scenario a document describes; raises Failure naming the key that is wrong."""
    values = _checked(Scenario, document, where)
    jobs = {
        kind: JobScript(**_checked(JobScript, script, f"{where}: jobs.{kind}"))
        for kind, script in values.pop("jobs", {}).items()
    }
    return Scenario(**values, jobs=jobs)


def _checked(cls: type, document: Any, where: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise Failure("InvalidArguments", f"{where} is no table")
    defaults = {item.name: getattr(cls(), item.name) for item in fields(cls)}
    for name, value in document.items():
        if name not in defaults:
            raise Failure("InvalidArguments", f"{where} has the key {name}", f"one of {', '.join(defaults)}")
        wanted = type(defaults[name])
        number = wanted is float and isinstance(value, int) and not isinstance(value, bool)
        if type(value) is not wanted and not number:
            raise Failure("InvalidArguments", f"{where}: {name} is to be of the type {wanted.__name__}")
    return dict(document)
