from pathlib import Path

import pytest

from bootcd.ostree.config_diff import compare_trees


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("image", "host"):
        (tmp_path / name / "sub/deep").mkdir(parents=True)
        (tmp_path / name / "same").write_text("same")
        (tmp_path / name / "sub/deep/edited").write_text("old")
        (tmp_path / name / "link").symlink_to("same")
    return tmp_path / "image", tmp_path / "host"


def test_equal_trees_differ_in_nothing(trees: tuple[Path, Path]) -> None:
    assert list(compare_trees(*trees)) == []


def test_each_kind_of_change_is_told(trees: tuple[Path, Path]) -> None:
    image, host = trees
    (host / "sub/deep/edited").write_text("new")
    (host / "same").chmod(0o600)
    (host / "link").unlink()
    (host / "link").symlink_to("other")
    (host / "new/below").mkdir(parents=True)
    (host / "new/below/file").write_text("x")
    (image / "gone/with").mkdir(parents=True)
    (image / "turned").write_text("file")
    (host / "turned").mkdir()
    assert list(compare_trees(image, host)) == [
        ("D", "gone"),
        ("M", "link"),
        ("A", "new"),
        ("A", "new/below"),
        ("A", "new/below/file"),
        ("M", "same"),
        ("M", "sub/deep/edited"),
        ("M", "turned"),
    ]


def test_links_are_not_followed(trees: tuple[Path, Path]) -> None:
    image, host = trees
    for tree, target in ((image, image), (host, host)):
        (tree / "loop").symlink_to(target)
    assert list(compare_trees(image, host)) == [("M", "loop")]


def test_what_may_not_be_read_is_told_apart(
    trees: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bool:
        raise PermissionError

    monkeypatch.setattr("bootcd.ostree.config_diff._same_content", refuse)
    monkeypatch.setattr("bootcd.ostree.config_diff.os.access", lambda path, _: path.name != "sub")
    assert list(compare_trees(*trees)) == [("?", "same"), ("?", "sub")]
