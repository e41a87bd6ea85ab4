"""The table of conventions shared with other tools names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_every_convention_is_shown_by_a_test_that_is_there() -> None:
    table = re.findall(r"^\| (?!convention|---).*\| `(tests/[^`]+)::(\w+)` \|$", *_rows())
    assert len(table) == len(re.findall(r"^\| (?!convention|-)", *_rows()))
    for path, name in table:
        source = (REPOSITORY / path).read_text()
        assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), f"{path}::{name}"


def _rows() -> tuple[str, int]:
    return (REPOSITORY / "docs/interop.md").read_text(), re.MULTILINE
