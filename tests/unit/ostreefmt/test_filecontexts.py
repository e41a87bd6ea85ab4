"""Cells of paths: paths of one cell are matched by the same rules, whatever the rules are."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.ostreefmt import filecontexts
from bootcd.ostreefmt.filecontexts import FileContexts

RULES = rb"""
# comment
/.*                                u:r:default_t:s0
/usr(/.*)?                         u:r:usr_t:s0
/usr/bin/su                    --  u:r:su_t:s0
/usr/c\+\+                         u:r:cpp_t:s0
/usr/(s)?bin(/.*)?                 u:r:bin_t:s0
/usr/s?bin/x                       u:r:x_t:s0
/usr/lib/.*\.so(\.[^/]*)*          u:r:lib_t:s0
/usr/(.*/)?lib(64)?(/.*)?/n/.+\.s.*o u:r:many_t:s0
/usr/share/[[:digit:]]+            u:r:class_t:s0
/usr/share/a{2}b                   u:r:braces_t:s0
/usr/share/(?i)CASE                u:r:case_t:s0
/usr/share/(a|b)/(c(d)?)?          u:r:group_t:s0
/home/[^/]+/\.ssh(/.*)?            u:r:ssh_t:s0
/opt/(a+)+b                        u:r:bomb_t:s0
"""


def patterns() -> list[bytes]:
    lines = (line.split() for line in RULES.splitlines())
    return [line[0] for line in lines if line and line[0] != b"#"]


def matching(path: bytes) -> set[int]:
    """Say which rules match, by trying all of them; Python writes two things in another way."""
    found = set()
    for number, pattern in enumerate(patterns()):
        text = pattern.replace(b"[[:digit:]]", b"[0-9]")
        text = text.replace(b"(?i)CASE", b"(?i:CASE)")
        if re.match(b"^" + text + b"$", path, re.DOTALL):
            found.add(number)
    return found


NAMES = "usr bin sbin lib lib64 su x share a b c aab case CASE 12 libx.so.1 n home me .ssh c++ opt aaab é"
PART = st.sampled_from(NAMES.split(" "))
PATH = st.lists(PART, min_size=1, max_size=6).map(lambda parts: ("/" + "/".join(parts)).encode())


@given(PATH)
def test_cell_holds_exactly_the_rules_that_match(path: bytes) -> None:
    cell = FileContexts([RULES]).cell(path)
    assert cell is None or set(cell) == matching(path)


def test_cell_of_ordinary_paths_is_known() -> None:
    contexts = FileContexts([RULES])
    for path in (
        b"/",
        b"/usr",
        b"/usr/bin/su",
        b"/usr/sbin/x",
        b"/usr/c++",
        b"/etc/passwd",
        b"/home/a/.ssh/k",
    ):
        assert contexts.cell(path) is not None, path
    assert contexts.cell(b"/usr/lib/a") == contexts.cell(b"/usr/lib/b/c")
    assert contexts.cell(b"/usr/lib/a") != contexts.cell(b"/usr/bin/a")


@pytest.mark.parametrize(
    "path",
    [
        b"/usr/lib/x.so.1",
        b"/usr/x/lib64/n/y.so",
        b"/usr/share/12",
        b"/usr/share/aab",
        b"/usr/share/CASE",
        b"/opt/aaab",
        b"/a\nb",
        b"/usr/" + b"x" * filecontexts.MAX_PATH_BYTES,
    ],
    ids=["group-repeated", "many-repeats", "class", "braces", "option", "nested", "line-feed", "long"],
)
def test_cell_of_a_path_that_cannot_be_judged_is_none(path: bytes) -> None:
    assert FileContexts([RULES]).cell(path) is None


def test_cell_of_a_path_that_stands_for_another_is_none() -> None:
    contexts = FileContexts([RULES], [b"/usr/lib64 /usr/lib\n# c\n/alias /usr\n"])
    assert contexts.cell(b"/usr/lib64") is None
    assert contexts.cell(b"/usr/lib64/x") is None
    assert contexts.cell(b"/alias/bin") is None
    assert contexts.cell(b"/usr/lib640") is not None


def test_alternatives_outside_groups_make_every_path_ask() -> None:
    assert FileContexts([b"/a|b u:r:t:s0\n"]).cell(b"/usr") is None


def test_hostile_rules_take_no_time() -> None:
    rules = b"\n".join(b"/(a*)*(a+)+a*a*a*a*a*%d u:r:t:s0" % number for number in range(50))
    contexts = FileContexts([rules])
    start = time.perf_counter()
    for _ in range(20):
        contexts.cell(b"/" + b"a" * 400)
    assert time.perf_counter() - start < 1


def test_more_rules_than_a_policy_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filecontexts, "MAX_RULES", 3)
    with pytest.raises(ValueError, match="rules"):
        FileContexts([b"/a u\n/b u\n/c u\n/d u\n"])
