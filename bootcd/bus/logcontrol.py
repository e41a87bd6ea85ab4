"""How much the daemon logs, as `systemctl service-log-level` asks for it and root may change it.

The interface is systemd's and the same for every service, org.freedesktop.LogControl1(5). It has no
method, so the bus policy need not name it: who may read properties may read these.
"""

from __future__ import annotations

from typing import Any

from dbus_fast import Variant

from bootcd.bus.callers import Caller
from bootcd.bus.errors import ProtocolError
from bootcd.bus.schema import Interface, Property
from bootcd.host import journal
from bootcd.model.errors import AccessDenied, InvalidArguments

LOG_PATH = "/org/freedesktop/LogControl1"
LOG_CONTROL = Interface.of(
    "org.freedesktop.LogControl1",
    Property("LogLevel", "s", lambda _: journal.level(), writable=True),
    Property("LogTarget", "s", lambda _: journal.target(), writable=True),
    Property("SyslogIdentifier", "s", lambda _: journal.IDENTIFIER),
)


def change(caller: Caller, name: str, value: Variant) -> None:
    """Set a property. Raises AccessDenied, InvalidArguments and ProtocolError."""
    if caller.uid != 0:
        raise AccessDenied(f"only root may change {name}")
    wanted: Any = value.value if value.signature == "s" else None
    if name == "LogTarget":
        if wanted != journal.target():
            raise ProtocolError("NotSupported", "where the log goes is decided when the service is started")
    elif wanted in journal.LEVELS:
        journal.set_level(wanted)
    else:
        raise InvalidArguments(f"{name} is one of {', '.join(journal.LEVELS)}")
