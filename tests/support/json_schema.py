"""Checks a document against a JSON Schema, in the part of the language our own schemas use.

A keyword not known here raises, so that no schema seems to be checked and is not.
https://json-schema.org/draft/2020-12/json-schema-validation
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_TYPES: dict[str, type] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "boolean": bool,
    "null": type(None),
}
_REMARKS = {"$schema", "title", "description", "default", "format", "$defs"}


def violations(document: Any, schema: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a document, one line each; empty if it is valid."""
    return list(_check(document, schema, schema, "$"))


def _check(node: Any, schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> Iterator[str]:
    for keyword, wanted in schema.items():
        match keyword:
            case "$ref":
                yield from _check(node, _resolve(wanted, root), root, where)
            case "anyOf":
                tried = [list(_check(node, option, root, where)) for option in wanted]
                if all(tried):
                    yield f"{where}: nothing of anyOf fits: {[faults[0] for faults in tried]}"
            case "type":
                names = [wanted] if isinstance(wanted, str) else wanted
                if not any(_is(node, name) for name in names):
                    yield f"{where}: {node!r} is no {' or '.join(names)}"
            case "const" | "enum":
                if node not in ([wanted] if keyword == "const" else wanted):
                    yield f"{where}: {node!r} is not {wanted!r}"
            case "pattern":
                if isinstance(node, str) and not re.search(wanted, node):
                    yield f"{where}: {node!r} does not match {wanted}"
            case "minimum" | "maximum":
                if _is(node, "integer") and (node < wanted if keyword == "minimum" else node > wanted):
                    yield f"{where}: {node} is beyond {keyword} {wanted}"
            case "required" | "properties" | "additionalProperties" if not isinstance(node, dict):
                pass  # they speak of objects alone
            case "required":
                yield from (f"{where}: {name} is missing" for name in wanted if name not in node)
            case "items":
                for index, item in enumerate(node if isinstance(node, list) else ()):
                    yield from _check(item, wanted, root, f"{where}[{index}]")
            case "properties":
                for name in wanted.keys() & node.keys():
                    yield from _check(node[name], wanted[name], root, f"{where}.{name}")
            case "additionalProperties":
                for name in node.keys() - schema.get("properties", {}).keys():
                    if wanted is False:
                        yield f"{where}: {name} is not allowed"
                    else:
                        yield from _check(node[name], wanted, root, f"{where}.{name}")
            case _ if keyword not in _REMARKS:
                raise NotImplementedError(f"schema keyword {keyword}")


def _is(node: Any, name: str) -> bool:
    return isinstance(node, _TYPES[name]) and (name == "boolean" or not isinstance(node, bool))


def _resolve(pointer: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = root
    for part in pointer.removeprefix("#/").split("/"):
        found = found[part]
    return found  # type: ignore[no-any-return]
