"""The oracle must be right where the product could be wrong: white-outs, links, mapping."""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.tree import Entry, Tree, apply_layer, deployed, differences, scan_tree


def layer(*members: str) -> io.BytesIO:
    """Write `name/` as directory, `a -> b` as link, `a => b` as hard link, `name=text` as file."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for member in members:
            info = tarfile.TarInfo(member)
            info.mode = 0o644
            content = b""
            if " => " in member:
                info.name, info.linkname = member.split(" => ")
                info.type = tarfile.LNKTYPE
            elif " -> " in member:
                info.name, info.linkname = member.split(" -> ")
                info.type = tarfile.SYMTYPE
            elif member.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif "=" in member:
                info.name, _, text = member.partition("=")
                content = text.encode()
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    stream.seek(0)
    return stream


def flattened(*layers: tuple[str, ...]) -> Tree:
    tree: Tree = {}
    for members in layers:
        apply_layer(tree, layer(*members))
    return tree


@pytest.mark.parametrize(
    ("lower", "upper", "left"),
    [
        pytest.param(("a/", "a/x=1", "a/y=2"), ("a/.wh.x",), {"a", "a/y"}, id="one file"),
        pytest.param(("a/", "a/d/", "a/d/x=1"), ("a/.wh.d",), {"a"}, id="a directory and all below"),
        pytest.param(("ab=1", "a/", "a/x=1"), (".wh.a",), {"ab"}, id="at the top, names alike"),
        pytest.param(("a/", "a/x=1", "a/d/", "a/d/y=1"), ("a/.wh..wh..opq",), {"a"}, id="opaque"),
        pytest.param(("a/", "a/x=1"), ("a/", "a/z=3", "a/.wh..wh..opq"), {"a", "a/z"}, id="opaque mark last"),
        pytest.param(("a/", "a/x=1"), ("a/.wh..wh..opq", "a/x=2"), {"a", "a/x"}, id="opaque mark first"),
        pytest.param(
            ("a/", "a/x=1"), ("a/x=2", "a/.wh.x"), {"a", "a/x"}, id="white-out spares its own layer"
        ),
        pytest.param(("a/",), ("a/.wh.absent",), {"a"}, id="nothing to hide"),
        pytest.param(("a/", "a/x=1"), ("a=file",), {"a"}, id="file over directory"),
        pytest.param(("a=file",), ("a/", "a/x=1"), {"a", "a/x"}, id="directory over file"),
        pytest.param(("a/", "a/x=1"), ("a -> b",), {"a"}, id="link over directory"),
        pytest.param(("a/", "a/x=1"), ("a/",), {"a", "a/x"}, id="directory over directory"),
        pytest.param((), ("deep/er/x=1",), {"deep", "deep/er", "deep/er/x"}, id="parents unnamed"),
        pytest.param(("./a/", "./a/x=1"), ("./a/.wh.x",), {"a"}, id="names with a leading dot"),
    ],
)
def test_apply_layer_follows_the_specification(
    lower: tuple[str, ...], upper: tuple[str, ...], left: set[str]
) -> None:
    assert flattened(lower, upper).keys() == left


def test_apply_layer_with_hard_links_keeps_one_inode_and_follows_lower_layer() -> None:
    tree = flattened(("a=1", "b => a"), ("c => a",), ("a=2",))

    assert tree["b"].inode == tree["c"].inode != tree["a"].inode
    assert tree["b"].sha256 == tree["c"].sha256 != tree["a"].sha256


def test_apply_layer_with_file_below_file_is_refused() -> None:
    with pytest.raises(AssertionError, match="a/x lies below a"):
        flattened(("a=1",), ("a/x=1",))


def test_deployed_maps_and_drops_as_bootc_does() -> None:
    tree = flattened(
        (
            "etc/",
            "etc/f=1",
            "etc/hostname=",
            "etc/resolv.conf=full",
            "run/",
            "run/x=1",
            "dev/",
            "var/",
            "var/lib/",
        ),
        ("var/lib/f=1", "opt -> var/opt", "usr/", "usr/f=1"),
    )
    plain = {"usr/etc", "usr/etc/f", "usr/etc/resolv.conf", "run", "dev", "opt", "usr", "usr/f", "var"}

    assert deployed(tree, factory_var=False).keys() == plain | {"var/lib", "var/lib/f"}
    factory = {f"usr/share/factory{rest}" for rest in ("", "/var", "/var/lib", "/var/lib/f")}
    assert deployed(tree, factory_var=True).keys() == plain | factory


def test_deployed_drops_devices() -> None:
    assert deployed({"usr/null": Entry("other", 0o666, 0, 0)}, factory_var=False) == {}


def test_scan_tree_reads_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o711)
    (tmp_path / "d/f").write_text("1")
    (tmp_path / "d/f").chmod(0o600)
    (tmp_path / "d/g").hardlink_to(tmp_path / "d/f")
    (tmp_path / "l").symlink_to("./nowhere//x")
    os.mkfifo(tmp_path / "p")
    os.setxattr(tmp_path / "d/f", "user.test", b"\xff")
    (tmp_path / "left/out").mkdir(parents=True)

    tree = scan_tree(tmp_path, without=["left"])

    assert tree.keys() == {"d", "d/f", "d/g", "l", "p"}
    assert (tree["d"].type, tree["d"].mode) == ("directory", 0o711)
    assert (tree["d/f"].mode, tree["d/f"].xattrs) == (0o600, (("user.test", b"\xff"),))
    assert tree["d/f"] == tree["d/g"]
    assert (tree["l"].type, tree["l"].target) == ("symlink", "./nowhere//x")
    assert tree["p"].type == "other"


CHANGES = {
    "type": "symlink",
    "mode": 0o4755,
    "uid": 7,
    "gid": 7,
    "xattrs": (("user.x", b"1"),),
    "sha256": "0",
    "target": "elsewhere",
}


@pytest.mark.parametrize("field", CHANGES)
def test_differences_names_each_field(field: str) -> None:
    tree = flattened(("a=1",))
    changed = {"a": replace(tree["a"], **{field: CHANGES[field]})}

    (line,) = differences(tree, changed)

    assert line.startswith(f"a: {field} is ")


def test_differences_of_names_and_links() -> None:
    image = flattened(("a=1", "b => a", "empty=", "other => empty"))
    disk = image | {"b": replace(image["b"], inode=99), "other": replace(image["other"], inode=98)}
    del disk["empty"]
    disk["new"] = image["a"]

    assert differences(image, image) == []
    assert differences(image, disk) == [
        "b: is not the same file as a",
        "empty: missing",
        "new: not expected",
    ]
