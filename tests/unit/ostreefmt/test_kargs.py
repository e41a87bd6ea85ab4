"""Kernel arguments of images and hosts: files of kargs.d, options lines, and what an update makes of them."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.model.errors import NotBootable
from bootcd.ostreefmt.kargs import KargsFile, merge_kargs, parse_kargs_toml, rust_architecture, split_kargs

WHERE = "/usr/lib/bootc/kargs.d/10-x.toml"


# options lines


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ("", []),
        ("  rw   quiet ", ["rw", "quiet"]),
        ("console=tty0 x x console=ttyS0", ["console=tty0", "x", "x", "console=ttyS0"]),
        ('a="b c" "d e=f" g', ['a="b c"', '"d e=f"', "g"]),
        ('dyndbg="file a.c +p; file b.c +p" rw', ['dyndbg="file a.c +p; file b.c +p"', "rw"]),
        ('rw a="b c', ["rw", 'a="b c']),
        ('rw a="b c\n', ["rw", 'a="b c\n']),
        ("rw ostree=/ostree/boot.1/x/y/0", ["rw", "ostree=/ostree/boot.1/x/y/0"]),
        ("a\tb\nc", ["a", "b", "c"]),
        ("name=no\u00a0break", ["name=no\u00a0break"]),
    ],
)
def test_options_line_is_split_with_quotes_order_and_repetitions_kept(
    options: str, arguments: list[str]
) -> None:
    assert split_kargs(options) == arguments


@given(st.text(alphabet='ab= "\t\n', max_size=40))
def test_split_of_any_line_loses_nothing_but_white_space_and_is_stable(options: str) -> None:
    arguments = split_kargs(options)
    assert all(arguments)
    assert "".join("".join(arguments).split()) == "".join(options.split())
    assert split_kargs(" ".join(arguments)) == arguments


# files


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("kargs = []", KargsFile(())),
        ('kargs = ["quiet", "console=ttyS0"]', KargsFile(("quiet", "console=ttyS0"))),
        ('kargs = ["x", "x"]', KargsFile(("x", "x"))),
        ('kargs = ["a b  c", ""]', KargsFile(("a", "b", "c"))),
        ("""kargs = ['a="b c" d']""", KargsFile(('a="b c"', "d"))),
        ('kargs = ["""\na\nb\n"""]', KargsFile(("a", "b"))),
        ('kargs = ["a"]\nmatch-architectures = []', KargsFile(("a",), frozenset())),
        (
            '# why\nmatch-architectures = ["x86_64", "aarch64"]\nkargs = ["a=ü"]\n',
            KargsFile(("a=ü",), frozenset({"x86_64", "aarch64"})),
        ),
    ],
)
def test_file_is_parsed_to_single_arguments(text: str, parsed: KargsFile) -> None:
    assert parse_kargs_toml(text.encode(), WHERE) == parsed


def test_file_holds_on_the_architectures_it_names() -> None:
    assert KargsFile(("a",)).arguments("x86_64") == ("a",)
    assert KargsFile(("a",), frozenset({"x86_64", "s390x"})).arguments("x86_64") == ("a",)
    assert KargsFile(("a",), frozenset({"s390x"})).arguments("x86_64") == ()
    assert KargsFile(("a",), frozenset()).arguments("x86_64") == ()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no key 'kargs'"),
        (b'match-architectures = ["x86_64"]', "no key 'kargs'"),
        (b'kargs = ["a"]\nkarg = ["b"]', "unknown key 'karg'"),
        (b'kargs = ["a"]\nmatch_architectures = ["b"]', "unknown key 'match_architectures'"),
        (b'kargs = ["a"]\n[more]\nx = 1', "unknown key 'more'"),
        (b'kargs = "quiet"', "'kargs' that is not a list of strings"),
        (b'kargs = ["quiet", 1]', "'kargs' that is not a list of strings"),
        (b'kargs = [["quiet"]]', "'kargs' that is not a list of strings"),
        (b"[kargs]\na = 1", "'kargs' that is not a list of strings"),
        (b'kargs = []\nmatch-architectures = "x86_64"', "'match-architectures' that is not a list"),
        (b"kargs = [quiet]", "not valid TOML"),
        (b"kargs = [" + b"9" * 5000 + b"]", "not valid TOML"),
        (b"kargs = " + b"[" * 16000, "not valid TOML"),
        (b'kargs = ["\xff"]', "not UTF-8"),
        (b'kargs = ["""a="\nlinux /evil\n" """]', "control character"),
        (b'kargs = ["a\\u0000b"]', "control character"),
        (b'kargs = ["a\\u001bb"]', "control character"),
        (b"kargs = ['a=\"b']", "unclosed quote"),
        (b'kargs = ["quiet ostree=/ostree/boot.0/x/y/0"]', "which only ostree sets"),
    ],
)
def test_file_that_breaks_the_format_is_refused_by_name(data: bytes, said: str) -> None:
    with pytest.raises(NotBootable) as refused:
        parse_kargs_toml(data, WHERE)
    assert said in refused.value.message
    assert refused.value.message.startswith(f"{WHERE} of the image ")
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 300
    assert refused.value.fields["path"] == WHERE


@pytest.mark.parametrize(
    "key", ["unknown", "a" * 10_000, "line\nbreak\x1b"], ids=["short", "long", "control"]
)
def test_unknown_key_is_named_within_bounds(key: str) -> None:
    with pytest.raises(NotBootable) as refused:
        parse_kargs_toml(f"kargs = []\n{json.dumps(key)} = 1".encode(), WHERE)
    assert repr(key[:20])[1:-1] in refused.value.message
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 300


@given(st.binary(max_size=60) | st.text(alphabet="kargs=[]\"'\n,. \\{}#1", max_size=60).map(str.encode))
def test_file_of_any_bytes_is_parsed_or_refused(data: bytes) -> None:
    try:
        parsed = parse_kargs_toml(data, WHERE)
    except NotBootable:
        return
    assert split_kargs(" ".join(parsed.kargs)) == list(parsed.kargs)


WORDS = st.text(alphabet='ab=/-ü" ', max_size=12).filter(lambda text: text.count('"') % 2 == 0)


@given(st.lists(WORDS, max_size=5), st.none() | st.lists(st.sampled_from(["x86_64", "arm"]), max_size=3))
def test_file_means_its_strings_joined(texts: list[str], architectures: list[str] | None) -> None:
    text = f"kargs = {json.dumps(texts, ensure_ascii=False)}\n"
    if architectures is not None:
        text += f"match-architectures = {json.dumps(architectures)}\n"
    parsed = parse_kargs_toml(text.encode(), WHERE)
    assert list(parsed.kargs) == split_kargs(" ".join(texts))
    assert parsed.architectures == (None if architectures is None else frozenset(architectures))


@pytest.mark.parametrize(
    ("machine", "architecture"),
    [
        ("x86_64", "x86_64"),
        ("aarch64", "aarch64"),
        ("i686", "x86"),
        ("armv7l", "arm"),
        ("ppc64le", "powerpc64"),
        ("s390x", "s390x"),
        ("riscv64", "riscv64"),
        ("loongarch64", "loongarch64"),
    ],
)
def test_architecture_goes_by_the_name_rust_has(machine: str, architecture: str) -> None:
    assert rust_architecture(machine) == architecture
    assert rust_architecture(os.uname().machine)


# updates


@pytest.mark.parametrize(
    ("current", "old", "new", "merged"),
    [
        ("rw", "", "quiet", "rw quiet"),
        ("root=1 rw quiet mine", "quiet", "quiet", "root=1 rw quiet mine"),
        ("root=1 quiet mine", "quiet", "", "root=1 mine"),
        ("rw level=3 mine", "level=3", "level=5", "rw mine level=5"),
        ("rw level=7", "level=3", "level=5", "rw level=7 level=5"),
        ("rw level=31 level", "level=3", "", "rw level=31 level"),
        ("rw quiet", "", "quiet", "rw quiet"),
        ("rw", "quiet", "quiet other", "rw other"),
        ("rw", "", "b a b", "rw b a"),
        ("rw", "", "console=tty0 console=ttyS0", "rw console=tty0 console=ttyS0"),
        ("x rw x", "x", "", "rw x"),
        ("dup dup rw", "", "new", "dup dup rw new"),
        ("dup rw", "dup dup", "dup", "dup rw"),
        ('a="b c" rw', 'a="b c"', 'a="b d"', 'rw a="b d"'),
    ],
    ids=[
        "first-list",
        "unchanged",
        "removed",
        "changed",
        "changed-here-too",
        "not-by-prefix",
        "there-already",
        "taken-out-here",
        "order-of-the-list",
        "one-key-twice",
        "repeated-here",
        "repetitions-stay",
        "repeated-in-the-list",
        "quoted",
    ],
)
def test_merge_changes_what_differs_between_the_images(current: str, old: str, new: str, merged: str) -> None:
    assert merge_kargs(split_kargs(current), split_kargs(old), split_kargs(new)) == split_kargs(merged)


KARGS = st.lists(st.sampled_from(["a", "b", "c=1", "c=2", 'd="x y"', "e"]), max_size=8)


@given(KARGS, KARGS, KARGS)
def test_merge_of_any_lists_keeps_to_the_rule(current: list[str], old: list[str], new: list[str]) -> None:
    merged = merge_kargs(current, old, new)
    both, neither = set(old) & set(new), set(current) - set(old) - set(new)
    for argument in both | neither:
        assert merged.count(argument) == current.count(argument)
    for argument in set(old) - set(new):
        assert merged.count(argument) == max(0, current.count(argument) - 1)
    for argument in set(new) - set(old):
        assert merged.count(argument) == max(1, current.count(argument))
    kept = [argument for argument in merged if argument in neither]
    assert kept == [argument for argument in current if argument in neither]


@given(KARGS, KARGS)
def test_merge_with_an_unchanged_list_changes_nothing(current: list[str], old: list[str]) -> None:
    assert merge_kargs(current, old, old) == current


@given(st.lists(st.sampled_from(["mine", "root=1", "mine=2"]), max_size=4), KARGS, KARGS)
def test_merge_takes_a_host_from_one_image_to_another_and_back(
    mine: list[str], first: list[str], second: list[str]
) -> None:
    start = merge_kargs(mine, [], first)
    there = merge_kargs(start, first, second)
    assert sorted(there) == sorted([*mine, *set(second)])
    assert sorted(merge_kargs(there, second, first)) == sorted(start)
    assert merge_kargs(start, first, []) == mine
