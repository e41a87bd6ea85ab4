"""Messages of Varlink: JSON objects, each followed by a NUL. No I/O.

https://varlink.org/Method-Call
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

MESSAGE_LIMIT = 64 << 10
"Bytes of a call; the longest there is has some lists of kernel arguments."

_NUL = re.compile(r"(\\\\)|\\u0000")
"Escaped in JSON; behind a backslash that is escaped itself it is a text that looks like it."
_METHOD = re.compile(r"[A-Za-z][A-Za-z0-9.-]{0,200}\.[A-Z][A-Za-z0-9]{0,100}")


@dataclass(frozen=True, slots=True)
class Call:
    interface: str
    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    more: bool = False
    "Whether the caller takes several replies."
    oneway: bool = False
    "Whether it takes none."
    upgrade: bool = False


def parse_call(message: bytes) -> Call:
    """Return the call a message without its NUL is; raises ValueError."""
    try:
        document = json.loads(message.decode(), parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError("no object")
    method = document.get("method")
    if not isinstance(method, str) or not _METHOD.fullmatch(method):
        raise ValueError("no method")
    parameters = document.get("parameters")
    if not isinstance(parameters, dict | None):
        raise ValueError("no parameters")
    flags = {name: document.get(name) or False for name in ("more", "oneway", "upgrade")}
    if not all(isinstance(flag, bool) for flag in flags.values()):
        raise ValueError("no flag")
    interface, _, name = method.rpartition(".")
    return Call(interface, name, parameters or {}, **flags)


def encode_reply(parameters: Mapping[str, Any], *, continues: bool = False) -> bytes:
    document: dict[str, Any] = {"parameters": parameters}
    return _encode(document | {"continues": True} if continues else document)


def encode_document(name: str, document: bytes) -> bytes:
    """Return the reply whose one parameter is a JSON document that may be long, and is taken as it is."""
    text = document.replace(b"\0", b"").strip()
    return b'{"parameters":{"' + name.encode() + b'":' + text + b"}}\0"


def encode_error(name: str, parameters: Mapping[str, Any]) -> bytes:
    return _encode({"error": name, "parameters": parameters})


def _encode(document: Mapping[str, Any]) -> bytes:
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # Registries and images choose some texts; not every reader takes a NUL or half of a surrogate pair.
    return _NUL.sub(lambda found: found[1] or "\ufffd", text).encode("utf-8", "replace") + b"\0"


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
