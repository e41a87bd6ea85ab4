"""What the words of a command line stand for."""

from pathlib import Path

import pytest

from bootcd.engine.source import parse_source
from bootcd.install.__main__ import main
from bootcd.install.arguments import common_options
from bootcd.install.cli import REFUSED_OPTIONS, REFUSED_VERBS, build_parser
from bootcd.install.prepare import Options
from bootcd.model.errors import BootcdError, InvalidArguments, InvalidImage
from bootcd.ostreefmt.origin import SignaturePolicy


def parse(tmp_path: Path, *words: str) -> Options:
    source = ["--source-imgref", "quay.io/example/os:1", "--config-dir", str(tmp_path)]
    return common_options(build_parser().parse_args(["to-disk", "/dev/x", *source, *words]))


@pytest.mark.parametrize(
    ("text", "transport", "name"),
    [
        ("quay.io/example/os:1", "registry", "quay.io/example/os:1"),
        ("docker://quay.io/example/os:1", "registry", "quay.io/example/os:1"),
        ("registry:quay.io/example/os:1", "registry", "quay.io/example/os:1"),
        ("oci:5000/os:1", "registry", "oci:5000/os:1"),
        ("oci:/layout:v1", "oci", "/layout:v1"),
        ("oci-archive:/file.tar", "oci-archive", "/file.tar"),
    ],
)
def test_source_is_understood(text: str, transport: str, name: str) -> None:
    tracked = parse_source(text)
    assert (tracked.transport, tracked.name) == (transport, name)


def test_source_in_files_is_named_from_the_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_source("oci:layout:v1").name == f"{tmp_path}/layout:v1"


@pytest.mark.parametrize("text", ["", "fedora", "oci:", "quay.io/UPPER"])
def test_source_that_names_no_image_is_refused(text: str) -> None:
    with pytest.raises(InvalidImage):
        parse_source(text)


def test_target_is_the_source_unless_it_is_named(tmp_path: Path) -> None:
    assert parse(tmp_path).target.name == "quay.io/example/os:1"
    words = ["--target-imgref", "registry.example/other:2", "--enforce-container-sigpolicy"]
    target = parse(tmp_path, *words).target
    assert target.name == "registry.example/other:2"
    assert target.signature is SignaturePolicy.CONTAINER_POLICY


def test_kernel_arguments_are_split_and_checked(tmp_path: Path) -> None:
    assert parse(tmp_path, "--karg", 'a=1 b="x y"', "--karg=c").kargs == ("a=1", 'b="x y"', "c")
    for wrong in ("a\x01b", "ostree=/x", 'a="b'):
        with pytest.raises(InvalidArguments):
            parse(tmp_path, "--karg", wrong)


def test_kernel_argument_cannot_begin_a_line_of_the_boot_entry(tmp_path: Path) -> None:
    assert parse(tmp_path, "--karg", "a\nlinux /evil").kargs == ("a", "linux", "/evil")
    with pytest.raises(InvalidArguments):
        parse(tmp_path, "--karg", 'a="\nlinux /evil"')


@pytest.mark.parametrize("name", ["", ".", "a/b", "-x", "a b", "x" * 65])
def test_state_root_that_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArguments):
        parse(tmp_path, f"--stateroot={name}")


def test_file_of_keys_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BootcdError, match="cannot be read"):
        parse(tmp_path, "--root-ssh-authorized-keys", str(tmp_path / "none"))


@pytest.mark.parametrize("option", sorted(REFUSED_OPTIONS))
def test_option_only_bootc_has_is_refused_by_name(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["to-disk", "/dev/x", f"{option}=x"]) == 6
    assert option in capsys.readouterr().err


@pytest.mark.parametrize("verb", sorted(REFUSED_VERBS))
def test_verb_only_bootc_has_is_refused_by_name(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--whatever"]) == 6
    assert REFUSED_VERBS[verb] in capsys.readouterr().err
