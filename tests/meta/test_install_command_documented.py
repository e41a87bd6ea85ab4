"""Manual page and completions of bootcd-install say what its parser accepts, and nothing else."""

import argparse
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bootcd.install.cli import build_parser
from bootcd.install.settings import InstallSettings
from tests.meta.test_command_documented import MAN, needs_man, options, rendered

COMPLETION = Path(__file__).resolve().parents[2] / "bootcd/install/completion"
PAGE = MAN / "bootcd-install.8"
NAMES = ["bootcd-install.bash", "_bootcd-install", "bootcd-install.fish"]


def verbs() -> dict[str, argparse.ArgumentParser]:
    [action] = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(action.choices)


ALL_OPTIONS = sorted(options(build_parser()).union(*(options(verb) for verb in verbs().values())))


@needs_man
def test_manual_page_has_every_verb_and_option_and_no_other() -> None:
    text = rendered(PAGE)
    for verb in verbs():
        assert re.search(rf"^ {{7}}{verb}\b", text, re.MULTILINE), verb
    for option in ALL_OPTIONS:
        assert re.search(rf"(?<![-\w]){option}(?![-\w])", text), option
    assert set(re.findall(r"(?<![-\w])--[a-z][-a-z]*", text)) <= set(ALL_OPTIONS)


@needs_man
def test_manual_page_has_every_key_of_the_configuration() -> None:
    text = rendered(PAGE)
    for name, key in InstallSettings.model_fields.items():
        assert (key.alias or name) in text, name


@pytest.mark.parametrize("name", NAMES)
def test_completion_has_every_verb_and_option(name: str) -> None:
    text = (COMPLETION / name).read_text()
    for verb in verbs():
        assert re.search(rf"(?<![-\w]){verb}(?![-\w])", text), verb
    for option in (option for option in ALL_OPTIONS if option.startswith("--")):
        fish = rf"-l {option[2:]}(?![-\w])"
        assert re.search(fish if name.endswith("fish") else rf"(?<![-\w]){option}(?![-\w])", text), option


@pytest.mark.parametrize("verb", sorted(verbs()))
def test_bash_completes_the_long_options_of_each_verb(verb: str) -> None:
    expected = {option for option in options(verbs()[verb]) if option.startswith("--")}
    script = (
        f"source {COMPLETION}/bootcd-install.bash; COMP_WORDS=(bootcd-install {verb} --); COMP_CWORD=2;"
        ' _bootcd_install; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == expected


@pytest.mark.parametrize(("shell", "name"), list(zip(["bash", "zsh", "fish"], NAMES, strict=True)))
def test_completion_is_accepted_by_its_shell(shell: str, name: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run(
        [program, "-n", str(COMPLETION / name)], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
