"""The verb apply at a time to come: an appointment the service keeps."""

from __future__ import annotations

from argparse import Namespace
from datetime import UTC, datetime

from dbus_fast import Variant

from bootcctl import exitcodes
from bootcctl.client import MANAGER, ROOT, Client
from bootcctl.terminal import Terminal
from bootcctl.times import microseconds, parse_moment, parse_span, shown


async def schedule_apply(client: Client, options: Namespace, terminal: Terminal) -> int:
    """Make an appointment, or drop the one there is. Raises Failure."""
    if options.cancel:
        await client.call(ROOT, MANAGER, "CancelApply", "a{sv}", [{}])
        terminal.document({"when": 0})
        terminal.result("No reboot is scheduled")
        return exitcodes.DONE
    now = datetime.now(UTC)
    when = microseconds(parse_moment(options.at, now) if options.at else now + parse_span(options.defer))
    given = {
        name.replace("_", "-"): Variant(kind, value)
        for name, kind in (("soft_reboot", "s"), ("ignore_inhibitors", "b"))
        if (value := getattr(options, name))
    }
    await client.call(ROOT, MANAGER, "ScheduleApply", "ta{sv}", [when, given])
    terminal.document({"when": when})
    terminal.result(
        f"The host reboots at {shown(when)} and not before; to call it off: bootcctl apply --cancel"
    )
    return exitcodes.DONE
