"""The words of others, made fit for a message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.model.text import last_line, one_line


@given(st.text(), st.integers(min_value=1, max_value=400))
def test_one_line_is_printable_and_no_longer_than_asked(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert line.isprintable()
    assert len(line) <= limit


def test_one_line_keeps_words_and_marks_what_it_left_out() -> None:
    assert one_line(" no\tsuch \x1b[31mfile\n") == "no such ?[31mfile"
    assert one_line("abcdef", 4) == "abc…"


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (b"", ""),
        (b"\n \n", ""),
        (b"first\nerror: last\n\n", "error: last"),
        (b"progress\rdone", "done"),
        (b"\xff", "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_last_line_is_what_was_said_last(output: bytes, line: str) -> None:
    assert last_line(output) == line
