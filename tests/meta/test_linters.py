"""Style, types and the import contract, as tests like all others."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)  # the first run of mypy has no cache to start from
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["-m", "ruff", "check", "--quiet", "."], id="ruff check"),
        pytest.param(["-m", "ruff", "format", "--check", "--quiet", "--diff", "."], id="ruff format"),
        pytest.param(["-m", "mypy"], id="mypy"),
        pytest.param(
            ["-c", "from importlinter.cli import lint_imports_command as run; run()"], id="import contract"
        ),
    ],
)
def test_linter_of_the_whole_tree_is_content(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"python {' '.join(arguments)} says:\n{done.stdout}"
