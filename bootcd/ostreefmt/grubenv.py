"""GRUB's environment block: 1024 bytes of `name=value` lines, filled up with `#`. No I/O.

GRUB writes into the blocks of the file in place, so that it has to be there and to keep its size (GRUB
manual, "Environment block").
"""

from __future__ import annotations

SIZE = 1024
_HEADER = "# GRUB Environment Block\n"


def read_variable(block: bytes, name: str) -> str | None:
    """Return a variable of an environment block; None if it is not set."""
    for line in block.decode("latin-1").splitlines():
        key, separator, value = line.partition("=")
        if separator and key == name:
            return value
    return None


def change_block(block: bytes, changes: dict[str, str | None]) -> bytes:
    """Set or, with None, take away variables; everything else stays as it is.

    Raises:
        ValueError: it is no environment block, or has no room.
    """
    text = block.decode("latin-1")
    if len(block) != SIZE or not text.startswith(_HEADER):
        raise ValueError("not an environment block")
    lines = text[len(_HEADER) :].rstrip("#").splitlines()
    kept = [line for line in lines if line.partition("=")[0] not in changes]
    kept += [f"{name}={value}" for name, value in changes.items() if value is not None]
    content = _HEADER + "".join(f"{line}\n" for line in kept)
    if len(content) > SIZE:
        raise ValueError("the environment block is full")
    return content.ljust(SIZE, "#").encode("latin-1")


def empty_block() -> bytes:
    return _HEADER.ljust(SIZE, "#").encode()
