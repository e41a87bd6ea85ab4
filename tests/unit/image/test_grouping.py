"""Times of files that go into layers."""

from __future__ import annotations

import pytest

from bootcd.image.flatten import Node
from bootcd.image.grouping import keep_times
from bootcd.oci.chunked import LATEST_TIME, modtime
from bootcd.oci.tar import EntryType, TarEntry


def node(mtime: int, kind: EntryType = EntryType.FILE) -> Node:
    return Node(TarEntry("", kind, 0o644, 0, 0, 0, "", mtime, {}))


@pytest.mark.parametrize(
    ("before", "after"),
    [(10**15, LATEST_TIME), (LATEST_TIME, LATEST_TIME), (1_700_000_000, 1_700_000_000), (-(10**15), 0)],
)
def test_times_become_ones_that_tables_of_contents_can_say(before: int, after: int) -> None:
    tree = {"a": node(before), "b": node(before, EntryType.DIRECTORY)}
    keep_times(tree, {})
    assert (tree["a"].entry.mtime, tree["b"].entry.mtime) == (after, 0)
    assert modtime(after)


def test_unchanged_file_keeps_the_time_of_the_version_before() -> None:
    tree = {"a": node(2)}
    keep_times(tree, {"a": node(1)})
    assert tree["a"].entry.mtime == 1
