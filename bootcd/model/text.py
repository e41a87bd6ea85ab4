"""The words of others, made fit for a message: those of a program, a registry, an image."""

from __future__ import annotations

SHOWN_CHARACTERS = 300


def one_line(text: str, limit: int = SHOWN_CHARACTERS) -> str:
    """Reduce a text to one printable line of at most `limit` characters."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def last_line(output: bytes) -> str:
    """Return what a program said last, likewise; empty if it said nothing."""
    lines = (line.strip() for line in reversed(output.decode(errors="replace").splitlines()))
    return one_line(next(filter(None, lines), ""))
