"""Images must have the size and the changes that are asked for, or the figures are of something else."""

from __future__ import annotations

from tests.bench.images import LAYERS, _first, _in_layers
from tests.support.debian_tree import FileTree, file

GROUPS = [[f"usr/{group}/{number}" for number in range(4)] for group in range(100)]
TREE: FileTree = {path: file(b"x" * (1 + 10 * n)) for n, group in enumerate(GROUPS) for path in group}


def test_layers_hold_every_file_once_and_are_of_one_size() -> None:
    layers = list(_in_layers(GROUPS, TREE, LAYERS))
    assert len(layers) == LAYERS
    assert sorted(path for layer in layers for path in layer) == sorted(TREE)
    sizes = [sum(TREE[path].size for path in layer) for layer in layers]
    assert max(sizes) - min(sizes) <= max(node.size for node in TREE.values()) * 4


def test_first_group_that_reaches_a_size_is_found() -> None:
    assert _first(GROUPS, TREE, 4) == 0
    assert _first(GROUPS, TREE, 5) == 1
    assert _first(GROUPS, TREE, 1 << 40) == len(GROUPS)
