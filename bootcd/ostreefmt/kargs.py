"""Kernel arguments: those an image brings along, and how they join those of the host.

An image lists its own in `/usr/lib/bootc/kargs.d/*.toml`; the options line of a boot entry has them beside
the host's, and nothing says whose an argument is. An update therefore changes no more than what differs
between the list of the image the host has and that of the image it gets.

Formats: https://bootc-dev.github.io/bootc/building/kernel-arguments.html for the files,
https://uapi-group.org/specifications/specs/boot_loader_specification/ for the options line, quotes in it as
in https://docs.kernel.org/admin-guide/kernel-parameters.html.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bootcd.model.errors import NotBootable

KARGS_DIRECTORY = "usr/lib/bootc/kargs.d"
DEPLOYMENT_KARG = "ostree="
"Begins the argument that names the deployment to boot; libostree alone sets it."

_KARGS = "kargs"
_ARCHITECTURES = "match-architectures"
_TEXT_LIMIT = 120

# A quote that is never closed reaches to the end, as the kernel has it.
_KARG = re.compile(r'(?:"[^"]*(?:"|\Z)|[^\s"])+', re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

# Names of std::env::consts::ARCH of Rust where they are not those of uname(2); byte order is not told apart.
_RUST_ARCHITECTURES = {"ppc64": "powerpc64", "ppc64le": "powerpc64", "ppc": "powerpc"}


@dataclass(frozen=True, slots=True)
class KargsFile:
    """One file of an image's kargs.d."""

    kargs: tuple[str, ...]
    "Single arguments, whatever the strings of the file were, in its order."
    architectures: frozenset[str] | None = None
    "Where they hold, by Rust's names; None for everywhere."

    def arguments(self, architecture: str) -> tuple[str, ...]:
        """Return what holds on an architecture, see `rust_architecture`."""
        matches = self.architectures is None or architecture in self.architectures
        return self.kargs if matches else ()


def parse_kargs_toml(data: bytes, where: str) -> KargsFile:
    """Parse a file of kargs.d; `where` is its path, for the error.

    The caller bounds the size: tomllib needs the cube of the length for a key of many dots.

    Raises:
        NotBootable: the file breaks the format, or has what would break the boot entry.
    """
    try:
        document = tomllib.loads(data.decode())
    except UnicodeDecodeError:
        raise invalid_kargs(where, "is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise invalid_kargs(where, f"is not valid TOML: {str(error)[:_TEXT_LIMIT]}") from None
    except (ValueError, RecursionError):
        # A number or a nesting beyond what is parsed at all.
        raise invalid_kargs(where, "is not valid TOML") from None
    for key in document:
        if key not in (_KARGS, _ARCHITECTURES):
            raise invalid_kargs(where, f"has the unknown key {key[:_TEXT_LIMIT]!r}", key=key[:_TEXT_LIMIT])
    if _KARGS not in document:
        raise invalid_kargs(where, f"has no key {_KARGS!r}", key=_KARGS)
    texts = _strings(document, _KARGS, where)
    arguments = tuple(argument for text in texts for argument in _arguments(text, where))
    if _ARCHITECTURES not in document:
        return KargsFile(arguments)
    return KargsFile(arguments, frozenset(_strings(document, _ARCHITECTURES, where)))


def invalid_kargs(where: str, what: str, **fields: str) -> NotBootable:
    """Return the error for an image whose file, or directory, `where` cannot be taken."""
    return NotBootable(
        f"{where} of the image {what}",
        hint="the image has to be built anew; see the kernel arguments chapter of bootc's documentation",
        path=where,
        **fields,
    )


def _strings(document: dict[str, Any], key: str, where: str) -> list[str]:
    value = document[key]
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise invalid_kargs(where, f"has a key {key!r} that is not a list of strings", key=key)
    return value


def _arguments(text: str, where: str) -> list[str]:
    arguments = split_kargs(text)
    for argument in arguments:
        shown = repr(argument[:_TEXT_LIMIT])
        if _CONTROL.search(argument):
            # A line break would end the options line and begin another key of the boot entry.
            raise invalid_kargs(where, f"has the argument {shown} with a control character", key=_KARGS)
        if argument.count('"') % 2:
            raise invalid_kargs(where, f"has the argument {shown} with an unclosed quote", key=_KARGS)
        if argument.startswith(DEPLOYMENT_KARG):
            raise invalid_kargs(where, f"has the argument {shown}, which only ostree sets", key=_KARGS)
    return arguments


def split_kargs(options: str) -> list[str]:
    """Split at white space that is not quoted, in order and with every repetition."""
    return _KARG.findall(options)


def merge_kargs(current: Sequence[str], old: Sequence[str], new: Sequence[str]) -> list[str]:
    """Return the arguments of a host that goes from one image to another.

    What `old` has and `new` has not is taken out, by key and value and once each, so that a repetition the
    host made itself stays, as libostree takes arguments out. What `new` has and `old` has not comes to the
    end unless it is there. All others stay as they are and where they are: a host keeps what it added, and
    does not get back what it took out.

    Args:
        current: those of the deployment the host has.
        old: those its image lists.
        new: those the new image lists.
    """
    before, after = set(old), set(new)
    removed = before - after
    merged = []
    for argument in current:
        if argument in removed:
            removed.remove(argument)
        else:
            merged.append(argument)
    there = set(merged)
    merged += [argument for argument in dict.fromkeys(new) if argument not in before | there]
    return merged


def rust_architecture(machine: str) -> str:
    """Return the name `match-architectures` has for a machine of uname(2)."""
    if re.fullmatch(r"i[3-6]86", machine):
        return "x86"
    if machine.startswith("armv"):
        return "arm"
    return _RUST_ARCHITECTURES.get(machine, machine)
