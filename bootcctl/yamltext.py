"""The host as YAML, as `bootc status` prints it: its order of keys and its style of scalars. Pure.

bootc serialises with serde_yaml 0.9 on libyaml's emitter: mappings in the order of declaration, lists
not indented, texts plain where that cannot be misread, an enum with a value as a tag
(`signature: !ostreeRemote fedora`). YAML is what `status` prints into a pipe, and loading a library
for it would take as long as everything else together.
https://yaml.org/spec/1.2.2/
"""

from __future__ import annotations

import re
from typing import Any

_ORDER = (
    "apiVersion kind metadata spec status"
    " name annotations labels namespace"
    " image bootOrder"
    " staged booted rollback otherDeployments rollbackQueued type usrOverlay readOnly"
    " cachedUpdate incompatible pinned softRebootCapable downloadOnly store ostree composefs"
    " version timestamp imageDigest architecture"
    " transport signature"
    " stateroot checksum deploySerial"
    " verity bootType bootloader bootDigest missingVerityAllowed"
    " accessMode persistence"
)
"Of all mappings of the document at once, as no two of them contradict each other."
_RANK = {key: rank for rank, key in enumerate(_ORDER.split())}

_WORDS = {"", "~", "null", "y", "yes", "n", "no", "true", "false", "on", "off"}
"Not texts to some reader of YAML, in lower case, as written, or in capitals."
_NUMBER = re.compile(
    r"[-+]?(0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+|\.inf|\.Inf|\.INF|(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)|\.nan|\.NaN|\.NAN",
    re.ASCII,
)
_NOT_PLAIN = re.compile(r"""[#,\[\]{}&*!|>'"%@` ]|[-?:](\s|\Z)|---|\.\.\.|.*(: | #|[ :]\Z)""", re.DOTALL)
_SPECIAL = r"[^\x20-\x7e\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd]"
"Characters libyaml's emitter takes for not printable; the rest of Unicode is written as it is."
_ESCAPES = {
    "\0": "0",
    "\a": "a",
    "\b": "b",
    "\t": "t",
    "\n": "n",
    "\v": "v",
    "\f": "f",
    "\r": "r",
    "\x1b": "e",
    "\x85": "N",
    "\u2028": "L",
    "\u2029": "P",
}


def render_yaml(document: dict[str, Any]) -> str:
    """Return a document made of mappings, lists, texts, numbers, truth values and null."""
    return "".join(_mapping(document, ""))


def _mapping(node: dict[str, Any], indent: str) -> list[str]:
    lines = []
    for key in sorted(node, key=lambda key: _RANK.get(key, len(_RANK))):
        value, name = node[key], f"{indent}{_text(key)}:"
        if key == "signature" and isinstance(value, dict) and len(value) == 1:
            [(variant, content)] = value.items()
            lines.append(f"{name} !{variant} {_text(content)}\n")
        elif value and isinstance(value, dict):
            lines += [f"{name}\n", *_mapping(value, indent + "  ")]
        elif value and isinstance(value, list):
            lines += [f"{name}\n", *(line for item in value for line in _item(item, indent))]
        else:
            lines.append(f"{name} {_scalar(value)}\n")
    return lines


def _item(node: Any, indent: str) -> list[str]:
    if not isinstance(node, dict) or not node:
        return [f"{indent}- {_scalar(node)}\n"]
    first, *rest = _mapping(node, indent + "  ")
    return [f"{indent}- {first.lstrip(' ')}", *rest]


def _scalar(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case dict():
            return "{}"
        case list():
            return "[]"
        case str():
            return _text(value)
        case _:
            return str(value)


def _text(text: str) -> str:
    # Almost every text is of printable ASCII, and the expression takes longer to compile than all to print.
    if not (text.isascii() and text.isprintable()) and re.search(_SPECIAL, text):
        return '"' + re.sub(_SPECIAL + r'|["\\]', _escape, text) + '"'
    if _is_misread(text) or _NOT_PLAIN.match(text):
        return "'" + text.replace("'", "''") + "'"
    return text


def _is_misread(text: str) -> bool:
    """Whether the plain text would be taken for something else than a text."""
    if text.lower() in _WORDS and text in (text.lower(), text.capitalize(), text.upper()):
        return True
    if not _NUMBER.fullmatch(text):
        return False
    try:
        return text.lstrip("+-").isdigit() or float(text) not in (float("inf"), float("-inf"))
    except ValueError:
        return True


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    if char in '"\\':
        return "\\" + char
    if char in _ESCAPES:
        return "\\" + _ESCAPES[char]
    code = ord(char)
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"
