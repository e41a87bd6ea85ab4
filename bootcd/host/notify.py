"""What the service manager is told: ready, status, stopping, alive (sd_notify(3)).

Does nothing outside a service manager, where NOTIFY_SOCKET is not set. Written here because libsystemd
waits for as long as the manager does not read, which it does not while it reloads, and never after a
crash of its own: what the manager can do without is dropped then, and the rest waits for a moment.
"""

from __future__ import annotations

import logging
import os
import socket
import time

log = logging.getLogger(__name__)

_STATUS_LIMIT = 512
_PATIENCE_SECS = 2.0
"For words the manager waits for. Far below the watchdog's time."


def ready(status: str) -> None:
    """Tell that requests are answered from now on; also the end of a reload."""
    _send("READY=1", _status(status), patience=_PATIENCE_SECS)


def status(text: str) -> None:
    """Set the line `systemctl status` shows."""
    _send(_status(text))


def reloading() -> None:
    """Tell that configuration is read again; `ready` follows (Type=notify-reload)."""
    monotonic_usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    _send("RELOADING=1", f"MONOTONIC_USEC={monotonic_usec}", patience=_PATIENCE_SECS)


def stopping() -> None:
    _send("STOPPING=1")


def alive() -> None:
    """Feed the watchdog."""
    _send("WATCHDOG=1")


def watchdog_secs() -> float | None:
    """Return how often `alive` is due, half of what the manager allows; None without a watchdog.

    sd_watchdog_enabled(3): WATCHDOG_USEC counts only for the process WATCHDOG_PID names, if it does.
    """
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not usec.isascii() or not usec.isdigit() or not int(usec) or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 2_000_000


def _status(text: str) -> str:
    return "STATUS=" + " ".join(text.split())[:_STATUS_LIMIT]


def _send(*lines: str, patience: float = 0.0) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        manager.settimeout(patience)
        try:
            manager.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            log.debug("the service manager does not hear %s: %s", lines[0], error)
