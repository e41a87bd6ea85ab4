from pathlib import Path

from bootcd.update.machine import to_dot

DRAWING = Path(__file__).parents[2] / "docs" / "states.dot"
COMMAND = (
    ".venv/bin/python -c 'from bootcd.update.machine import to_dot; print(to_dot(), end=\"\")' "
    "> docs/states.dot"
)


def test_states_dot_is_what_the_table_draws() -> None:
    assert DRAWING.read_text() == to_dot(), f"stale; draw it again: {COMMAND}"
