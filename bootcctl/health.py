"""The verb health: the verdict on this boot, from what `bootcd-health` keeps; without bus and service.

/run/bootcd/health.json       the verdict and what failed before, for everybody
/var/lib/bootcd/health.json   likewise with the end of the journal of each failed boot, for root
"""

from __future__ import annotations

import os
from argparse import Namespace
from datetime import UTC, datetime, tzinfo
from typing import Any

from bootcctl import exitcodes
from bootcctl.exitcodes import Failure
from bootcctl.outcomes import short_digest
from bootcctl.render import PLAIN, Style, clean, clean_lines
from bootcctl.runfiles import parse_document, read_text
from bootcctl.terminal import Terminal

PROGRAM = "bootcd-health"
_DONE = {"rolled-back": "rolled back", "rolling-back": "about to be rolled back", "bad": "not rolled back"}


def health(options: Namespace, terminal: Terminal) -> int:
    """Show the verdict, or forget what failed; return the exit code.

    Raises:
        Failure: this boot was not judged, or only root may do that.
    """
    if options.action == "clear":
        return _clear(options, terminal)
    record = parse_document(read_text(os.environ.get("BOOTCD_RUN_DIR") or "/run/bootcd", "health.json"))
    if record is None or not isinstance(record.get("last"), dict):
        raise Failure(
            "WrongState", "this boot has not been judged yet", "see: systemctl status bootcd-health.service"
        )
    kept = parse_document(read_text("/var/lib/bootcd", "health.json")) if options.verbose else None
    document = health_document(kept or record)
    terminal.document(document)
    terminal.result(render_health(document, None, terminal.style))
    return exitcodes.DONE if document["health"] == "good" else exitcodes.UNHEALTHY


def _clear(options: Namespace, terminal: Terminal) -> int:
    try:
        digests = _clear_by_service(options)
    except Failure as failure:
        if failure.kind != "Unreachable":
            raise
        digests = _clear_by_program(options)
    terminal.document({"cleared": digests})
    terminal.result("".join(f"{digest} may be taken again\n" for digest in digests) or "Nothing had failed")
    return exitcodes.DONE


def _clear_by_service(options: Namespace) -> list[str]:
    import asyncio

    from bootcctl.client import MANAGER, ROOT, Client, may_ask_person
    from bootcctl.passwords import password_agent

    async def clear(interactive: bool) -> list[str]:
        async with Client(options.bus, interactive=interactive) as client:
            return list(
                (await client.call(ROOT, MANAGER, "ClearFailures", "sa{sv}", [options.digest, {}]))[0]
            )

    interactive = may_ask_person()
    with password_agent(interactive):
        return asyncio.run(clear(interactive))


def _clear_by_program(options: Namespace) -> list[str]:
    """Do it where there is no service."""
    import subprocess

    if os.geteuid() != 0:
        raise Failure("AccessDenied", "only root may let a failed version be taken again", "run it as root")
    try:
        command = [PROGRAM, "clear", *([options.digest] if options.digest else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise Failure(
            "Failed", f"{PROGRAM} cannot be run: {error.strerror}", "is bootcd installed as a whole?"
        ) from error
    if done.returncode == exitcodes.USAGE:
        raise Failure("InvalidArguments", f"{options.digest} has not failed here", "see: bootcctl health")
    if done.returncode:
        raise Failure("Failed", "the record cannot be changed", "see: journalctl -t bootcd")
    return done.stdout.split()


def health_document(record: dict[str, Any]) -> dict[str, Any]:
    """Make the document of the verdict from the record's file."""
    last = record["last"]
    keys = ("digest", "image", "version", "problems", "warnings", "action", "reason")
    return {
        "health": "good" if last.get("good") else "bad",
        "time": _usec(last.get("time")),
        **{key: last.get(key) for key in keys},
        "failures": [
            {**{key: failure.get(key) for key in ("uuid", "digest", "image", "version", "reasons", "state")}}
            | {"time": _usec(failure.get("time"))}
            | ({"journal": failure["journal"]} if failure.get("journal") else {})
            for failure in record.get("failures") or []
        ],
        "cleared": record.get("cleared") or [],
    }


def _usec(text: object) -> int:
    try:
        return int(datetime.fromisoformat(str(text)).timestamp() * 1e6)
    except ValueError:
        return 0


def render_health(document: dict[str, Any], zone: tzinfo | None, style: Style = PLAIN) -> str:
    """Render the verdict for a person; `zone` None means local time."""
    good = document["health"] == "good"
    name = " ".join(filter(None, (document["version"], short_digest(document["digest"] or ""))))
    verdict = style.paint(document["health"], "32" if good else "31")
    lines = [f"The boot of {clean(name)} is {verdict}" if name else f"This boot is {verdict}"]
    lines += [f"  {clean(line)}" for line in document["problems"] or ()]
    lines += [f"  not counted: {clean(line)}" for line in document["warnings"] or ()]
    if document["action"] == "roll-back":
        lines.append("The host goes back to the version before")
    elif document["reason"]:
        lines.append(f"Nothing is done about it: {clean(document['reason'])}")
    for failure in document["failures"]:
        when = datetime.fromtimestamp(failure["time"] / 1e6, UTC).astimezone(zone).strftime("%Y-%m-%d %H:%M")
        what = " ".join(filter(None, (failure["version"], failure["digest"])))
        state = _DONE.get(failure["state"], failure["state"])
        lines += ["", style.bold(f"Failed: {clean(what)}"), f"  {when}, {clean(state)}"]
        lines += [f"  {clean(line)}" for line in failure["reasons"] or ()]
        if failure.get("journal"):
            lines += [f"    {line}" for line in clean_lines(failure["journal"].rstrip()).split("\n")]
    if document["failures"]:
        lines += ["", "They are not taken again unasked, until: bootcctl health clear"]
    return "\n".join(lines) + "\n"
