"""Kernel arguments read from commits in a real repository, of whatever form a commit gives them."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from bootcd.model.errors import BackendFailed, NotBootable
from bootcd.ostree.kargs import MAX_FILE_BYTES, MAX_FILES, read_deployed_kargs, read_kargs
from bootcd.ostree.repository import Repository
from tests.adapter.ostree.conftest import ostree

DIRECTORY = "usr/lib/bootc/kargs.d"

Commit = Callable[[], str]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with an empty kargs.d, which `commit` commits."""
    tree = tmp_path / "tree"
    (tree / DIRECTORY).mkdir(parents=True)
    return tree


@pytest.fixture
def kargs_d(tree: Path) -> Path:
    return tree / DIRECTORY


@pytest.fixture
def commit(repository: Repository, tree: Path) -> Commit:
    return lambda: ostree(repository, "commit", "--branch=x", f"--tree=dir={tree}").strip()


def test_files_are_read_in_the_order_of_their_names(
    repository: Repository, kargs_d: Path, commit: Commit
) -> None:
    for name in ("b", "10", "a", "9", "B", "ü"):
        (kargs_d / f"{name}.toml").write_text(f'kargs = ["name={name}"]\n')
    for name in ("README", ".toml", "c.toml.bak"):
        (kargs_d / name).write_text("not read\n")
    (kargs_d / "directory").mkdir()
    assert read_kargs(repository, commit()) == [f"name={name}" for name in ("10", "9", "B", "a", "b", "ü")]


def test_files_for_other_machines_are_left_out(repository: Repository, kargs_d: Path, commit: Commit) -> None:
    machine = {"ppc64le": "powerpc64"}.get(platform.machine(), platform.machine())
    (kargs_d / "1.toml").write_text('kargs = ["theirs"]\nmatch-architectures = ["vax"]\n')
    (kargs_d / "2.toml").write_text(f'kargs = ["ours"]\nmatch-architectures = ["vax", "{machine}"]\n')
    (kargs_d / "3.toml").write_text('kargs = ["nobody"]\nmatch-architectures = []\n')
    assert read_kargs(repository, commit()) == ["ours"]


@pytest.mark.parametrize("gone", [DIRECTORY, "usr/lib/bootc", "usr/lib"])
def test_image_without_the_directory_lists_none(
    repository: Repository, tree: Path, commit: Commit, gone: str
) -> None:
    path = tree / DIRECTORY
    while path != (tree / gone).parent:
        path.rmdir()
        path = path.parent
    assert read_kargs(repository, commit()) == []


def _directory_link(kargs_d: Path) -> None:
    kargs_d.rmdir()
    kargs_d.symlink_to("elsewhere")


def _parent_link(kargs_d: Path) -> None:
    kargs_d.rename(kargs_d.parent.parent / "elsewhere")
    kargs_d.parent.rmdir()
    kargs_d.parent.symlink_to("elsewhere")


def _many(kargs_d: Path) -> None:
    for number in range(MAX_FILES + 1):
        (kargs_d / f"{number}.toml").write_text("kargs = []\n")


def _much(kargs_d: Path) -> None:
    for number in range(5):
        (kargs_d / f"{number}.toml").write_text("kargs = []".ljust(MAX_FILE_BYTES, "\n"))


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "unknown-key": (lambda d: (d / "x.toml").write_text("kargs = []\nargs = []"), "kargs.d/x.toml"),
    "link": (lambda d: (d / "x.toml").symlink_to("y"), "kargs.d/x.toml"),
    "directory": (lambda d: (d / "x.toml").mkdir(), "kargs.d/x.toml"),
    "too-large": (
        lambda d: (d / "x.toml").write_text("kargs = []".ljust(MAX_FILE_BYTES + 1)),
        "kargs.d/x.toml",
    ),
    "name": (lambda d: (d / "a\nb\x1b.toml").write_text(""), "kargs.d/a b?.toml"),
    "too-many": (_many, "kargs.d of the image has more than 128 files"),
    "too-much": (_much, "kargs.d of the image has more than 64 KiB"),
    "directory-is-a-link": (_directory_link, "kargs.d of the image is not a directory"),
    "parent-is-a-link": (_parent_link, "/usr/lib/bootc of the image is not a directory"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_makes_no_sense_is_refused_of_a_new_image_and_nothing_of_a_deployed_one(
    repository: Repository,
    kargs_d: Path,
    commit: Commit,
    case: tuple[Callable[[Path], object], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    make, said = case
    make(kargs_d)
    checksum = commit()
    with pytest.raises(NotBootable) as refused:
        read_kargs(repository, checksum)
    assert said in refused.value.message
    assert refused.value.message.isprintable()
    with caplog.at_level(logging.WARNING):
        assert read_deployed_kargs(repository, checksum) == []
    assert said in caplog.text


def test_file_of_the_largest_size_is_read(repository: Repository, kargs_d: Path, commit: Commit) -> None:
    (kargs_d / "x.toml").write_text('kargs = ["a"]'.ljust(MAX_FILE_BYTES))
    assert read_kargs(repository, commit()) == ["a"]


def test_commit_that_is_gone_is_an_error_of_a_new_image_alone(repository: Repository) -> None:
    with pytest.raises(BackendFailed):
        read_kargs(repository, "0" * 64)
    assert read_deployed_kargs(repository, "0" * 64) == []
