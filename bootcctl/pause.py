"""The verbs pause and resume: nothing is done unasked for a while."""

from __future__ import annotations

from argparse import Namespace
from datetime import UTC, datetime

from bootcctl import exitcodes
from bootcctl.client import MANAGER, ROOT, Client
from bootcctl.terminal import Terminal
from bootcctl.times import microseconds, parse_moment, parse_span, shown

FOREVER = "indefinitely"


async def pause(client: Client, options: Namespace, terminal: Terminal) -> int:
    until = _until(options, datetime.now(UTC))
    await client.call(ROOT, MANAGER, "Pause", "ta{sv}", [until, {}])
    terminal.document({"paused": True, "until": until})
    end = f"until {shown(until)}" if until else "until you run: bootcctl resume"
    terminal.result(
        f"Nothing is checked for, staged or applied by itself {end}\n"
        "What is asked for, such as bootcctl upgrade, is done all the same"
    )
    return exitcodes.DONE


async def resume(client: Client, _options: Namespace, terminal: Terminal) -> int:
    await client.call(ROOT, MANAGER, "Resume", "a{sv}", [{}])
    terminal.document({"paused": False})
    terminal.result("Updates are not paused; see what comes next with: bootcctl why")
    return exitcodes.DONE


def _until(options: Namespace, now: datetime) -> int:
    """Return the end in microseconds since the epoch, 0 for none. Raises Failure."""
    if options.until:
        return microseconds(parse_moment(options.until, now))
    if options.span == FOREVER:
        return 0
    return microseconds(now + parse_span(options.span))
