"""JSON from strangers, read so that every reader sees the same document.

Two members of one name, NaN or nesting without end are read in different ways by different programs;
what is refused here cannot mean one thing to who signed it and another to who runs it.
https://www.rfc-editor.org/rfc/rfc8259
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from bootcd.model.errors import BootcdError


def parse_object(data: bytes, *, what: str, limit_bytes: int, error: type[BootcdError]) -> dict[str, Any]:
    """Parse a UTF-8 JSON document that is an object; raises `error`, its message starting with `what`."""
    if len(data) > limit_bytes:
        raise error(f"{what} is larger than {limit_bytes} bytes")
    try:
        document = json.loads(
            data.decode("utf-8"), object_pairs_hook=unique_members, parse_constant=_refuse_constant
        )
        if b"\\u" in data:
            # An escape may be half a surrogate pair, which is no character and cannot be written again.
            json.dumps(document, ensure_ascii=False).encode()
    except RecursionError as caught:
        raise error(f"{what} is nested too deeply") from caught
    except _Duplicate as caught:
        raise error(f"{what} names {caught} twice in one object") from caught
    except ValueError as caught:
        raise error(f"{what} is not valid JSON") from caught
    if not isinstance(document, dict):
        raise error(f"{what} is not a JSON object")
    return document


class _Duplicate(ValueError):
    pass


def unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members of an object; raises ValueError where a name comes twice. A hook of `json`."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Duplicate(repr(key if len(key) <= 60 else key[:57] + "..."))
            seen.add(key)
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
