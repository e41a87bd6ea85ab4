"""The verb inhibit: a command that runs while the service is asked to leave something alone.

The service takes a descriptor for the wish: it holds until the last copy is closed, so a command that
is killed leaves nothing behind, and neither does this one. The command does not inherit it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from bootcctl import exitcodes
from bootcctl.client import MANAGER, ROOT, Client, may_ask_person
from bootcctl.exitcodes import Failure
from bootcctl.passwords import password_agent
from bootcctl.render import clean
from bootcctl.terminal import Terminal

NOT_EXECUTABLE = 126
NO_COMMAND = 127


def inhibit(options: Namespace, terminal: Terminal) -> int:
    """List inhibitors, or run a command under one; return its exit code. Raises Failure."""
    if options.list:
        return asyncio.run(_list(options, terminal))
    interactive = may_ask_person()
    with password_agent(interactive):
        descriptor = asyncio.run(_take(options, interactive))
    try:
        return _run(options.command)
    finally:
        os.close(descriptor)


async def _take(options: Namespace, interactive: bool) -> int:
    name = Path(options.command[0]).name
    who, why = options.who or name, options.why or f"{name} is at work"
    async with Client(options.bus, interactive=interactive, descriptors=True) as client:
        return await client.descriptor("Inhibit", "ssssa{sv}", [options.what, who, why, options.mode, {}])


def _run(command: list[str]) -> int:
    # Ctrl-C goes to the command as well, which decides what comes of it.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        done = subprocess.run(command, check=False, preexec_fn=_interruptible)
    except (FileNotFoundError, NotADirectoryError):
        raise _Unstarted(NO_COMMAND, f"there is no command {command[0]}") from None
    except OSError as error:
        raise _Unstarted(NOT_EXECUTABLE, f"{command[0]} cannot be run: {error.strerror}") from None
    finally:
        signal.signal(signal.SIGINT, before)
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


def _interruptible() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class _Unstarted(Failure):
    """A command that could not be started, with the exit code a shell has for it."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__("Failed", message)
        self._code = code

    @property
    def code(self) -> int:
        return self._code


async def _list(options: Namespace, terminal: Terminal) -> int:
    async with Client(options.bus) as client:
        held = (await client.call(ROOT, MANAGER, "ListInhibitors"))[0]
    names = ("what", "who", "why", "mode", "uid", "not-after")
    inhibitors = [dict(zip(names, entry, strict=True)) for entry in held]
    terminal.document({"inhibitors": inhibitors})
    terminal.result("\n".join(map(_line, inhibitors)) or "Nobody inhibits anything")
    return exitcodes.DONE


def _line(entry: dict[str, Any]) -> str:
    end = ""
    if entry["not-after"]:
        end = f" until {time.strftime('%H:%M', time.localtime(entry['not-after'] / 1e6))}"
    verb = "blocks" if entry["mode"] == "block" else "delays"
    return clean(f"{entry['who']} (user {entry['uid']}) {verb} {entry['what']}{end}: {entry['why']}")
