"""The one mapping from errors to what a D-Bus caller sees: an error name and a text.

The text is one sentence; where there is a hint it follows on a second line. Whatever is not an
error of ours is written to the log under a random reference, and the caller sees the reference.
"""

from __future__ import annotations

from bootcd.agent.interface import unexpected
from bootcd.model.errors import (
    BUS_ERROR_PREFIX,
    AccessDenied,
    BootcdError,
    InvalidArguments,
    LimitsExceeded,
)

_FREEDESKTOP = "org.freedesktop.DBus.Error."
_STANDARD = {
    InvalidArguments.name: _FREEDESKTOP + "InvalidArgs",
    AccessDenied.name: _FREEDESKTOP + "AccessDenied",
    LimitsExceeded.name: _FREEDESKTOP + "LimitsExceeded",
}
_TEXT_LIMIT = 4096


class ProtocolError(Exception):
    """An error D-Bus itself has a name for, such as UnknownMethod; `name` is the last part of it."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = _FREEDESKTOP + name
        self.text = text


def bus_name(name: str) -> str:
    """Return the full D-Bus error name for the stable name of an error."""
    return _STANDARD.get(name, BUS_ERROR_PREFIX + name)


def describe(error: Exception, doing: str) -> tuple[str, str]:
    """Return name and text of the error reply to a call; `doing` names the call in the log."""
    match error:
        case ProtocolError():
            name, text = error.name, error.text
        case BootcdError():
            name, text = bus_name(error.name), f"{error.message}\n{error.hint}".rstrip("\n")
        case _:
            name, text = bus_name("Failed"), unexpected(error, doing)
    return name, clean_text(text)[:_TEXT_LIMIT]


def clean_text(text: str) -> str:
    """Return the text as a D-Bus string can carry it: no NUL and no half of a surrogate pair.

    The bus disconnects a sender of anything else, and registries and images choose some texts.
    """
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
