"""The pure formats against libostree and GLib themselves, byte for byte."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gi
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bootcd.model.errors import BootcdError, InvalidImage
from bootcd.ostreefmt import objects, refs
from bootcd.ostreefmt.metadata import merge_commit_metadata, parse_merge_metadata
from bootcd.ostreefmt.objects import ObjectKind
from bootcd.ostreefmt.origin import IMAGE_KEY, ORIGIN_GROUP, Origin, TrackedImage, parse_origin

gi.require_version("OSTree", "1.0")
from gi.repository import Gio, GLib, OSTree  # noqa: E402

REG = stat.S_IFREG | 0o644
DIR = stat.S_IFDIR | 0o755
LNK = stat.S_IFLNK | 0o777

Xattrs = tuple[tuple[bytes, bytes], ...]

ids = st.integers(0, 0xFFFFFFFE)
permissions = st.integers(0, 0o7777)
checksums = st.binary(min_size=32, max_size=32)
entry_names = (
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0/"), min_size=1, max_size=60)
    | st.text(st.sampled_from("xé"), min_size=100, max_size=127)
    | st.text(st.just("x"), min_size=180, max_size=255)
).filter(lambda name: name not in (".", ".."))
xattr_sets = st.dictionaries(
    st.binary(min_size=1, max_size=40).filter(lambda name: 0 not in name),
    st.binary(max_size=40) | st.just(b"v" * 254),
    max_size=4,
).map(lambda attrs: tuple(attrs.items()))


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A bare repository in a transaction that is never committed."""
    path = tmp_path_factory.mktemp("repo")
    repo = OSTree.Repo.new(Gio.File.new_for_path(str(path)))
    repo.create(OSTree.RepoMode.BARE_USER, None)
    repo.prepare_transaction(None)
    yield repo
    repo.abort_transaction(None)


def file_info(uid: int, gid: int, mode: int, target: str = "", size: int = 0) -> Any:
    info = Gio.FileInfo()
    info.set_attribute_uint32("unix::uid", uid)
    info.set_attribute_uint32("unix::gid", gid)
    info.set_attribute_uint32("unix::mode", mode)
    info.set_size(size)
    types = {
        stat.S_IFREG: Gio.FileType.REGULAR,
        stat.S_IFLNK: Gio.FileType.SYMBOLIC_LINK,
        stat.S_IFDIR: Gio.FileType.DIRECTORY,
    }
    info.set_file_type(types[stat.S_IFMT(mode)])
    if target:
        info.set_attribute_byte_string("standard::symlink-target", target)
    return info


def xattr_variant(xattrs: Sequence[tuple[bytes, bytes]]) -> Any:
    # Old libostree hashes the order it is given, new libostree sorts; the sorted one suits both.
    return GLib.Variant("a(ayay)", [(name + b"\0", value) for name, value in sorted(xattrs)])


def libostree_file_checksum(info: Any, xattrs: Xattrs, content: bytes | None) -> str:
    stream = None
    if content is not None:
        stream = Gio.MemoryInputStream.new_from_bytes(GLib.Bytes.new(content))
    ok, raw = OSTree.checksum_file_from_input(
        info, xattr_variant(xattrs), stream, OSTree.ObjectType.FILE, None
    )
    assert ok
    return bytes(raw).hex()


@settings(deadline=None)
@given(ids, ids, permissions, xattr_sets, st.binary(max_size=100))
def test_file_header_hashes_to_libostrees_name(
    uid: int, gid: int, mode: int, xattrs: Xattrs, content: bytes
) -> None:
    mode |= stat.S_IFREG
    ours = hashlib.sha256(objects.file_header(uid, gid, mode, xattrs=xattrs) + content).hexdigest()
    assert ours == libostree_file_checksum(file_info(uid, gid, mode, size=len(content)), xattrs, content)


@settings(deadline=None)
@given(
    ids,
    ids,
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=300),
    xattr_sets,
)
def test_file_header_of_link_hashes_to_libostrees_name(
    uid: int, gid: int, target: str, xattrs: Xattrs
) -> None:
    ours = objects.checksum(objects.file_header(uid, gid, LNK, target, xattrs))
    assert ours == libostree_file_checksum(file_info(uid, gid, LNK, target), xattrs, None)


@settings(deadline=None)
@given(ids, ids, permissions, xattr_sets)
def test_dirmeta_equals_libostrees_bytes(uid: int, gid: int, mode: int, xattrs: Xattrs) -> None:
    mode |= stat.S_IFDIR
    theirs = OSTree.create_directory_metadata(file_info(uid, gid, mode), xattr_variant(xattrs))
    data = theirs.get_data_as_bytes().get_data()
    assert objects.dirmeta(uid, gid, mode, xattrs) == data
    assert objects.parse_dirmeta(data) == (uid, gid, mode, tuple(sorted(xattrs)))


@pytest.mark.parametrize("size", [65500, 65536])
def test_large_attribute_equals_libostrees_bytes(size: int) -> None:
    xattrs = ((b"user.b", b"v" * size), (b"user.a", b"w" * 300))
    theirs = OSTree.create_directory_metadata(file_info(0, 0, DIR), xattr_variant(xattrs))
    assert objects.dirmeta(0, 0, DIR, xattrs) == theirs.get_data_as_bytes().get_data()
    ours = objects.checksum(objects.file_header(0, 0, REG, xattrs=xattrs))
    assert ours == libostree_file_checksum(file_info(0, 0, REG), xattrs, b"")


def libostree_dirtree(repo: Any, files: dict[str, bytes], dirs: dict[str, tuple[bytes, bytes]]) -> bytes:
    """Let libostree write a directory of these entries and return the object's bytes."""
    tree = OSTree.MutableTree.new()
    tree.set_metadata_checksum("0" * 64)
    for name, file_id in files.items():
        tree.replace_file(name, file_id.hex())
    for name, (tree_id, meta_id) in dirs.items():
        _, child = tree.ensure_dir(name)
        child.set_contents_checksum(tree_id.hex())
        child.set_metadata_checksum(meta_id.hex())
    _, written = repo.write_mtree(tree, None)
    _, variant = repo.load_variant(OSTree.ObjectType.DIR_TREE, written.tree_get_contents_checksum())
    return bytes(variant.get_data_as_bytes().get_data())


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(entry_names, checksums, max_size=12),
    st.dictionaries(entry_names, st.tuples(checksums, checksums), max_size=6),
)
def test_dirtree_equals_libostrees_bytes(
    repo: Any, files: dict[str, bytes], dirs: dict[str, tuple[bytes, bytes]]
) -> None:
    files = {name: file_id for name, file_id in files.items() if name not in dirs}
    theirs = libostree_dirtree(repo, files, dirs)
    dir_items = [(name, tree, meta) for name, (tree, meta) in dirs.items()]
    assert objects.dirtree(files.items(), dir_items) == theirs
    assert objects.parse_dirtree(theirs) == (sorted(files.items()), sorted(dir_items))


@pytest.mark.parametrize("name_size", [4, 5, 200, 221, 222, 223])
def test_dirtree_at_every_change_of_offset_width_equals_libostrees_bytes(repo: Any, name_size: int) -> None:
    # Offsets grow from one byte to two at 256 bytes and to four at 65536; the loop passes both.
    item = name_size + 34
    counts = [*range(1, 9), *range(65536 // (item + 2) - 2, 65536 // (item + 2) + 3)]
    for count in counts:
        names = [f"{index:0{name_size}}" for index in range(count)]
        files = dict.fromkeys(names, b"f" * 32)
        assert objects.dirtree(files.items(), ()) == libostree_dirtree(repo, files, {})
        dirs = dict.fromkeys(names[: count // 2], (b"t" * 32, b"m" * 32))
        files = dict.fromkeys(names[count // 2 :], b"f" * 32)
        dir_items = [(name, tree, meta) for name, (tree, meta) in dirs.items()]
        assert objects.dirtree(files.items(), dir_items) == libostree_dirtree(repo, files, dirs)


def test_repository_written_by_hand_passes_fsck_and_checks_out(tmp_path: Path) -> None:
    root = tmp_path / "repo"
    subprocess.run(["ostree", f"--repo={root}", "init", "--mode=bare"], check=True)
    uid, gid = os.getuid(), os.getgid()

    def place(data: bytes, kind: ObjectKind) -> bytes:
        path = root / "objects" / objects.object_path(objects.checksum(data), kind)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return hashlib.sha256(data).digest()

    def place_file(mode: int, content: bytes = b"", target: str = "", xattrs: Xattrs = ()) -> bytes:
        digest = hashlib.sha256(objects.file_header(uid, gid, mode, target, xattrs) + content)
        path = root / "objects" / objects.object_path(digest.hexdigest(), ObjectKind.FILE)
        path.parent.mkdir(exist_ok=True)
        if target:
            path.symlink_to(target)
        else:
            path.write_bytes(content)
            for name, value in xattrs:
                os.setxattr(path, name, value)
            path.chmod(stat.S_IMODE(mode))
        return digest.digest()

    xattrs = ((b"user.b", b"2"), (b"user.a", b"1"))
    meta = place(objects.dirmeta(uid, gid, DIR), ObjectKind.DIRMETA)
    inner = place(
        objects.dirtree(
            [
                ("prögram", place_file(REG | 0o111, b"\x7fELF", xattrs=xattrs)),
                ("empty", place_file(stat.S_IFREG | 0o600)),
                ("link", place_file(stat.S_IFLNK | 0o755, target="../ünder")),
            ],
            (),
        ),
        ObjectKind.DIRTREE,
    )
    top = place(objects.dirtree((), [("usr", inner, meta)]), ObjectKind.DIRTREE)

    repo = OSTree.Repo.new(Gio.File.new_for_path(str(root)))
    repo.open(None)
    repo.prepare_transaction(None)
    tree = OSTree.MutableTree.new_from_checksum(repo, top.hex(), meta.hex())
    _, root_file = repo.write_mtree(tree, None)
    digest = "sha256:" + "ab" * 32
    metadata = merge_commit_metadata(digest, '{"ü":1}', "null")
    variant = GLib.Variant("a{sv}", {key: GLib.Variant("s", value) for key, value in metadata.items()})
    _, commit = repo.write_commit_with_time(None, None, None, variant, root_file, 0, None)
    image = TrackedImage.registry("quay.io/fedora/fedora-bootc:42")
    ref = refs.image_ref(image.image_ref_name)
    repo.transaction_set_ref(None, ref, commit)
    repo.commit_transaction(None)

    fsck = subprocess.run(["ostree", f"--repo={root}", "fsck"], capture_output=True, text=True, check=False)
    assert fsck.returncode == 0, fsck.stderr
    listed = subprocess.run(
        ["ostree", f"--repo={root}", "refs", "--list", refs.IMAGE_PREFIX],
        capture_output=True,
        text=True,
        check=True,
    )
    assert refs.parse_image_ref(listed.stdout.strip()) == image.image_ref_name
    _, stored, _state = repo.load_commit(commit)
    read = stored.get_child_value(0).unpack()
    parsed = parse_merge_metadata(read)
    assert parsed is not None
    assert (parsed.manifest_digest, parsed.manifest_json) == (digest, '{"ü":1}')

    out = tmp_path / "out"
    checkout = ["ostree", f"--repo={root}", "checkout", "-H", ref, str(out)]
    subprocess.run(checkout, check=True)
    assert (out / "usr/prögram").read_bytes() == b"\x7fELF"
    assert stat.S_IMODE((out / "usr/prögram").stat().st_mode) == 0o755
    assert os.getxattr(out / "usr/prögram", "user.b") == b"2"
    assert (out / "usr/link").readlink() == Path("../ünder")


@settings(deadline=None)
@given(
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=80)
    | st.text(st.sampled_from("a-/_.:"), min_size=1, max_size=12)
)
def test_image_ref_is_refused_where_libostree_would_refuse_it(name: str) -> None:
    try:
        ref = refs.image_ref(name)
    except InvalidImage:
        escaped = refs.escape(name)
        # libostree would take a part that is too long for a file name, and then fail to write it.
        if all(len(part) <= 255 for part in escaped.split("/")):
            with pytest.raises(GLib.Error):
                OSTree.validate_rev(f"{refs.IMAGE_PREFIX}/{escaped}")
        return
    assert OSTree.validate_rev(ref)


def test_own_gc_root_is_a_ref_to_libostree() -> None:
    assert OSTree.validate_rev(f"{refs.OWN_BASEIMAGE_PREFIX}/0")


keyfile_lines = st.lists(
    st.sampled_from(
        [
            "[origin]",
            "[packages]",
            "[x y]",
            "  [libostree-transient] ",
            "# c",
            "",
            "pinned=true",
            "pinned = false",
        ]
    )
    | st.text(alphabet="ab=[]# \\snt\té", max_size=12)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=8).map(lambda text: f"refspec={text}"),
    max_size=10,
).map("\n".join)


@settings(deadline=None, max_examples=400)
@given(keyfile_lines)
def test_origin_accepted_here_reads_the_same_in_glib(text: str) -> None:
    try:
        origin = parse_origin(text)
    except BootcdError:
        return
    for form in (text, origin.to_keyfile()):
        keyfile = GLib.KeyFile.new()
        keyfile.load_from_data(form, len(form.encode()), GLib.KeyFileFlags.KEEP_TRANSLATIONS)
        assert keyfile.get_groups()[0] == [name for name, _ in origin.groups]
        for name, keys in origin.groups:
            for key, value in keys:
                assert keyfile.get_value(name, key) == value
        if any(key == "refspec" for key, _ in dict(origin.groups).get(ORIGIN_GROUP, ())):
            assert keyfile.get_string(ORIGIN_GROUP, "refspec") == origin.refspec
        if origin.pinned:
            assert keyfile.get_boolean("libostree-transient", "pinned")


def test_origin_written_here_reads_in_glib() -> None:
    image = TrackedImage.registry("quay.io/x:1")
    text = Origin.fresh(image).to_keyfile()
    keyfile = GLib.KeyFile.new()
    keyfile.load_from_data(text, len(text), GLib.KeyFileFlags.NONE)
    assert keyfile.get_string(ORIGIN_GROUP, IMAGE_KEY) == str(image)
    assert keyfile.to_data()[0] == text
