"""Manual page and completions of bootcd-image say what its parser accepts, and nothing else."""

import re
import subprocess
from pathlib import Path

import pytest

from bootcd.image.__main__ import build_parser
from tests.meta.test_command_documented import MAN, needs_man, rendered

COMPLETION = Path(__file__).resolve().parents[2] / "bootcd/image/completion"
PAGE = MAN / "bootcd-image.1"
OPTIONS = {
    *("--help", "--version", "--authfile", "--plain-http", "--ca-file", "--previous", "--max-layers"),
    *("--compression", "--level", "--arch", "--spool-dir", "--json"),
}


def test_options_named_here_are_those_of_the_parser(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["notes", "push", "--help"], ["rechunk", "--help"]):
        with pytest.raises(SystemExit):
            build_parser().parse_args(arguments)
    assert set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) | {"--version"} == OPTIONS


@needs_man
def test_manual_page_has_every_option_and_no_other() -> None:
    assert set(re.findall(r"(?<![-\w])--[a-z][-a-z]*", rendered(PAGE))) == OPTIONS


@pytest.mark.parametrize("name", ["bootcd-image.bash", "_bootcd-image", "bootcd-image.fish"])
def test_completion_has_every_option(name: str) -> None:
    text = (COMPLETION / name).read_text()
    for option in OPTIONS:
        wanted = rf"-l {option[2:]}\b" if name.endswith("fish") else rf"(?<![-\w]){option}(?![-\w])"
        assert re.search(wanted, text), option


@pytest.mark.parametrize(
    ("shell", "name"),
    [("bash", "bootcd-image.bash"), ("zsh", "_bootcd-image"), ("fish", "bootcd-image.fish")],
)
def test_completion_is_accepted_by_its_shell(shell: str, name: str) -> None:
    done = subprocess.run(
        [shell, "-n", str(COMPLETION / name)], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
