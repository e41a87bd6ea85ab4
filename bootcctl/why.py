"""The verb why: what the service will do by itself next, and what holds it up, gate by gate.

All of it is the service's own plan, so that what is shown is what it goes by.
"""

from __future__ import annotations

from datetime import tzinfo
from typing import Any

from bootcctl.client import MANAGER, ROOT, Client
from bootcctl.render import clean
from bootcctl.terminal import Terminal
from bootcctl.times import shown

_ACTIONS = {"check": "look for an update", "stage": "stage the update", "apply": "reboot into the update"}


async def show_reasons(client: Client, terminal: Terminal) -> None:
    """Print the plan of the service and the gates that are shut. Raises Failure."""
    document = reasons_document(await client.get_all(ROOT, MANAGER))
    terminal.document(document)
    terminal.result(render_reasons(document, None))


def reasons_document(properties: dict[str, Any]) -> dict[str, Any]:
    action, reason, when = properties.get("NextAction", ("", "", 0))
    return {
        "mode": properties.get("Mode", ""),
        "next-action": {"action": action, "reason": reason, "when": when},
        "blocked-by": [
            {"gate": gate, "reason": words, "until": until, "actions": facts.get("actions", [])}
            for gate, words, until, facts in properties.get("BlockedBy", ())
        ],
    }


def render_reasons(document: dict[str, Any], zone: tzinfo | None) -> str:
    """Render the plan for people, with times of a zone; None for that of the host."""
    upcoming = document["next-action"]
    what = _ACTIONS.get(upcoming["action"], clean(upcoming["action"])) or "nothing"
    when = f" at {shown(upcoming['when'], zone)}" if upcoming["when"] else ""
    reason = f": {clean(upcoming['reason'])}" if upcoming["reason"] else ""
    lines = [f"Mode {clean(document['mode'])}", f"Next {what}{when}{reason}"]
    for gate in document["blocked-by"]:
        what = f"{', '.join(map(clean, gate['actions']))} held up by".capitalize().strip()
        end = f" (until {shown(gate['until'], zone)})" if gate["until"] else ""
        lines.append(f"{what} {clean(gate['gate'])}: {clean(gate['reason'])}{end}")
    return "\n".join(lines)
