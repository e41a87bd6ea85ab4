"""Where names of a layer's archive end up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.model.errors import InvalidLayer
from bootcd.ostreefmt.paths import (
    Delete,
    Kind,
    Mapped,
    Marker,
    map_hardlink_target,
    map_path,
    whiteout_target,
)

CHUNK = "sysroot/ostree/repo/objects/ab/cd.file"

KEPT = [
    (".", ""),
    ("./", ""),
    ("/", ""),
    ("usr", "usr"),
    ("usr/", "usr"),
    ("usr/bin/sh", "usr/bin/sh"),
    ("usr/share/dir/", "usr/share/dir"),
    ("/usr//share/./doc/", "usr/share/doc"),
    ("./usr/lib/.build-id", "usr/lib/.build-id"),
    ("usr/share/a..b/..c", "usr/share/a..b/..c"),
    ("usr/share/é", "usr/share/é"),
    ("usr/etc/passwd", "usr/etc/passwd"),
    ("var/lib/x", "var/lib/x"),
    ("etc", "usr/etc"),
    ("etc/passwd", "usr/etc/passwd"),
    ("././etc//ssh/", "usr/etc/ssh"),
    ("/etc/etc/etc", "usr/etc/etc/etc"),
    ("run", "run"),
    ("./tmp/", "tmp"),
    ("proc", "proc"),
    ("sys", "sys"),
    ("dev/", "dev"),
    ("usr/bin/.wh.sh", "usr/bin/.wh.sh"),
    ("etc/.wh..wh..opq", "usr/etc/.wh..wh..opq"),
    (".wh.etc", "usr/.wh.etc"),
    (".wh.usr", ".wh.usr"),
    (".wh.tmp", ".wh.tmp"),
    (".wh..wh..opq", ".wh..wh..opq"),
]


@pytest.mark.parametrize("allow_nonusr", [True, False], ids=["all", "usr-only"])
@pytest.mark.parametrize(("name", "path"), KEPT, ids=[name for name, _ in KEPT])
def test_map_path_inside_the_system_is_kept(name: str, path: str, allow_nonusr: bool) -> None:
    assert map_path(name, allow_nonusr=allow_nonusr, directory=True) == Mapped(Kind.KEEP, path)


@pytest.mark.parametrize("allow_nonusr", [True, False], ids=["all", "usr-only"])
@pytest.mark.parametrize(
    ("name", "counted"),
    [
        ("run/x", "run"),
        ("run/lock/y", "run"),
        ("./tmp//f", "tmp"),
        ("proc/1", "proc"),
        ("sys/a", "sys"),
        ("dev/null", "dev"),
        ("run/.wh.x", "run"),
        ("usr/.wh..wh.plnk/1.2", ".wh..wh.plnk"),
        ("usr/.wh..wh.aufs", ".wh..wh.aufs"),
        (".wh..wh.orph", ".wh..wh.orph"),
        ("usr/.wh..wh..opq/x", ".wh..wh..opq"),
    ],
)
def test_map_path_into_api_directory_or_aufs_data_is_dropped(
    name: str, counted: str, allow_nonusr: bool
) -> None:
    assert map_path(name, allow_nonusr=allow_nonusr, directory=False) == Mapped(Kind.DROP, counted)


@pytest.mark.parametrize(
    ("name", "path", "counted"),
    [
        ("opt/app/bin", "opt/app/bin", "opt"),
        ("/boot", "boot", "boot"),
        ("root/.bashrc", "root/.bashrc", "root"),
        ("usrlocal/x", "usrlocal/x", "usrlocal"),
        (".hidden", ".hidden", ".hidden"),
        (".wh.opt", ".wh.opt", "opt"),
        ("sysroot/ostree", "sysroot/ostree", "sysroot"),
        ("sysroot/ostree/repo", "sysroot/ostree/repo", "sysroot"),
        ("ostree", "ostree", "ostree"),
    ],
)
def test_map_path_outside_the_system_depends_on_the_host(name: str, path: str, counted: str) -> None:
    assert map_path(name, allow_nonusr=True, directory=False) == Mapped(Kind.KEEP, path)
    assert map_path(name, allow_nonusr=False, directory=False) == Mapped(Kind.DROP, counted)


@pytest.mark.parametrize("allow_nonusr", [True, False], ids=["all", "usr-only"])
@pytest.mark.parametrize("name", [CHUNK, "/" + CHUNK, "./" + CHUNK])
def test_map_path_of_repository_object_is_told_apart(name: str, allow_nonusr: bool) -> None:
    assert map_path(name, allow_nonusr=allow_nonusr, directory=False) == Mapped(Kind.CHUNK_OBJECT, CHUNK)
    assert map_hardlink_target(name, allow_nonusr=allow_nonusr) == Mapped(Kind.CHUNK_OBJECT, CHUNK)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        "../etc/passwd",
        "usr/../../etc",
        "usr/..",
        "usr/x/../y",
        "/..",
        "boot/../x",
        "run/../etc",
        "usr/a\0b",
        "etc/\0",
        "usr/\udcff",
        "opt/\ud800",
        "usr/" + "a" * 256,
        "usr/" + "é" * 128,
        "usr" + "/aa" * 1400,
        "opt/" + "a" * 256,
    ],
    ids=lambda name: ascii(name)[1:30],
)
@pytest.mark.parametrize("allow_nonusr", [True, False], ids=["all", "usr-only"])
def test_map_path_impossible_name_raises(name: str, allow_nonusr: bool) -> None:
    with pytest.raises(InvalidLayer):
        map_path(name, allow_nonusr=allow_nonusr, directory=True)


@pytest.mark.parametrize("name", [".", "/", "usr", "./usr/", "etc", "/etc", "usr/etc", "./usr/etc", "var"])
def test_map_path_file_where_directory_must_be_raises(name: str) -> None:
    map_path(name, allow_nonusr=True, directory=True)
    with pytest.raises(InvalidLayer, match="must be a directory"):
        map_path(name, allow_nonusr=True, directory=False)
    with pytest.raises(InvalidLayer):
        map_hardlink_target(name, allow_nonusr=True)


@pytest.mark.parametrize("name", ["tmp", "run", "usr/lib", "home", "usr/local"])
def test_map_path_link_at_other_directory_is_kept(name: str) -> None:
    assert map_path(name, allow_nonusr=True, directory=False) == Mapped(Kind.KEEP, name)


def test_map_path_longest_names_linux_holds_are_kept() -> None:
    name = "usr/" + "é" * 127 + "x/" + "b" * 255
    assert map_path(name, allow_nonusr=False, directory=False) == Mapped(Kind.KEEP, name)


def test_map_path_error_shows_no_control_characters() -> None:
    with pytest.raises(InvalidLayer) as caught:
        map_path("usr/../\x1b[2J", allow_nonusr=True, directory=False)
    assert "\x1b" not in caught.value.message + str(caught.value.fields)


@pytest.mark.parametrize(
    ("name", "mapped"),
    [
        ("etc/hosts", Mapped(Kind.KEEP, "usr/etc/hosts")),
        ("./usr/bin/x", Mapped(Kind.KEEP, "usr/bin/x")),
        ("/run/x", Mapped(Kind.DROP, "run")),
        ("opt/x", Mapped(Kind.DROP, "opt")),
    ],
)
def test_map_hardlink_target_goes_where_the_file_went(name: str, mapped: Mapped) -> None:
    assert map_hardlink_target(name, allow_nonusr=False) == mapped


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("file", None),
        (".whx", None),
        ("x.wh.y", None),
        (".wh.file", Delete("file")),
        (".wh..hidden", Delete(".hidden")),
        (".wh....", Delete("...")),
        (".wh..wh..opq", Marker.OPAQUE),
        (".wh..wh.plnk", Marker.IGNORED),
        (".wh..wh..opq2", Marker.IGNORED),
    ],
)
def test_whiteout_target_tells_what_is_hidden(name: str, target: Delete | Marker | None) -> None:
    assert whiteout_target(name) == target


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh..."])
def test_whiteout_target_that_names_no_sibling_raises(name: str) -> None:
    with pytest.raises(InvalidLayer):
        whiteout_target(name)
    with pytest.raises(InvalidLayer):
        map_path(name, allow_nonusr=True, directory=False)


part = st.sampled_from(
    ["usr", "etc", "var", "run", "opt", ".", "..", "", "x", ".wh.x", ".wh..wh..opq", "é", "\udc80"]
)
names = st.lists(part, max_size=6).map("/".join)


@given(names, st.booleans(), st.booleans())
def test_map_path_any_name_stays_inside_the_root(name: str, allow_nonusr: bool, directory: bool) -> None:
    try:
        mapped = map_path(name, allow_nonusr=allow_nonusr, directory=directory)
    except InvalidLayer:
        return
    mapped.path.encode()
    if mapped.kind is Kind.KEEP and mapped.path:
        parts = mapped.path.split("/")
        assert not {"", ".", ".."} & set(parts)
        assert parts[0] != "etc"
        if not allow_nonusr:
            assert parts[0] in {"usr", "var", "run"} or parts[0].startswith(".wh.")
        if parts[0] not in {"run"} and not parts[-1].startswith(".wh."):
            # A mapped path maps to itself: mapping twice, as for a stored layer, changes nothing.
            assert map_path(mapped.path, allow_nonusr=allow_nonusr, directory=directory) == mapped


@given(names, st.booleans())
def test_map_path_spelling_does_not_matter(name: str, allow_nonusr: bool) -> None:
    def outcome(spelled: str) -> Mapped | None:
        try:
            return map_path(spelled, allow_nonusr=allow_nonusr, directory=True)
        except InvalidLayer:
            return None

    plain = outcome("usr/" + name)
    for spelled in (f"./usr/{name}", f"/usr/{name}", f"usr//{name}", f"usr/./{name}", f"usr/{name}/"):
        assert outcome(spelled) == plain
