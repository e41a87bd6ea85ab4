"""What the service manager is told: ready, status, stopping, alive (sd_notify(3)).

Does nothing outside a service manager, where NOTIFY_SOCKET is not set.
"""

from __future__ import annotations

import os
import time

from systemd.daemon import notify as _notify

_STATUS_LIMIT = 512


def ready(status: str) -> None:
    """Tell that requests are answered from now on; also the end of a reload."""
    _send("READY=1", _status(status))


def status(text: str) -> None:
    """Set the line `systemctl status` shows."""
    _send(_status(text))


def reloading() -> None:
    """Tell that configuration is read again; `ready` follows (Type=notify-reload)."""
    monotonic_usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    _send("RELOADING=1", f"MONOTONIC_USEC={monotonic_usec}")


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


def _send(*lines: str) -> None:
    _notify("\n".join(lines))
