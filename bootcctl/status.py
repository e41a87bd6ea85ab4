"""The verb status: from the files the service keeps, from the bus where there are none."""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace
from typing import Any

from bootcctl.runfiles import parse_document, read_text, run_directory
from bootcctl.terminal import Terminal


def show_status(options: Namespace, terminal: Terminal) -> bool:
    """Print the status from the files; False if only the bus can tell."""
    directory = run_directory(dict(os.environ), options.bus)
    text = read_text(directory, "status.json")
    host = parse_document(text)
    if host is None:
        return False
    if options.json:
        print_host(text, host, booted_only=options.booted)
        return True
    service = parse_document(read_text(directory, "service.json"))
    if service is None:
        return False
    job = None
    if service.get("active-job") and not options.booted:
        from bootcctl.verbs import ask_for_job

        job = ask_for_job(options, service["active-job"]["number"])
    print_status(options, terminal, host, service, job)
    return True


def print_host(text: str, host: dict[str, Any], *, booted_only: bool) -> None:
    """Print the host as `bootc status --json` does: canonical, and no newline unless a person looks."""
    if booted_only:
        status = {**host.get("status", {}), "staged": None, "rollback": None}
        document = {**host, "status": status}
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    sys.stdout.write(text + ("\n" if sys.stdout.isatty() else ""))


def print_status(
    options: Namespace,
    terminal: Terminal,
    host: dict[str, Any],
    service: dict[str, Any],
    job: dict[str, Any] | None,
) -> None:
    """Print host and service for a person; `job` is the active one."""
    from bootcctl.report import render_status

    terminal.result(
        render_status(host, service, job, time.time(), terminal.style, booted_only=options.booted)
    )
