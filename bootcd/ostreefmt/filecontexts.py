"""Which rules of an SELinux policy's file contexts speak of a path.

libselinux tries a path against thousands of regular expressions, which takes it a third of a millisecond
before version 3.8: half a minute for a system. But a label depends on a path only through the rules that
match it, and a system has a few hundred different sets of them. So a caller asks libselinux once for each
set, and it stays libselinux that decides; a path that cannot be judged here with certainty is asked for
each time.

Most rules begin with a long literal text, so few of them have to be tried for a path.

Formats: file contexts and substitutions of selabel_file(5).
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Cell = tuple[int, ...]
"Numbers of the rules that match a path: paths of one cell and one file type have one label."

MAX_RULES = 100_000
MAX_PATH_BYTES = 512
MAX_REPEATS = 3
"Of unbounded repetitions in one rule: with the length of a path, they bound the time it takes to try it."

_MAX_DIRECTORIES = 4096


class FileContexts:
    """The rules of one policy. Not for several threads at a time."""

    def __init__(self, texts: Iterable[bytes], substitutions: Iterable[bytes] = ()) -> None:
        """Take the text of each file of rules, and of each file of substitutions.

        Raises ValueError if there are more rules than any policy has.
        """
        self._literal: dict[bytes, list[int]] = {}
        self._nodes: dict[bytes, _Node] = {}
        self._directories: dict[bytes, list[_Node]] = {}
        self._replaced = tuple(line.split()[0] for text in substitutions for line in _lines(text))
        rules = (line.split(None, 1)[0] for text in texts for line in _lines(text))
        for number, pattern in enumerate(rules):
            if number >= MAX_RULES:
                raise ValueError("more rules than any policy has")
            prefix, end, is_literal = _judge(pattern)
            if is_literal and end == len(pattern):
                self._literal.setdefault(prefix, []).append(number)
            else:
                node = self._nodes.get(prefix)
                if node is None:
                    node = self._nodes[prefix] = _Node(prefix)
                node.add(number, pattern[:end], is_whole=end == len(pattern))
        self._lengths = sorted({len(prefix) for prefix in self._nodes})

    def cell(self, path: bytes) -> Cell | None:
        """Return the cell of an absolute path; None if it stands for itself alone."""
        if len(path) > MAX_PATH_BYTES or b"\n" in path or self._is_replaced(path):
            return None
        found = list(self._literal.get(path, ()))
        for node in self._nodes_of(path):
            if not node.collect(path, found):
                return None
        return tuple(found)

    def _is_replaced(self, path: bytes) -> bool:
        """Whether libselinux looks for another path in the place of this one."""
        return path.startswith(self._replaced) and any(
            path.startswith(source) and path[len(source) : len(source) + 1] in (b"", b"/")
            for source in self._replaced
        )

    def _nodes_of(self, path: bytes) -> list[_Node]:
        """Return the nodes whose literal text a path begins with."""
        directory = path[: path.rfind(b"/") + 1]
        nodes = self._directories.get(directory)
        if nodes is None:
            if len(self._directories) >= _MAX_DIRECTORIES:
                self._directories.clear()
            nodes = self._directories[directory] = self._with_prefix(directory, 0)
        return nodes + self._with_prefix(path, len(directory) + 1)

    def _with_prefix(self, path: bytes, shortest: int) -> list[_Node]:
        nodes, lengths = self._nodes, self._lengths
        start, end = bisect_left(lengths, shortest), bisect_right(lengths, len(path))
        return [node for length in lengths[start:end] if (node := nodes.get(path[:length]))]


class _Node:
    """Rules that begin with one literal text; compiled when a path asks for them."""

    __slots__ = ("_any", "_below", "_everything", "_patterns", "_prefix", "_rules")

    def __init__(self, prefix: bytes) -> None:
        self._prefix = prefix
        self._everything: list[int] = []
        self._below: list[int] = []
        "Rules for the prefix as a path and all below it."
        self._patterns: list[tuple[int, bytes, bool]] = []
        self._rules: list[tuple[int, re.Pattern[bytes], bool]] | None = None
        self._any = re.compile(b"")

    def add(self, number: int, pattern: bytes, *, is_whole: bool) -> None:
        if is_whole and pattern == re.escape(self._prefix) + b".*":
            self._everything.append(number)
        elif is_whole and pattern == re.escape(self._prefix) + b"(/.*)?":
            self._below.append(number)
        else:
            # libselinux frames each like this.
            framed = b"^%b$" % pattern if is_whole else b"^%b" % pattern
            self._patterns.append((number, framed, is_whole))

    def collect(self, path: bytes, found: list[int]) -> bool:
        """Add the rules that match a path; False if one may or may not."""
        found += self._everything
        length = len(self._prefix)
        if self._below and path[length : length + 1] in (b"", b"/"):
            found += self._below
        if not self._patterns:
            return True
        rules = self._rules
        if rules is None:
            rules = self._rules = self._compiled()
        if self._any.match(path) is None:
            return True
        for number, pattern, is_whole in rules:
            if pattern.match(path):
                if not is_whole:
                    return False
                found.append(number)
        return True

    def _compiled(self) -> list[tuple[int, re.Pattern[bytes], bool]]:
        try:
            if len(self._patterns) > 1:
                either = b"|".join(b"(?:%b)" % pattern for _, pattern, _ in self._patterns)
                self._any = re.compile(either, re.DOTALL)
            return [(n, re.compile(pattern, re.DOTALL), is_whole) for n, pattern, is_whole in self._patterns]
        except (re.error, OverflowError, RecursionError):
            self._any = re.compile(b"")
            return [(0, re.compile(b""), False)]


def _lines(text: bytes) -> Iterator[bytes]:
    for line in text.split(b"\n"):
        stripped = line.strip()
        if stripped and not stripped.startswith(b"#"):
            yield stripped


# What means the same to PCRE and to Python. No group is repeated without bound, and none is special.
_SIMPLE = rb"(?:[^\\^$.|?*+()\[\]{}]|\\[^A-Za-z0-9]|\.|\\d|\[\^?[^\[\]\\^]+\])(?:[?*+](?![?*+]))?(?!\{)"
_GROUP = rb"\((?!\?)(?:%b|\|)*\)\??(?![?*+{])"
_NESTED = _GROUP % (rb"(?:%b|%b)" % (_SIMPLE, _GROUP % _SIMPLE))
_ATOM = re.compile(rb"(?:%b|%b)" % (_SIMPLE, _NESTED))
_LITERAL = re.compile(rb"\\?([^\\])")
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_REPEAT = re.compile(rb"[*+]")


def _judge(pattern: bytes) -> tuple[bytes, int, bool]:
    """Take a pattern apart as far as it is sure what it means.

    Returns the literal text it begins with, where the part ends that is sure (a match of the whole begins
    with a match of it), and whether that part is the literal text alone.
    """
    if _has_open_alternative(pattern):
        return b"", 0, False
    prefix = bytearray()
    is_literal = True
    at = repeats = 0
    while at < len(pattern):
        atom = _ATOM.match(pattern, at)
        if atom is None:
            break
        text = atom.group()
        repeats += len(_REPEAT.findall(_ESCAPE.sub(b"", text)))
        if repeats > MAX_REPEATS:
            break
        literal = _LITERAL.fullmatch(text)
        is_literal = is_literal and literal is not None and text not in (b".", rb"\d")
        if is_literal and literal:
            prefix += literal[1]
        at = atom.end()
    return bytes(prefix), at, is_literal


def _has_open_alternative(pattern: bytes) -> bool:
    """Whether a pattern has alternatives that no group holds."""
    depth = 0
    for char in _ESCAPE.sub(b"", pattern):
        depth += (char == 0x28) - (char == 0x29)
        if char == 0x7C and depth <= 0:
            return True
    return False
