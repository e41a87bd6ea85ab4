"""The verb status: from the files the service keeps, from the bus where there are none.

The host is printed as `bootc status` prints it: for a person on a terminal, as YAML elsewhere, as JSON
if asked. What a person sees is the service as well.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from argparse import Namespace
from typing import Any

from bootcctl.exitcodes import Failure
from bootcctl.runfiles import parse_document, read_text, run_directory
from bootcctl.terminal import Terminal

NO_HOST = (
    '{"apiVersion":"org.containers.bootc/v1","kind":"BootcHost","metadata":{"name":"host"},'
    '"spec":{"bootOrder":"default","image":null},"status":{"booted":null,"readOnly":false,"rollback":null,'
    '"rollbackQueued":false,"staged":null,"type":null,"usrOverlay":null}}'
)
"What bootc prints in a container, and on any system that was not booted from an image."
_COMPOSEFS_KARG = re.compile(r"(?:^|\s)composefs=\??[0-9a-f]{128}(?=\s|$)")


def show_status(options: Namespace, terminal: Terminal) -> bool:
    """Print the status from the files; False if only the bus can tell."""
    directory = run_directory(dict(os.environ), options.bus)
    text = read_text(directory, "status.json")
    host = parse_document(text)
    if host is None:
        return False
    if format_of(options) != "human":
        print_host(text, host, options)
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


def format_of(options: Namespace) -> str:
    """Return what to print: `human`, `yaml` or `json`."""
    if options.format:
        return "human" if options.format == "humanreadable" else str(options.format)
    if options.json:
        return "json"
    return "human" if sys.stdout.isatty() else "yaml"


def print_host(text: str, host: dict[str, Any], options: Namespace) -> None:
    """Print the host as `bootc status` does: JSON canonical, and with no newline unless a person looks."""
    if options.booted:
        status = {**host.get("status", {}), "staged": None, "rollback": None}
        host = {**host, "status": status}
        text = json.dumps(host, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    if format_of(options) == "json":
        sys.stdout.write(text + ("\n" if sys.stdout.isatty() else ""))
        return
    from bootcctl.yamltext import render_yaml

    sys.stdout.write(render_yaml(host))


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
        render_status(
            host,
            service,
            job,
            time.time(),
            terminal.style,
            booted_only=options.booted,
            verbose=options.verbose,
        )
    )


def print_no_host(options: Namespace, terminal: Terminal, failure: Failure) -> None:
    """Print the host of a system that has none, as bootc does.

    Raises:
        Failure: the one given, if the service has to know more.
    """
    if failure.kind != "NotBootcSystem" and (failure.kind != "Unreachable" or is_image_based()):
        raise failure
    if format_of(options) == "human":
        terminal.result("No deployment: this system was not booted from an image")
    else:
        print_host(NO_HOST, json.loads(NO_HOST), options)


def is_image_based() -> bool:
    """Whether this system was booted from an image; never in a container, which may see the host's files."""
    in_container = os.environ.get("container")  # noqa: SIM112  (systemd's own spelling)
    if in_container or _exists("/run/.containerenv") or _exists("/.dockerenv"):
        return False
    return _exists("/run/ostree-booted") or bool(_COMPOSEFS_KARG.search(read_text("/proc", "cmdline")))


def _exists(path: str) -> bool:
    return os.access(path, os.F_OK)
