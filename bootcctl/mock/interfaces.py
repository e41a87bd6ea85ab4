"""The interfaces of the service as their XML files have them, which is all the stand-in knows of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET  # files of our own

from bootcctl.exitcodes import Failure

_OPTION = re.compile(r"\b([a-z][a-z-]*) (as|b|s|t|u)\b")
_PATTERN = "org.bootcd1.*.xml"


@dataclass(frozen=True)
class Interface:
    name: str
    xml: str
    methods: dict[str, tuple[str, str]]
    "Signature of the arguments and of the answer."
    signals: dict[str, str]
    properties: dict[str, str]
    options: dict[str, dict[str, str]]
    "By method: the last argument's keys and their types, as its comment names them."


def load_interfaces(directory: str = "") -> dict[str, Interface]:
    """Return the interfaces by name, from a directory or from where they are installed. Raises Failure."""
    tried = [Path(directory)] if directory else list(_places())
    for place in tried:
        files = sorted(place.glob(_PATTERN))
        if files:
            return {item.name: item for file in files for item in _interfaces(file.read_text())}
    raise Failure(
        "Failed",
        f"the interface files {_PATTERN} are not in {tried[-1]}",
        "name their directory with --interfaces",
    )


def _places() -> Iterator[Path]:
    yield Path(__file__).resolve().parents[2] / "dbus"
    for share in (os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":"):
        yield Path(share) / "dbus-1/interfaces"


def _interfaces(text: str) -> Iterator[Interface]:
    parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))  # noqa: S314 - see above
    for node in ET.fromstring(text, parser).iter("interface"):  # noqa: S314
        methods = {
            str(method.get("name")): (_types(method, "in"), _types(method, "out"))
            for method in node.findall("method")
        }
        signals = {str(signal.get("name")): _types(signal, "") for signal in node.findall("signal")}
        properties = {str(item.get("name")): str(item.get("type")) for item in node.findall("property")}
        options, comment = {}, ""
        for child in [*node]:
            if child.tag is ET.Comment:
                comment = " ".join((child.text or "").split())
                node.remove(child)
            elif child.tag == "method":
                options[str(child.get("name"))] = dict(_OPTION.findall(comment))
        xml = ET.tostring(node, encoding="unicode").strip()
        yield Interface(str(node.get("name")), xml, methods, signals, properties, options)


def _types(member: ET.Element, direction: str) -> str:
    # Arguments of a signal have no direction.
    return "".join(
        str(arg.get("type"))
        for arg in member.findall("arg")
        if not direction or arg.get("direction", "in") == direction
    )


def blank(signature: str) -> Any:
    """Return the value of a type that says nothing."""
    match signature[0]:
        case "b":
            return False
        case "s" | "g":
            return ""
        case "o":
            return "/"
        case "d":
            return 0.0
        case "a":
            return {} if signature[1] == "{" else []
        case "(":
            return [blank(kind) for kind in split(signature[1:-1])]
        case _:
            return 0


def split(signature: str) -> list[str]:
    """Return the complete types a signature is made of."""
    types, start, depth = [], 0, 0
    for index, char in enumerate(signature):
        depth += (char in "({") - (char in ")}")
        if depth == 0 and char != "a":
            types.append(signature[start : index + 1])
            start = index + 1
    return types
