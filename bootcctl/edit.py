"""The verb edit: the host's spec in a person's editor, or from a file, and the verb that follows from it.

What a person wrote is never lost: until it has been carried out, it stays in a file that is named.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from bootcctl import exitcodes
from bootcctl.client import MANAGER, ROOT, Client
from bootcctl.exitcodes import Failure
from bootcctl.hostspec import SIZE_LIMIT, Change, parse_spec, plan_change, render_spec
from bootcctl.runfiles import parse_document
from bootcctl.terminal import Terminal

_FALLBACKS = ("nano", "vim", "vi")


def edit(options: Namespace, terminal: Terminal) -> int:
    """Have the spec edited, and carry it out; return the exit code."""
    host = _host(options)
    if options.filename:
        return _carry_out(plan_change(host["spec"], parse_spec(_read(options.filename))), options, terminal)
    descriptor, path = tempfile.mkstemp(prefix="bootcctl-edit-", suffix=".yaml")
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor, not a path
        file.write(render_spec(host))
    try:
        change = _edited(path, host["spec"], terminal)
        if change is not None and _host(options)["spec"] != host["spec"]:
            raise Failure("Busy", "the host was changed by somebody else meanwhile")
        code = _carry_out(change, options, terminal)
    except Failure:
        terminal.note(f"Your text is kept; use it with: bootcctl edit --filename {path}")
        raise
    Path(path).unlink(missing_ok=True)
    return code


def _host(options: Namespace) -> dict[str, Any]:
    async def ask() -> str:
        async with Client(options.bus) as client:
            return str((await client.call(ROOT, MANAGER, "GetStatus", "a{sv}", [{}]))[0])

    host = parse_document(asyncio.run(ask()))
    if host is None or not isinstance(host.get("spec"), dict):
        raise Failure("Failed", "the service gave a status that cannot be read")
    if not host.get("status", {}).get("booted"):
        raise Failure("NotBootcSystem", "this system was not booted from an image")
    return host


def _read(name: str) -> str:
    try:
        if name == "-":
            return sys.stdin.read(SIZE_LIMIT + 1)
        with Path(name).open(encoding="utf-8") as file:
            return file.read(SIZE_LIMIT + 1)
    except UnicodeDecodeError:
        raise Failure("InvalidArguments", f"{name} is no text") from None
    except OSError as error:
        raise Failure("InvalidArguments", f"{name} cannot be read: {error.strerror}") from None


def _edited(path: str, old: dict[str, Any], terminal: Terminal) -> Change | None:
    """Return what a person has made of the file, who may correct it as often as needed."""
    while True:
        _run_editor(path)
        try:
            return plan_change(old, parse_spec(_read(path)))
        except Failure as failure:
            if not (sys.stdin.isatty() and sys.stderr.isatty()):
                raise
            terminal.failure(failure)
            sys.stderr.write("Edit again? [Y/n] ")
            sys.stderr.flush()
            answer = sys.stdin.readline()
            if not answer or answer.strip().lower().startswith("n"):
                raise


def _run_editor(path: str) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    try:
        command = shlex.split(editor or next(filter(shutil.which, _FALLBACKS), ""))
    except ValueError:
        command = []
    if not command:
        raise Failure(
            "InvalidArguments", "there is no editor", "set EDITOR, or use: bootcctl edit --filename FILE"
        )
    # Ctrl-C is for the editor, in which it means something else; a handler is not inherited by it.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        status = subprocess.call([*command, path])
    except OSError as error:
        raise Failure("InvalidArguments", f"{command[0]} cannot be run: {error.strerror}") from None
    finally:
        signal.signal(signal.SIGINT, before)
    if status != 0:
        raise Failure("Failed", f"{command[0]} ended with {status}, so nothing is changed")


def _carry_out(change: Change | None, options: Namespace, terminal: Terminal) -> int:
    from bootcctl.verbs import run

    if change is None:
        terminal.document({"changed": False})
        terminal.result("Nothing was changed")
        return exitcodes.DONE
    options.verb, options.image = change.verb, change.image
    options.transport = "" if change.transport == "registry" else change.transport
    options.enforce_container_sigpolicy = change.enforce
    return run(options, terminal)
