"""Images made from an ostree commit, imported: the commit arrives as it was, layers on top of it count."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bootcd.model.errors import BootcdError, DigestMismatch, InvalidLayer, InvalidManifest, NotBootable
from bootcd.ostree.image import Role, cached_commit, missing_layers
from bootcd.ostree.libostree import GLib, OSTree
from bootcd.ostree.repository import Repository
from bootcd.ostreefmt import objects
from bootcd.ostreefmt.refs import blob_ref, image_ref
from tests.adapter.ostree.conftest import blobs_of, checkout, image_of, ostree, run_import
from tests.support.chunked_image import (
    Chunked,
    change_object,
    encapsulate,
    find_object,
    object_entry,
    object_path,
)
from tests.support.oci_image import (
    Image,
    Layer,
    directory,
    file,
    hardlink,
    make_layer,
    opaque,
    whiteout,
)
from tests.support.tree import differences, scan_tree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files get owners")

REFERENCE = "docker://registry.example/os:1"
COMPONENTS = {"kernel": ["usr/lib/modules/"], "tools": ["usr/bin/", "usr/sbin/"]}
LABEL = b"system_u:object_r:bin_t:s0\0"


class Source:
    """Where a distribution makes its images: a tree, and a repository of commits of it."""

    def __init__(self, root: Path) -> None:
        self.tree = root / "source-tree"
        self.repo = root / "source-repo"
        subprocess.run(["ostree", f"--repo={self.repo}", "init", "--mode=bare"], check=True)
        self.write("usr/lib/modules/6.1/vmlinuz", b"kernel 1" * 1000)
        self.write("usr/lib/modules/6.1/initramfs.img", os.urandom(1200 << 10))
        self.write("usr/lib/os-release", b"ID=test\nPRETTY_NAME=Test\n")
        self.write("usr/etc/hosts", b"127.0.0.1 localhost\n")
        self.write("usr/etc/empty", b"")
        self.write("usr/bin/tool", b"tool 1").chmod(0o4755)
        os.link(self.tree / "usr/bin/tool", self.write("usr/bin/.x", b"").with_name("same-tool"))
        (self.tree / "usr/bin/.x").unlink()
        os.chown(self.write("usr/bin/owned", b"owned"), 12, 34)
        os.setxattr(self.write("usr/bin/labelled", b"labelled"), "security.selinux", LABEL)
        os.setxattr(self.write("usr/share/attributed", b"a"), "user.test", b"\0\xff")
        os.setxattr(self.tree / "usr/share", "user.directory", b"d")
        (self.tree / "usr/bin/link").symlink_to("../share/attributed")
        os.setxattr(self.tree / "usr/bin/link", "security.selinux", LABEL, follow_symlinks=False)
        self.write("usr/share/ä/ü", b"n")
        # In a tree made elsewhere this is an ordinary file, whatever its name means in a layer.
        self.write("usr/share/.wh.kept", b"kept")
        (self.tree / "sysroot").mkdir()
        (self.tree / "ostree").symlink_to("sysroot/ostree")

    def write(self, path: str, content: bytes) -> Path:
        target = self.tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        return target

    def commit(self, *options: str) -> str:
        command = [
            "ostree",
            f"--repo={self.repo}",
            "commit",
            "--branch=os",
            "--add-metadata-string=version=1",
        ]
        done = subprocess.run(
            [*command, f"--tree=dir={self.tree}", *options], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def encapsulate(self, *options: str, **more: Any) -> Chunked:
        return encapsulate(self.repo, self.commit(*options), COMPONENTS, **more)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


def assert_untouched(repository: Repository) -> None:
    assert ostree(repository, "refs") == ""
    ostree(repository, "fsck")
    assert not list((repository.path / "tmp").glob("bootcd-stage-*"))


def parent_of(repository: Repository, commit: str) -> str:
    return ostree(repository, "rev-parse", f"{commit}^").strip()


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
@pytest.mark.parametrize("share_xattrs", [False, True], ids=["own-xattrs", "shared-xattrs"])
async def test_chunked_image_arrives_as_the_commit_it_was_made_from(
    repository: Repository, source: Source, tmp_path: Path, compression: Any, share_xattrs: bool
) -> None:
    chunked = source.encapsulate("--add-detached-metadata-string=signed=yes", share_xattrs=share_xattrs)
    image = chunked.image(compression=compression)
    result = await run_import(repository, image)
    ostree(repository, "fsck")
    assert repository.resolve(blob_ref(image.layers[0].digest)) == chunked.commit
    assert repository.has_commit(chunked.commit)
    assert repository.detached_metadata(chunked.commit) == {"signed": "yes"}
    assert parent_of(repository, result.commit) == chunked.commit
    # Nothing on top: the same tree, so the very objects of the commit.
    assert repository.commit_root(result.commit)[:2] == repository.commit_root(chunked.commit)[:2]
    arrived = scan_tree(checkout(repository, result.commit, tmp_path / "arrived"))
    assert not differences(scan_tree(source.tree), arrived)
    label = os.getxattr(tmp_path / "arrived/usr/bin/link", "security.selinux", follow_symlinks=False)
    assert label == LABEL


async def test_commit_of_a_chunk_is_the_one_bootc_writes(repository: Repository, source: Source) -> None:
    chunked = source.encapsulate()
    image = chunked.image()
    await run_import(repository, image)
    repo = repository.repo
    repo.prepare_transaction(None)
    for layer, entries in zip(image.layers[1:], chunked.layers[1:], strict=True):
        tree = OSTree.MutableTree()
        for entry in entries:
            if entry.path.endswith(".file"):
                checksum = "".join(entry.path.removesuffix(".file").split("/")[-2:])
                tree.replace_file(checksum, checksum)
        mode = int.from_bytes((0o40755).to_bytes(4, "little"), "big")
        meta = GLib.Variant("(uuua(ayay))", (0, 0, mode, []))
        _, raw = repo.write_metadata(OSTree.ObjectType.DIR_META, None, meta, None)
        tree.set_metadata_checksum(bytes(raw).hex())
        _, root = repo.write_mtree(tree, None)
        _, commit = repo.write_commit_with_time(None, None, None, None, root, 0, None)
        assert repository.resolve(blob_ref(layer.digest)) == commit
    repo.abort_transaction(None)


async def test_derived_layers_change_the_tree_and_not_the_commit(
    repository: Repository, source: Source, tmp_path: Path
) -> None:
    source.write("usr/lib/ostree/prepare-root.conf", b"[composefs]\nenabled = yes\n")
    chunked = source.encapsulate()
    derived = make_layer(
        [
            directory("usr"),
            file("usr/bin/more", b"more", mode=0o755),
            whiteout("usr/bin/owned"),
            file("usr/bin/tool", b"tool 2", mode=0o755),
            opaque("usr/share/ä"),
            file("usr/share/ä/new", b"new"),
            file("etc/hostname", b""),
            directory("opt"),
            file("opt/thing", b"t"),
        ]
    )
    image = chunked.image(derived=[derived, make_layer([whiteout("usr/bin/more")])])
    result = await run_import(repository, image)
    ostree(repository, "fsck")
    base = checkout(repository, chunked.commit, tmp_path / "base")
    assert not differences(scan_tree(source.tree), scan_tree(base))
    tree = checkout(repository, result.commit, tmp_path / "tree")
    assert (tree / "usr/bin/tool").read_bytes() == b"tool 2"
    assert (tree / "usr/bin/same-tool").read_bytes() == b"tool 1"
    assert not (tree / "usr/bin/owned").exists()
    assert not (tree / "usr/bin/more").exists()
    assert os.listdir(tree / "usr/share/ä") == ["new"]
    assert (tree / "usr/share/.wh.kept").read_bytes() == b"kept"
    assert not (tree / "usr/etc/hostname").exists()
    assert (tree / "opt/thing").read_bytes() == b"t"
    assert parent_of(repository, result.commit) == chunked.commit
    refs = set(ostree(repository, "refs").split())
    assert refs == {image_ref(REFERENCE), *(blob_ref(layer.digest) for layer in image.layers)}


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (None, False),
        (b"[sysroot]\nreadonly=true\n", False),
        (b"[composefs]\nenabled=no\n", False),
        (b"[composefs]\nenabled=signed\n", True),
        (b"[root]\ntransient=true\n", True),
    ],
    ids=["none", "other", "off", "signed", "transient"],
)
async def test_content_outside_usr_is_kept_where_the_root_is_of_the_image(
    repository: Repository, source: Source, tmp_path: Path, config: bytes | None, kept: bool
) -> None:
    if config is not None:
        source.write("usr/lib/ostree/prepare-root.conf", config)
    layer = make_layer([file("opt/thing", b"t"), file("usr/lib/thing", b"t")])
    result = await run_import(repository, source.encapsulate().image(derived=[layer]))
    tree = checkout(repository, result.commit, tmp_path / "tree")
    assert (tree / "usr/lib/thing").exists()
    assert (tree / "opt/thing").exists() is kept
    assert result.dropped["opt"] == (0 if kept else 1)


async def test_changed_object_in_a_derived_layer_becomes_the_files_that_link_to_it(
    repository: Repository, source: Source, tmp_path: Path
) -> None:
    chunked = source.encapsulate()
    tool = next(e.target for layer in chunked.layers for e in layer if e.path == "usr/bin/tool")
    other = object_path("ab" * 32, "file")
    layer = make_layer(
        [
            # As overlayfs copies up a file with all its names when one of them is written to.
            file(tool, b"tool 2", mode=0o755, mtime=1_700_000_000),
            file(other, b"belongs to nobody", mtime=0),
            hardlink("usr/bin/same-tool", tool),
            hardlink("usr/bin/tool", tool),
        ]
    )
    result = await run_import(repository, chunked.image(derived=[layer]))
    ostree(repository, "fsck")
    tree = checkout(repository, result.commit, tmp_path / "tree")
    for name in ("tool", "same-tool"):
        assert (tree / "usr/bin" / name).read_bytes() == b"tool 2"
        assert (tree / "usr/bin" / name).stat().st_mode & 0o7777 == 0o755
    assert os.listdir(tree / "sysroot") == []


async def test_second_version_fetches_only_the_layers_that_changed(
    repository: Repository, source: Source
) -> None:
    first = source.encapsulate().image()
    await run_import(repository, first)
    source.write("usr/bin/tool", b"tool 2")
    second = source.encapsulate().image()
    opened: list[str] = []
    result = await run_import(repository, second, open_blob=blobs_of(second, opened=opened))
    changed = {second.layers[0].digest, second.layers[2].digest}
    assert set(opened) == changed
    assert second.layers[1].digest == first.layers[1].digest
    assert result.bytes_fetched == sum(len(second.blobs[digest]) for digest in changed)
    ostree(repository, "fsck")

    # With everything there, another name for it costs nothing; nor does a layer on top fetch the base.
    opened.clear()
    third = replace_layers(source, derived=[make_layer([file("usr/bin/more")])])
    await run_import(repository, third, open_blob=blobs_of(third, opened=opened))
    assert opened == [third.layers[-1].digest]


def replace_layers(source: Source, derived: list[Layer]) -> Image:
    commit = subprocess.run(
        ["ostree", f"--repo={source.repo}", "rev-parse", "os"], check=True, capture_output=True, text=True
    )
    return encapsulate(source.repo, commit.stdout.strip(), COMPONENTS).image(derived=derived)


async def test_commit_layer_alone_is_a_whole_image(
    repository: Repository, source: Source, tmp_path: Path
) -> None:
    image = encapsulate(source.repo, source.commit()).image()
    assert len(image.layers) == 1
    result = await run_import(repository, image)
    tree = checkout(repository, result.commit, tmp_path / "tree")
    assert not differences(scan_tree(source.tree), scan_tree(tree))


def corrupt_content(chunked: Chunked) -> None:
    change_object(chunked.layers[2], "file", content=b"other content")


def corrupt_owner(chunked: Chunked) -> None:
    change_object(chunked.layers[2], "file", uid=999)


def corrupt_mode(chunked: Chunked) -> None:
    change_object(chunked.layers[2], "file", mode=0o6777)


def corrupt_link(chunked: Chunked) -> None:
    layer = chunked.layers[2]
    index = next(n for n, entry in enumerate(layer) if entry.kind == "symlink")
    layer[index] = replace(layer[index], target="/etc/shadow")


def corrupt_xattrs(chunked: Chunked) -> None:
    change_object(chunked.layers[2], "file-xattrs-link", content=b"user.a\0b\x07\x09")


def garble_xattrs(chunked: Chunked) -> None:
    change_object(chunked.layers[2], "file-xattrs-link", content=b"user.a\0b\x07")


def corrupt_directory(chunked: Chunked) -> None:
    layer = chunked.layers[0]
    first, second = find_object(layer, "dirmeta", 0), find_object(layer, "dirmeta", 1)
    layer[first] = replace(layer[first], content=layer[second].content)


def corrupt_commit(chunked: Chunked) -> None:
    layer = chunked.layers[0]
    index = find_object(layer, "commit")
    layer[index] = replace(layer[index], path=object_path("ab" * 32, "commit"))


def lose_file(chunked: Chunked) -> None:
    index = find_object(chunked.layers[1], "file")
    del chunked.layers[1][index - 1 : index + 1]


def lose_xattrs(chunked: Chunked) -> None:
    del chunked.layers[1][find_object(chunked.layers[1], "file-xattrs-link")]


def lose_content(chunked: Chunked) -> None:
    del chunked.layers[1][find_object(chunked.layers[1], "file", -1)]


def lose_directory(chunked: Chunked) -> None:
    del chunked.layers[0][find_object(chunked.layers[0], "dirtree", -1)]


def lose_attributes(chunked: Chunked) -> None:
    layer = chunked.layers[0]
    del layer[
        next(n for n, e in enumerate(layer) if e.path.endswith(".dirmeta") and b"user.dir" in e.content)
    ]


def lose_commit(chunked: Chunked) -> None:
    del chunked.layers[0][find_object(chunked.layers[0], "commit")]


def lose_layer(chunked: Chunked) -> None:
    del chunked.layers[1], chunked.components[0]


def repeat_file(chunked: Chunked) -> None:
    layer = chunked.layers[1]
    index = find_object(layer, "file")
    layer += layer[index - 1 : index + 1]


def repeat_commit(chunked: Chunked) -> None:
    layer = chunked.layers[0]
    layer.append(layer[find_object(layer, "commit")])


def put_commit_in_chunk(chunked: Chunked) -> None:
    chunked.layers[1].append(chunked.layers[0][find_object(chunked.layers[0], "commit")])


def put_directory_in_chunk(chunked: Chunked) -> None:
    chunked.layers[1].append(chunked.layers[0][find_object(chunked.layers[0], "dirtree")])


def detach_from_other_commit(chunked: Chunked) -> None:
    chunked.layers[0].append(object_entry("cd" * 32, "commitmeta", b""))


def detach_garbage(chunked: Chunked) -> None:
    chunked.layers[0].append(object_entry(chunked.commit, "commitmeta", b"\xff\xff"))


def rename_object(name: str) -> Callable[[Chunked], None]:
    def rename(chunked: Chunked) -> None:
        change_object(chunked.layers[1], "file", path=f"sysroot/ostree/repo/objects/{name}")

    rename.__name__ = f"name {name[:30]}"
    return rename


def link_content(chunked: Chunked) -> None:
    change_object(chunked.layers[1], "file", kind="hardlink", target="usr/etc/passwd")


def link_xattrs_to_nothing(chunked: Chunked) -> None:
    change_object(
        chunked.layers[1],
        "file-xattrs-link",
        kind="hardlink",
        content=b"",
        target=object_path("ab" * 32, "file-xattrs"),
    )


def garble_shared_xattrs(chunked: Chunked) -> None:
    chunked.layers[1].insert(0, object_entry("ab" * 32, "file-xattrs", b""))


def oversize_directory(chunked: Chunked) -> None:
    change_object(chunked.layers[0], "dirtree", content=bytes(11 << 20))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (corrupt_content, DigestMismatch, "that is really"),
        (corrupt_owner, DigestMismatch, "that is really"),
        (corrupt_mode, DigestMismatch, "that is really"),
        (corrupt_link, DigestMismatch, "that is really"),
        (corrupt_xattrs, DigestMismatch, "that is really"),
        (garble_xattrs, InvalidLayer, "not in order"),
        (corrupt_directory, DigestMismatch, "that is really"),
        (corrupt_commit, DigestMismatch, "that is really"),
        (lose_file, InvalidLayer, "lacks the object [0-9a-f]{64}.file, the file of 'usr/lib/modules"),
        (lose_xattrs, InvalidLayer, "does not have the extended attributes"),
        (lose_content, InvalidLayer, "has extended attributes of"),
        (lose_directory, InvalidLayer, "lacks the object [0-9a-f]{64}.dirtree"),
        (lose_attributes, InvalidLayer, "lacks the object [0-9a-f]{64}.dirmeta"),
        (lose_commit, InvalidLayer, "holds no ostree commit"),
        (lose_layer, InvalidLayer, "lacks the object"),
        (repeat_file, InvalidLayer, "twice"),
        (repeat_commit, InvalidLayer, "more than one ostree commit"),
        (put_commit_in_chunk, InvalidLayer, "'commit', which has no place in it"),
        (put_directory_in_chunk, InvalidLayer, "'dirtree', which has no place in it"),
        (detach_from_other_commit, InvalidLayer, "of another commit"),
        (detach_garbage, InvalidLayer, "not in order"),
        (rename_object("../../../../etc/passwd"), InvalidLayer, "outside its root"),
        (rename_object("ab/passwd.file"), InvalidLayer, "no name of one"),
        (rename_object("ab/" + "c" * 61 + "/.file"), InvalidLayer, "no name of one"),
        (rename_object("AB/" + "c" * 62 + ".file"), InvalidLayer, "no name of one"),
        (rename_object("ab/" + "c" * 62 + ".xattrs"), InvalidLayer, "'xattrs'"),
        (link_content, InvalidLayer, "hardlink in the place of object"),
        (link_xattrs_to_nothing, InvalidLayer, "which does not come before"),
        (garble_shared_xattrs, DigestMismatch, "that is really"),
        (oversize_directory, InvalidLayer, "more than 10485760"),
    ],
    ids=lambda value: value.__name__.replace("_", "-") if callable(value) else "",
)
@pytest.mark.parametrize("repository", ["staged"], indirect=True)
async def test_damaged_chunked_image_is_refused(
    repository: Repository,
    source: Source,
    damage: Callable[[Chunked], None],
    error: type[BootcdError],
    message: str,
) -> None:
    chunked = source.encapsulate()
    damage(chunked)
    with pytest.raises(error, match=message):
        await run_import(repository, chunked.image())
    assert_untouched(repository)


@pytest.mark.parametrize("damage", [corrupt_content, lose_file], ids=["corrupt", "incomplete"])
async def test_refused_chunked_image_does_not_keep_the_sound_one_out(
    repository: Repository, source: Source, damage: Callable[[Chunked], None]
) -> None:
    chunked = source.encapsulate()
    whole = chunked.image()
    damage(chunked)
    with pytest.raises(BootcdError):
        await run_import(repository, chunked.image())
    assert_untouched(repository)
    result = await run_import(repository, whole)
    ostree(repository, "fsck")
    assert parent_of(repository, result.commit) == chunked.commit


@pytest.mark.parametrize("repository", ["staged"], indirect=True)
async def test_no_commit_is_published_before_what_it_reaches(
    repository: Repository, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every layer is published as soon as it is verified, so only the commit itself can have waited.
    monkeypatch.setattr("bootcd.ostree.fetch.CHECKPOINT_BYTES", 1)
    chunked = source.encapsulate()
    whole = chunked.image()
    lose_file(chunked)
    broken = chunked.image()
    with pytest.raises(InvalidLayer, match="lacks the object"):
        await run_import(repository, broken)
    ostree(repository, "fsck")
    assert set(ostree(repository, "refs").split()) == {blob_ref(layer.digest) for layer in broken.layers[1:]}
    assert not repository.has_commit(chunked.commit)
    opened: list[str] = []
    await run_import(repository, whole, open_blob=blobs_of(whole, opened=opened))
    ostree(repository, "fsck")
    assert set(opened) == {whole.layers[0].digest, whole.layers[1].digest}


async def test_damaged_prepare_root_configuration_is_refused(repository: Repository, source: Source) -> None:
    source.write("usr/lib/ostree/prepare-root.conf", b"no group = here\n")
    with pytest.raises(NotBootable, match="cannot be understood"):
        await run_import(repository, source.encapsulate().image())
    assert_untouched(repository)


async def test_link_in_the_place_of_a_configuration_is_not_followed(
    repository: Repository, source: Source
) -> None:
    source.write("usr/lib/ostree/prepare-root.conf", b"").unlink()
    (source.tree / "usr/lib/ostree/prepare-root.conf").symlink_to("/etc/passwd")
    with pytest.raises(NotBootable, match="no file"):
        await run_import(repository, source.encapsulate().image())
    assert_untouched(repository)


async def test_tree_that_never_ends_is_refused(
    repository: Repository, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each directory has the next one in it twice: forty objects, and a trillion directories.
    monkeypatch.setattr("bootcd.ostree.tree.MAX_ENTRIES", 10_000)
    chunked = source.encapsulate()
    meta = hashlib.sha256(objects.dirmeta(0, 0, 0o40755)).digest()
    level = objects.dirtree((), ())
    added = [level]
    for _ in range(40):
        below = hashlib.sha256(level).digest()
        level = objects.dirtree((), [("a", below, meta), ("b", below, meta)])
        added.append(level)
    root = hashlib.sha256(level).digest()
    commit = GLib.Variant("(a{sv}aya(say)sstayay)", ({}, b"", [], "", "", 0, root, meta))
    data = commit.get_data_as_bytes().get_data()
    layer = chunked.layers[0]
    index = find_object(layer, "commit")
    layer[index] = object_entry(objects.checksum(data), "commit", data)
    layer += [object_entry(objects.checksum(tree), "dirtree", tree) for tree in added]
    with pytest.raises(InvalidLayer, match="more than 10000 entries"):
        await run_import(repository, chunked.image())
    assert_untouched(repository)


@pytest.mark.parametrize("keeper", ["chunk", "derived"])
async def test_layer_taken_for_something_else_is_fetched_again(
    repository: Repository, source: Source, tmp_path: Path, keeper: str
) -> None:
    """An image cannot spoil a layer of another one by saying that it is something else."""
    extra = make_layer([file("usr/bin/extra", b"extra")])
    chunked = source.encapsulate()
    honest = chunked.image(derived=[extra])
    twisted = chunked.image(derived=[extra], labels={"ostree.final-diffid": extra.diff_id})
    first, second = (honest, twisted) if keeper == "derived" else (twisted, honest)
    await run_import(repository, first)
    assert [layer.digest for layer in missing_layers(repository, image_of(second))] == [extra.digest]
    result = await run_import(repository, second)
    ostree(repository, "fsck")
    tree = checkout(repository, result.commit, tmp_path / "tree")
    assert (tree / "usr/bin/extra").exists() is (second is honest)
    wanted = Role.DERIVED if second is honest else Role.CHUNK
    assert cached_commit(repository, extra.digest, wanted)


async def test_layer_in_two_roles_is_refused(repository: Repository, source: Source) -> None:
    chunked = source.encapsulate()
    with pytest.raises(InvalidManifest, match="both"):
        await run_import(
            repository,
            chunked.image(
                derived=[chunked.pack()[1]],
                labels={
                    "ostree.final-diffid": chunked.pack()[1].diff_id,
                },
            ),
        )
    assert_untouched(repository)


async def test_commit_another_program_left_half_pulled_is_completed(
    repository: Repository, source: Source
) -> None:
    chunked = source.encapsulate()
    repository.repo.mark_commit_partial(chunked.commit, True)
    image = chunked.image()
    await run_import(repository, image)
    assert repository.has_commit(chunked.commit)
    assert missing_layers(repository, image_of(image)) == []


async def test_incomplete_commit_in_the_cache_is_noticed(repository: Repository, source: Source) -> None:
    chunked = source.encapsulate()
    await run_import(repository, chunked.image())
    index = find_object(chunked.layers[0], "file")
    lost = repository.path.parent / chunked.layers[0][index].path.replace("sysroot/ostree/", "")
    lost.unlink()
    again = chunked.image(derived=[make_layer([file("usr/bin/more")])])
    with pytest.raises(InvalidLayer, match="lacks the object"):
        await run_import(repository, again)
