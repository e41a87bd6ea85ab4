"""The verb why: what the service will do by itself next, and what holds it up, gate by gate.

All of it is the service's own plan, so that what is shown is what it goes by; so is what it would be at
another time or in other surroundings.
"""

from __future__ import annotations

from argparse import Namespace
from datetime import UTC, datetime, tzinfo
from typing import Any

from dbus_fast import Variant

from bootcctl.client import MANAGER, ROOT, Client
from bootcctl.render import clean
from bootcctl.terminal import Terminal
from bootcctl.times import microseconds, parse_moment, shown

_TYPES = {"at": "t", "metered": "b", "on-battery": "b", "power-saver": "b", "battery-percent": "u"}
_ACTIONS = {"check": "look for an update", "stage": "stage the update", "apply": "reboot into the update"}


async def show_reasons(client: Client, options: Namespace, terminal: Terminal) -> None:
    """Print the plan of the service and the gates that are shut. Raises Failure."""
    supposed = _supposed(options, datetime.now(UTC))
    properties = await client.get_all(ROOT, MANAGER)
    if supposed:
        given = {name: Variant(_TYPES[name], value) for name, value in supposed.items()}
        *action, gates = await client.call(ROOT, MANAGER, "Simulate", "a{sv}", [given])
        properties |= {"NextAction": action, "BlockedBy": gates}
    document = reasons_document(properties, supposed)
    terminal.document(document)
    terminal.result(render_reasons(document, None))


def _supposed(options: Namespace, now: datetime) -> dict[str, Any]:
    """Return what of the facts is to be another, by the names of the method; times in microseconds."""
    supposed: dict[str, Any] = {"at": microseconds(parse_moment(options.at, now))} if options.at else {}
    for name in ("metered", "on_battery", "power_saver"):
        if answer := getattr(options, name):
            supposed[name.replace("_", "-")] = answer == "yes"
    if options.battery_percent is not None:
        supposed["battery-percent"] = options.battery_percent
    return supposed


def reasons_document(properties: dict[str, Any], supposed: dict[str, Any] | None = None) -> dict[str, Any]:
    action, reason, when = properties.get("NextAction", ("", "", 0))
    return {
        **({"supposed": supposed} if supposed else {}),
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
    if supposed := document.get("supposed"):
        lines.insert(
            0, f"Supposed: {', '.join(_worded(name, value, zone) for name, value in supposed.items())}"
        )
    for gate in document["blocked-by"]:
        what = f"{', '.join(map(clean, gate['actions']))} held up by".capitalize().strip()
        end = f" (until {shown(gate['until'], zone)})" if gate["until"] else ""
        lines.append(f"{what} {clean(gate['gate'])}: {clean(gate['reason'])}{end}")
    return "\n".join(lines)


def _worded(name: str, value: Any, zone: tzinfo | None) -> str:
    if name == "at":
        return f"it is {shown(value, zone)}"
    return f"{name} {value}" if name == "battery-percent" else f"{name} {'yes' if value else 'no'}"
