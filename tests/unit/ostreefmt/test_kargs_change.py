"""Changes of kernel arguments: what each does, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.model.errors import InvalidArguments, WrongState
from bootcd.ostreefmt.kargs_change import MAX_ARGUMENT, MAX_CHANGES, KargsChange, change_kargs, check_change

HOST = ["root=LABEL=root", "rw", "console=tty0", "console=ttyS0", "quiet", "quiet", 'dyndbg="file a.c +p"']
WORDS = st.text(st.sampled_from('ab=" o'), max_size=8)


@pytest.mark.parametrize(
    ("change", "gone", "came"),
    [
        (KargsChange(append=["audit=0"]), [], ["audit=0"]),
        (KargsChange(append=["rw", "rw", "a", "a"]), [], ["a"]),
        (KargsChange(delete=["rw"]), ["rw"], []),
        (KargsChange(delete=["root"]), ["root=LABEL=root"], []),
        (KargsChange(delete=["console=tty0"]), ["console=tty0"], []),
        (KargsChange(delete=["quiet"]), ["quiet", "quiet"], []),
        (KargsChange(delete=['dyndbg="file a.c +p"']), ['dyndbg="file a.c +p"'], []),
        (KargsChange(delete=["console=tty0"], append=["console=tty0"]), ["console=tty0"], ["console=tty0"]),
        (KargsChange(delete=["rw"], append=["ro"]), ["rw"], ["ro"]),
        (KargsChange(append=["ostreefs=1", "x.ostree=1"]), [], ["ostreefs=1", "x.ostree=1"]),
    ],
    ids=lambda value: repr(value) if isinstance(value, KargsChange) else "",
)
def test_change_takes_out_and_appends(change: KargsChange, gone: list[str], came: list[str]) -> None:
    check_change(change)
    assert change_kargs(HOST, change) == [a for a in HOST if a not in gone] + came


@pytest.mark.parametrize(
    ("wanted", "old", "new"),
    [
        ("console=ttyS0=ttyS1,115200", "console=ttyS0", "console=ttyS1,115200"),
        ("root=LABEL=root=UUID=1-2", "root=LABEL=root", "root=UUID=1-2"),
        ('dyndbg="file b.c +p"', 'dyndbg="file a.c +p"', 'dyndbg="file b.c +p"'),
        ("console=tty0=", "console=tty0", "console="),
        ("rw=1", "rw", "rw=1"),
    ],
)
def test_replace_puts_the_new_value_where_the_old_one_was(wanted: str, old: str, new: str) -> None:
    change = KargsChange(replace=[wanted])
    check_change(change)
    assert change_kargs(HOST, change) == [new if argument == old else argument for argument in HOST]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (KargsChange(delete=["absent"]), "no kernel argument absent"),
        (KargsChange(delete=["rw=1"]), "no kernel argument rw=1"),
        (KargsChange(delete=["console"]), "2 kernel arguments console"),
        (KargsChange(replace=["absent=1"]), "no kernel argument absent"),
        (KargsChange(replace=["console=tty1"]), "2 kernel arguments console"),
        (KargsChange(replace=["console=tty9=tty1"]), "no kernel argument console with the value"),
        (KargsChange(replace=["root=UUID=1"]), "no kernel argument root with the value"),
    ],
    ids=repr,
)
def test_change_of_what_is_not_there_is_refused(change: KargsChange, words: str) -> None:
    check_change(change)
    with pytest.raises(WrongState, match=words) as error:
        change_kargs(HOST, change)
    assert error.value.hint


def test_replace_that_can_be_read_in_two_ways_is_refused() -> None:
    with pytest.raises(WrongState, match="2 ways"):
        change_kargs(["a=b", "a=b=c"], KargsChange(replace=["a=b=c=d"]))


@pytest.mark.parametrize(
    "argument",
    [
        "",
        " ",
        "a b",
        "a\nlinux=/x",
        "a\tb",
        "\x7f",
        '"',
        'a="b',
        "=b",
        "ostree=/x",
        "ostree",
        "a" * 2049,
        "\ud800",
    ],
    ids=lambda text: ascii(text[:12]),
)
@pytest.mark.parametrize("how", ["append", "delete", "replace"])
def test_what_is_no_argument_or_is_not_to_be_touched_is_refused(how: str, argument: str) -> None:
    assert MAX_ARGUMENT == 2048
    with pytest.raises(InvalidArguments):
        check_change(KargsChange(**{how: [argument]}))


def test_empty_and_endless_changes_and_replacements_without_a_value_are_refused() -> None:
    for change in (KargsChange(), KargsChange(append=["a"] * (MAX_CHANGES + 1)), KargsChange(replace=["a"])):
        with pytest.raises(InvalidArguments):
            check_change(change)


@given(
    delete=st.lists(WORDS, max_size=2),
    replace=st.lists(WORDS, max_size=2),
    append=st.lists(WORDS, max_size=2),
)
def test_no_change_makes_an_argument_that_names_a_deployment(
    delete: list[str], replace: list[str], append: list[str]
) -> None:
    change = KargsChange(delete, replace, append)
    current = ["a=b", "ab", "b=o=a", "o"]
    try:
        check_change(change)
        after = change_kargs(current, change)
    except (InvalidArguments, WrongState):
        return
    assert all(len(argument.split()) == 1 or '"' in argument for argument in after)
    assert not any(argument.startswith("ostree=") for argument in after)
