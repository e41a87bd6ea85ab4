import argparse
import re

import pytest

from bootcctl.cli import build_parser, parse
from bootcctl.exitcodes import MEANINGS, USAGE, Failure


def test_parse_nothing_is_status() -> None:
    options = parse([])
    assert (options.verb, options.json, options.format, options.booted) == ("status", False, "", False)


@pytest.mark.parametrize("argv", [["--json", "jobs"], ["jobs", "--json"]], ids=["before", "after"])
def test_parse_common_option_is_taken_before_and_after_the_verb(argv: list[str]) -> None:
    assert parse(argv).json is True


def test_parse_all_common_options_together() -> None:
    options = parse(["--bus", "unix:path=/x", "-q", "history", "--no-color", "-n", "7"])
    assert (options.bus, options.quiet, options.no_color, options.limit) == ("unix:path=/x", True, True, 7)


@pytest.mark.parametrize("form", ["human", "humanreadable", "yaml", "json"])
def test_parse_format_decides_over_json_as_with_bootc(form: str) -> None:
    options = parse(["status", "--json", "--format", form, "--format-version", "0"])
    assert (options.format, options.json) == (form, form == "json")


def test_parse_upgrade_check_is_check() -> None:
    options = parse(["upgrade", "--check", "--no-wait"])
    assert (options.verb, options.no_wait) == ("check", True)


def test_parse_switch_takes_an_image() -> None:
    options = parse(["switch", "quay.io/example/os:1", "--apply"])
    assert (options.image, options.apply, options.download_only) == ("quay.io/example/os:1", True, False)


@pytest.mark.parametrize(
    ("transport", "given", "asked"),
    [
        ("registry", "quay.io/x:1", "quay.io/x:1"),
        ("oci", "/mnt/os:1", "/mnt/os:1"),
        ("oci", "os:1", "/here/os:1"),
        ("oci-archive", "../usb/os.tar", "/usb/os.tar"),
        ("oci-archive", "./a/../os.tar:a:b", "/here/os.tar:a:b"),
        ("docker-archive", "os.tar:localhost/os:1", "/here/os.tar:localhost/os:1"),
        ("dir", "a:b/../c", "/here/c"),
        ("containers-storage", "localhost/os:1", "localhost/os:1"),
    ],
)
def test_parse_switch_makes_a_path_absolute(
    monkeypatch: pytest.MonkeyPatch, transport: str, given: str, asked: str
) -> None:
    monkeypatch.setattr("os.getcwd", lambda: "/here")
    options = parse(["switch", "--transport", transport, given])
    assert (options.transport, options.image) == (transport, asked)


@pytest.mark.parametrize(
    "argv",
    [
        ["nonsense"],
        ["switch", "--transport", "docker-daemon", "os:1"],
        ["status", "--nonsense"],
        ["switch"],
        ["switch", "a", "b"],
        ["switch", "os:1", "--tag", "prod"],
        ["switch", "--tag", "prod", "--retain"],
        ["switch", "--tag", "prod", "--transport", "oci"],
        ["switch", "--tag", "prod", "--enforce-container-sigpolicy"],
        ["upgrade", "--apply", "--download-only"],
        ["upgrade", "--check", "--apply"],
        ["upgrade", "--check", "--download-only"],
        ["upgrade", "--check", "--tag", "1"],
        ["upgrade", "--check", "--expect-digest", "sha256:0"],
        ["upgrade", "--check", "--allow-downgrade"],
        ["upgrade", "--check", "--from-downloaded"],
        ["upgrade", "--check", "--soft-reboot", "auto"],
        ["upgrade", "--soft-reboot", "soon"],
        ["kargs", "quiet"],
        ["drop"],
        ["upgrade", "--downl"],
        ["upgrade", "--progress-fd", "2"],
        ["upgrade", "--progress-fd", "x"],
        ["upgrade", "--progress-fd", "9" * 5000],
        ["upgrade", "--progress-fd", "3", "--no-wait"],
        ["why", "--metered", "perhaps"],
        ["why", "--battery-percent", "101"],
        ["why", "--battery-percent", "-1"],
        ["history", "--limit", "0"],
        ["history", "--limit", "1001"],
        ["history", "--limit", "-1"],
        ["history", "--limit", "٣"],
        ["history", "--limit", "9" * 5000],
        ["status", "--format", "xml"],
        ["status", "--format-version", "2"],
    ],
    ids=lambda argv: " ".join(argv)[:40],
)
def test_parse_wrong_command_line_is_a_usage_failure(argv: list[str]) -> None:
    with pytest.raises(Failure) as caught:
        parse(argv)
    assert caught.value.code == USAGE
    assert "--help" in caught.value.hint or " not go with it" in caught.value.message
    assert not caught.value.message.endswith(".")


@pytest.mark.parametrize(
    "argv",
    [
        ["apply", "--at", ""],
        ["apply", "--defer="],
        ["upgrade", "--expect-digest", ""],
        ["upgrade", "--tag="],
        ["switch", "--tag", "", "quay.io/example/os:1"],
        ["check", "--max-age", ""],
        ["pause", "--until", ""],
        ["why", "--at", ""],
    ],
    ids=" ".join,
)
def test_parse_empty_value_is_not_the_option_left_out(argv: list[str]) -> None:
    with pytest.raises(Failure, match="its value is empty") as failure:
        parse(argv)
    assert failure.value.code == USAGE


@pytest.mark.parametrize("limit", ["1", "1000"])
def test_parse_history_limit_bounds_are_accepted(limit: str) -> None:
    assert parse(["history", "--limit", limit]).limit == int(limit)


def test_help_lists_every_verb_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for code, meaning in MEANINGS:
        assert f"{code}  {meaning}" in text
    for verb in verbs():
        assert re.search(rf"^    {verb}\s", text, re.MULTILINE), verb
    assert "--bus" not in text


def test_help_of_every_option_is_written() -> None:
    for name, verb in verbs().items():
        for action in verb._actions:
            assert action.help, f"{name} {action.dest}"


def test_parser_of_one_verb_is_that_of_all_without_the_others() -> None:
    for name, verb in verbs().items():
        [(only, alone)] = verbs(name).items()
        assert (only, alone.format_help()) == (name, verb.format_help())


@pytest.mark.parametrize("argv", [["statu"], ["--json", "statu"], ["statu", "status"]], ids=" ".join)
def test_parse_wrong_verb_names_all_there_are(argv: list[str]) -> None:
    with pytest.raises(Failure, match=r"invalid choice: 'statu' .*'upgrade'.*'mock'"):
        parse(argv)


def test_parse_value_of_an_option_is_not_taken_for_the_verb() -> None:
    options = parse(["--bus", "check", "history"])
    assert (options.bus, options.verb) == ("check", "history")


@pytest.mark.parametrize("columns", ["50", "100"])
def test_help_is_as_wide_as_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    longest = max(len(line) for line in verbs("inhibit")["inhibit"].format_help().splitlines())
    assert int(columns) - 20 < longest <= int(columns) - 2


def verbs(only: str = "") -> dict[str, argparse.ArgumentParser]:
    for action in build_parser(only)._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("the parser has no verbs")


@pytest.mark.parametrize("option", ["--apply", "--no-wait"])
def test_parse_kargs_without_a_change_takes_no_option_of_one(option: str) -> None:
    with pytest.raises(Failure, match="no kernel argument is to be changed") as caught:
        parse(["kargs", option])
    assert caught.value.code == USAGE


def test_parse_kargs_takes_several_changes() -> None:
    options = parse(
        ["kargs", "--append", "a=1", "--append", "b", "--delete=c", "--replace", "d=1=2", "--apply"]
    )
    assert (options.append, options.delete, options.replace) == (["a=1", "b"], ["c"], ["d=1=2"])
    assert options.apply
