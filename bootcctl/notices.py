"""What the desktop of somebody who is logged in tells of updates, as the service shows them.

A notice has a key: what was shown once under a key is not shown again, whatever is started anew.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bootcctl import exitcodes
from bootcctl.exitcodes import error_kind, exit_code
from bootcctl.render import clean

RESTART, LATER = "restart", "later"
LABELS = {RESTART: "Restart Now", LATER: "Later"}

_PASSING = (exitcodes.REGISTRY_UNREACHABLE, exitcodes.CANCELLED, exitcodes.INTERRUPTED, exitcodes.BUSY)
"Failures that the next try or whoever caused them deals with."
_NOTIFIED_KINDS = {"upgrade": "update", "switch": "switch to another image", "apply": "restart"}
_NEWS_USEC = 7 * 86_400_000_000
"How long something that has happened is news to who logs in."

_SOON_USEC = 15 * 60_000_000
"How long before it a reboot that somebody has asked for is told."


@dataclass(frozen=True, slots=True)
class Notice:
    key: str
    summary: str
    body: str
    actions: tuple[str, ...] = ()
    urgent: bool = False
    "Stays until it is answered."
    bad: bool = False


def notices(
    manager: dict[str, Any], staged: dict[str, Any], history: Sequence[dict[str, Any]], now_usec: int
) -> list[Notice]:
    """Return all there is to tell, what matters most first.

    Args:
        manager: properties of the service.
        staged: properties of the staged deployment, empty if there is none.
        history: ended jobs, newest first.
    """
    found = [_reboot(manager, now_usec), *_bad_news(manager, history, now_usec), _ready(manager, staged)]
    return [notice for notice in found if notice]


def next_look_usec(manager: dict[str, Any], now_usec: int) -> int:
    """Return when there may be more to tell though nothing has changed; 0 for never."""
    soon: int = manager.get("ScheduledApply", {}).get("when", 0) - _SOON_USEC
    return soon if soon > now_usec else 0


def _reboot(manager: dict[str, Any], now_usec: int) -> Notice | None:
    asked_for: int = manager.get("ScheduledApply", {}).get("when", 0)
    if now_usec < asked_for <= now_usec + _SOON_USEC:
        return _restarts(asked_for, (RESTART,))
    action, _, when = manager.get("NextAction", ("", "", 0))
    waits_for_people = any(
        gate == "sessions" and until == when for gate, _, until, *_ in manager.get("BlockedBy", ())
    )
    if action != "apply" or not waits_for_people or when <= now_usec:
        return None
    return _restarts(when, (RESTART, LATER))


def _restarts(when: int, actions: tuple[str, ...]) -> Notice:
    clock = time.strftime("%H:%M", time.localtime(when / 1e6))
    summary = f"This computer restarts at {clock}"
    return Notice(f"reboot:{when}", summary, "An update is ready. Save your work.", actions, urgent=True)


def _bad_news(manager: dict[str, Any], history: Sequence[dict[str, Any]], now_usec: int) -> list[Notice]:
    found = []
    for entry in history:
        if entry.get("finished", 0) + _NEWS_USEC < now_usec:
            continue
        if entry.get("kind") == "rollback" and entry.get("requester") == "health":
            text = _sentence(entry.get("reason", "") or "the first boot of the new version was bad")
            found.append(
                Notice(f"rolled-back:{entry.get('uuid')}", "A system update was taken back", text, bad=True)
            )
        elif failure := _failure(manager, entry):
            found.append(failure)
    return found


def _failure(manager: dict[str, Any], entry: dict[str, Any]) -> Notice | None:
    what, name = _NOTIFIED_KINDS.get(entry.get("kind", "")), entry.get("error-name", "")
    if what is None or entry.get("state") != "failed" or exit_code(error_kind(name)) in _PASSING:
        return None
    version = manager.get("AvailableUpdate", {}).get("digest", "")
    reason = " ".join(_sentence(text) for text in (entry.get("error-message"), entry.get("hint")) if text)
    # One that is tried again and fails in the same way is no news.
    return Notice(f"failed:{what}:{name}:{version}", f"The system {what} failed", reason, bad=True)


def _ready(manager: dict[str, Any], staged: dict[str, Any]) -> Notice | None:
    if not staged or staged.get("DownloadOnly") or not manager.get("RebootRequired"):
        return None
    version = clean(staged.get("Version", ""), 60)
    body = f"Version {version} comes at the next restart." if version else "It comes at the next restart."
    return Notice(f"ready:{staged.get('Id', '')}", "A system update is ready", body, (RESTART, LATER))


def _sentence(text: str) -> str:
    text = clean(text)
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '…')) else '.'}"
