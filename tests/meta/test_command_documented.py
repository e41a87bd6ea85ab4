"""Manual pages and completions say what the parsers accept, and nothing else."""

import argparse
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bootcctl.cli import build_parser
from bootcctl.exitcodes import MEANINGS
from bootcd.__main__ import _parser as daemon_parser

REPOSITORY = Path(__file__).resolve().parents[2]
MAN = REPOSITORY / "docs/man"
COMPLETION = REPOSITORY / "bootcctl/completion"
PAGES = sorted(MAN.iterdir())


def verbs() -> dict[str, argparse.ArgumentParser]:
    [action] = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(action.choices)


def options(parser: argparse.ArgumentParser) -> set[str]:
    """Return the options that are shown to users."""
    return {
        name
        for action in parser._actions
        if action.help is not argparse.SUPPRESS
        for name in action.option_strings
    }


ALL_OPTIONS = sorted(options(build_parser()).union(*(options(verb) for verb in verbs().values())))


def rendered(page: Path) -> str:
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", str(page)],
        env={"PATH": "/usr/bin:/bin", "MANWIDTH": "400", "MANROFFOPT": "-rHY=0", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stderr == ""
    return re.sub("[‐−]", "-", done.stdout)


needs_man = pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")


@needs_man
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_manual_page_is_formatted_without_a_warning(page: Path) -> None:
    text = rendered(page)
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "SEE ALSO"):
        assert f"\n{section}\n" in text


@needs_man
def test_manual_page_of_the_command_has_every_verb_and_option() -> None:
    text = rendered(MAN / "bootcctl.1")
    for verb in verbs():
        assert re.search(rf"^ {{7}}{verb}\b", text, re.MULTILINE), verb
    for option in ALL_OPTIONS:
        assert re.search(rf"(?<![-\w]){option}(?![-\w])", text), option


@needs_man
def test_manual_page_of_the_command_has_no_option_that_is_not_there() -> None:
    named = set(re.findall(r"(?<![-\w])--[a-z][-a-z]*", rendered(MAN / "bootcctl.1")))
    assert named <= set(ALL_OPTIONS)


@needs_man
def test_manual_page_of_the_command_has_every_exit_code() -> None:
    text = rendered(MAN / "bootcctl.1")
    for code, meaning in MEANINGS:
        assert re.search(rf"^ +{code} +{re.escape(meaning)}$", text, re.MULTILINE), code


@needs_man
def test_manual_page_of_the_daemon_has_every_option_and_setting() -> None:
    text = rendered(MAN / "bootcd.8")
    for option in options(daemon_parser()):
        assert re.search(rf"(?<![-\w]){option}(?![-\w])", text), option
    table = (REPOSITORY / "docs/config.md").read_text()
    for key in re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE):
        assert re.search(rf"\b{key}\b", text), key


@pytest.mark.parametrize("name", ["bootcctl.bash", "_bootcctl", "bootcctl.fish"])
def test_completion_has_every_verb_and_option(name: str) -> None:
    text = (COMPLETION / name).read_text()
    for verb in verbs():
        assert re.search(rf"(?<![-\w]){verb}(?![-\w])", text), verb
    for option in (option for option in ALL_OPTIONS if option.startswith("--")):
        fish = rf"-l {option[2:]}\b"
        assert re.search(fish if name.endswith("fish") else rf"(?<![-\w]){option}(?![-\w])", text), option


def complete(line: str, directory: Path) -> set[str]:
    """Ask the bash completion for the word at the end of a line."""
    words = line.split(" ")
    script = (
        f"source {COMPLETION}/bootcctl.bash; COMP_WORDS=({' '.join(repr(word) for word in words)});"
        f' COMP_CWORD={len(words) - 1}; _bootcctl; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(
        ["bash", "-euc", script],
        env={"PATH": f"{directory}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.split())


def test_bash_completes_verbs_and_common_options(tmp_path: Path) -> None:
    assert set(verbs()) <= complete("bootcctl ", tmp_path)
    assert complete("bootcctl --js", tmp_path) == {"--json"}
    assert complete("bootcctl --json up", tmp_path) == {"upgrade"}


@pytest.mark.parametrize("verb", sorted(verbs()))
def test_bash_completes_the_long_options_of_each_verb(verb: str, tmp_path: Path) -> None:
    expected = {option for option in options(verbs()[verb]) if option.startswith("--")}
    assert complete(f"bootcctl {verb} --", tmp_path) == expected


def test_bash_completes_values_and_jobs(tmp_path: Path) -> None:
    program = tmp_path / "bootcctl"
    program.write_text(
        "#!/bin/sh\nprintf 'NUMBER KIND STATE\\n3 check done\\n4 upgrade running\\n5 switch cancelling\\n'\n"
    )
    program.chmod(0o755)
    assert complete("bootcctl status --format ", tmp_path) == {"human", "yaml", "json"}
    assert {"4", "5"} <= complete("bootcctl cancel ", tmp_path)
    assert "3" not in complete("bootcctl cancel ", tmp_path)


@pytest.mark.parametrize(
    ("shell", "name"), [("bash", "bootcctl.bash"), ("zsh", "_bootcctl"), ("fish", "bootcctl.fish")]
)
def test_completion_is_accepted_by_its_shell(shell: str, name: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run(
        [program, "-n", str(COMPLETION / name)], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
