"""The right each kind of job needs, whatever protocol it is asked for by.

Actions are last parts of names of polkit actions, which `dbus/org.bootcd1.policy` defines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bootcd.model.job import JobKind


@dataclass(frozen=True, slots=True)
class Right:
    action: str
    unverified_action: str = ""
    "The one needed instead where the signature policy lets the tracked image in unsigned."
    option_actions: Mapping[str, str] = field(default_factory=dict)
    "What is needed beside that where an option, by its name in `JobOptions`, is given and not false."
    mode_actions: Mapping[str, str] = field(default_factory=dict)
    "The one needed instead, by the value of the argument mode."

    def actions(self, given: Mapping[str, Any], *, verified: bool) -> list[str]:
        """Return all a call needs; `verified` if the tracked image comes in with a signature only."""
        action = self.action if verified or not self.unverified_action else self.unverified_action
        action = self.mode_actions.get(given.get("mode", ""), action)
        return [action, *(more for option, more in self.option_actions.items() if given.get(option))]

    def is_limited(self, action: str, uid: int) -> bool:
        """Tell whether a job may take signed images only: its caller was asked for `action` and no more.

        The policy may have changed since the host was looked at.
        """
        return bool(self.unverified_action) and action == self.action and uid != 0

    def details(self, given: Mapping[str, Any]) -> dict[str, str]:
        """Return what rules and prompts are told of a call."""
        details = {"verb": self.action} | {name: given[name] for name in _TOLD if name in given}
        if (transport := given.get("transport", "registry")) != "registry":
            details["image"] = f"{transport}:{given['image']}"
        if tag := given.get("tag"):
            details["image"] = f"with the tag {tag}"
        if given.get("allow_downgrade"):
            details["allow-downgrade"] = "true"
        return details


_TOLD = ("image", "deployment", "what", "who", "why")
_IGNORES = {"ignore_inhibitors": "ignore-inhibitors"}
_APPLIES = {"apply": "apply", **_IGNORES}

INHIBIT = Right("inhibit-block", mode_actions={"delay": "inhibit-delay"})

CLEAR_FAILURES = Right("clear-failures")

PAUSE = Right("pause")
"To pause and to resume."

RIGHTS: Mapping[JobKind, Right] = {
    JobKind.CHECK: Right("check", option_actions=_IGNORES),
    JobKind.UPGRADE: Right(
        "upgrade", "upgrade-unverified", {"tag": "switch", "allow_downgrade": "rollback", **_APPLIES}
    ),
    JobKind.SWITCH: Right("switch", option_actions=_APPLIES),
    JobKind.ROLLBACK: Right("rollback", option_actions=_APPLIES),
    JobKind.APPLY: Right("apply", option_actions=_IGNORES),
    JobKind.KERNEL_ARGUMENTS: Right("kernel-arguments", option_actions=_APPLIES),
    JobKind.PIN: Right("pin"),
    JobKind.UNPIN: Right("pin"),
    JobKind.DROP: Right("drop"),
    JobKind.USR_OVERLAY: Right("usr-overlay"),
}
