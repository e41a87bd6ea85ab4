"""Images with an SELinux policy, imported: every file has the label the policy has for its path.

Two judges: libselinux asked directly for every path, and `ostree commit --selinux-policy` of the same tree.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from bootcd.model.errors import NotBootable
from bootcd.ostree.repository import Repository
from bootcd.ostreefmt.refs import blob_ref, image_ref
from tests.adapter.ostree.conftest import blobs_of, checkout, ostree, run_import
from tests.adapter.ostree.test_importer import CAPABILITY, KERNEL, REFERENCE
from tests.support.chunked_image import encapsulate
from tests.support.oci_image import (
    Entry,
    Image,
    Layer,
    directory,
    file,
    hardlink,
    make_image,
    make_layer,
    opaque,
    symlink,
    whiteout,
)
from tests.support.selinux import (
    LABEL,
    RULES,
    Oracle,
    label_on_disk,
    policy_entries,
    policy_files,
    write_policy,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files get owners and labels")

SYSTEM = [
    *KERNEL,
    directory("usr/bin", mode=0o755),
    file("usr/bin/su", b"su", mode=0o4755),
    file("usr/bin/tool", b"tool", mode=0o755, xattrs={"security.capability": CAPABILITY}),
    symlink("usr/bin/a-link", "tool"),
    file("usr/lib/libx.so.1", b"library"),
    # Names of one file that are labelled alike, and one that is not.
    hardlink("usr/bin/same", "usr/bin/tool"),
    hardlink("usr/lib/tool", "usr/bin/tool"),
    file("usr/lib64/liby.so", b"substituted"),
    file("usr/deep/implied/file", b"d"),
    file("usr/share/own", b"o", xattrs={LABEL: b"system_u:object_r:foreign_t:s0\0"}),
    file("usr/share/nothing/here", b"n", xattrs={LABEL: b"system_u:object_r:foreign_t:s0\0"}),
    file("var/lib/data", b"v"),
    file("usr/large", b"0123456789abcdef" * (3 << 16)),
    hardlink("usr/lib/large", "usr/large"),
    file("usr/hidden/below", b"h"),
    file("usr/gone", b"g"),
]
CHANGES = [
    whiteout("usr/gone"),
    opaque("usr/hidden"),
    file("usr/hidden/above", b"new"),
    symlink("usr/lib/b-link", "x"),
    file("usr/sbin/daemon", b"daemon", mode=0o755),
]


def image_with_policy(*more: Layer, rules: str = RULES) -> Image:
    policy = make_layer(policy_entries(policy_files(rules)))
    return make_image([make_layer(SYSTEM), policy, make_layer(CHANGES), *more])


def oracle(root: Path, files: Mapping[str, bytes] | None = None) -> Oracle:
    written = write_policy(root / "judge", files or policy_files())
    (contexts,) = written.glob("etc/selinux/*/contexts/files/file_contexts")
    return Oracle(contexts)


def content_checksum(repository: Path, commit: str) -> str:
    shown = subprocess.run(
        ["ostree", f"--repo={repository}", "show", commit], check=True, capture_output=True, text=True
    ).stdout
    return next(line.split()[1] for line in shown.splitlines() if line.startswith("ContentChecksum:"))


def committed_by_ostree(repository: Repository, commit: str, policy_root: Path, scratch: Path) -> str:
    """Return the content checksum of the same tree without a label, committed by ostree itself."""
    tree = scratch / "unlabelled"
    ostree(repository, "checkout", "--force-copy", commit, str(tree))
    for place in (tree, *tree.rglob("*")):
        if label_on_disk(place) is not None:
            os.removexattr(place, LABEL, follow_symlinks=False)
    repo = scratch / "judge-repo"
    subprocess.run(["ostree", f"--repo={repo}", "init", "--mode=bare"], check=True)
    command = ["ostree", f"--repo={repo}", "commit", "--branch=x", f"--tree=dir={tree}"]
    subprocess.run([*command, f"--selinux-policy={policy_root}"], check=True, capture_output=True)
    return content_checksum(repo, "x")


async def test_image_with_a_policy_is_labelled_by_it(repository: Repository, tmp_path: Path) -> None:
    result = await run_import(repository, image_with_policy())
    ostree(repository, "fsck")
    tree = checkout(repository, image_ref(REFERENCE), tmp_path / "tree")
    judge = oracle(tmp_path)
    assert judge.differences(tree) == []
    assert label_on_disk(tree / "usr/lib/tool") == b"system_u:object_r:lib_t:s0\0"
    assert label_on_disk(tree / "usr/bin/same") == b"system_u:object_r:bin_t:s0\0"
    assert label_on_disk(tree / "usr/share/nothing/here") is None
    assert label_on_disk(tree / "usr/deep/implied") == b"system_u:object_r:usr_t:s0\0"
    assert os.getxattr(tree / "usr/lib/tool", "security.capability") == CAPABILITY
    assert (tree / "usr/bin/su").stat().st_mode & 0o7777 == 0o4755
    assert (tree / "usr/lib/large").read_bytes() == b"0123456789abcdef" * (3 << 16)
    assert not (tree / "usr/gone").exists()
    assert os.listdir(tree / "usr/hidden") == ["above"]
    by_ostree = committed_by_ostree(repository, result.commit, tmp_path / "judge", tmp_path)
    assert content_checksum(repository.path, result.commit) == by_ostree


async def test_both_writers_make_the_same_commits_of_a_labelled_image(tmp_path: Path) -> None:
    refs = []
    for staged in (True, False):
        path = tmp_path / f"repo-{staged}"
        subprocess.run(["ostree", f"--repo={path}", "init", "--mode=bare"], check=True)
        repository = Repository.open(path)
        repository.stages_objects = staged
        await run_import(repository, image_with_policy())
        refs.append(repository.refs("ostree"))
    assert refs[0] == refs[1]


async def test_layers_of_a_labelled_image_share_all_objects_with_it(
    repository: Repository, tmp_path: Path
) -> None:
    image = image_with_policy()
    result = await run_import(repository, image)
    in_image = set(files_of(repository, result.commit).values())
    for layer in image.layers:
        held = files_of(repository, blob_ref(layer.digest))
        markers = {path for path in held if ".wh." in path}
        gone = {"/usr/gone", "/usr/hidden/below"}
        assert {held[path] for path in held.keys() - markers - gone} <= in_image
    ostree(repository, "prune", "--refs-only", "--depth=0")
    ostree(repository, "fsck")


async def test_next_import_of_a_labelled_image_changes_nothing(repository: Repository) -> None:
    image, opened = image_with_policy(), list[str]()
    first = await run_import(repository, image)
    refs, objects = repository.refs("ostree"), objects_in(repository)
    again = await run_import(repository, image, open_blob=blobs_of(image, opened=opened))
    assert opened == []
    assert again.commit == first.commit
    assert repository.refs("ostree") == refs
    assert objects_in(repository) == objects


async def test_changed_policy_labels_what_it_changes_and_nothing_else(
    repository: Repository, tmp_path: Path
) -> None:
    old = await run_import(repository, image_with_policy())
    rules = RULES + "/usr/sbin/daemon  --  system_u:object_r:daemon_exec_t:s0\n"
    image, opened = image_with_policy(rules=rules), list[str]()
    new = await run_import(repository, image, open_blob=blobs_of(image, opened=opened))
    assert opened == [image.layers[1].digest]
    before, after = files_of(repository, old.commit), files_of(repository, new.commit)
    changed = {path for path in after if before.get(path) != after[path]}
    assert changed == {"/usr/sbin/daemon", "/usr/etc/selinux/test/contexts/files/file_contexts"}
    tree = checkout(repository, image_ref(REFERENCE), tmp_path / "tree")
    assert oracle(tmp_path, policy_files(rules)).differences(tree) == []


async def test_layers_labelled_by_the_booted_system_are_not_written_again(
    repository: Repository, tmp_path: Path
) -> None:
    booted = await run_import(repository, image_with_policy(), reference="docker://registry.example/old:1")
    ostree(repository, "prune", "--refs-only", "--depth=0")
    more = make_layer([file("usr/bin/more", b"more", mode=0o755), symlink("usr/bin/more-link", "more")])
    await run_import(repository, image_with_policy(more), label_commit=booted.commit)
    tree = checkout(repository, image_ref(REFERENCE), tmp_path / "tree")
    assert oracle(tmp_path).differences(tree) == []
    assert unreachable(repository) == 0


async def test_image_without_a_policy_known_at_first_leaves_what_a_clean_up_removes(
    repository: Repository,
) -> None:
    await run_import(repository, image_with_policy())
    assert unreachable(repository) > 0
    ostree(repository, "prune", "--refs-only", "--depth=0")
    ostree(repository, "fsck")


async def test_image_without_a_policy_gets_the_labels_of_the_booted_system(
    repository: Repository, tmp_path: Path
) -> None:
    booted = await run_import(repository, image_with_policy(), reference="docker://registry.example/old:1")
    entries: list[Entry] = [*KERNEL, file("usr/bin/su", b"other su")]
    await run_import(repository, make_image([make_layer(entries)]), label_commit=booted.commit)
    tree = checkout(repository, image_ref(REFERENCE), tmp_path / "tree")
    assert oracle(tmp_path).differences(tree) == []


async def test_policy_that_is_turned_off_labels_nothing(repository: Repository, tmp_path: Path) -> None:
    files = policy_files(config="SELINUX=disabled\nSELINUXTYPE=test\n")
    await run_import(repository, make_image([make_layer([*SYSTEM, *policy_entries(files)])]))
    tree = checkout(repository, image_ref(REFERENCE), tmp_path / "tree")
    assert label_on_disk(tree / "usr/bin/su") is None


NOT_A_POLICY = {
    "no-file-contexts": {"config": b"SELINUX=enforcing\nSELINUXTYPE=test\n"},
    "name-leads-out": policy_files(config="SELINUX=enforcing\nSELINUXTYPE=../../../etc/selinux/test\n"),
    "no-name": policy_files(config="SELINUX=enforcing\n"),
}


@pytest.mark.parametrize("files", NOT_A_POLICY.values(), ids=NOT_A_POLICY)
async def test_policy_that_cannot_be_loaded_is_an_error_and_changes_nothing(
    repository: Repository, files: dict[str, bytes]
) -> None:
    with pytest.raises(NotBootable, match=r"SELinux"):
        await run_import(repository, make_image([make_layer([*SYSTEM, *policy_entries(files)])]))
    assert repository.refs("ostree/container/image") == {}


async def test_links_in_a_policy_are_not_followed(repository: Repository, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text(RULES)
    files = policy_files()
    del files["test/contexts/files/file_contexts"]
    link = symlink("etc/selinux/test/contexts/files/file_contexts", str(outside))
    with pytest.raises(NotBootable):
        await run_import(repository, make_image([make_layer([*SYSTEM, *policy_entries(files), link])]))


async def test_layer_another_program_labelled_anew_is_labelled_again(
    repository: Repository, tmp_path: Path
) -> None:
    image = image_with_policy()
    first = await run_import(repository, image)
    # As bootc does with a policy of its own: another tree, the same metadata.
    layer = blob_ref(image.layers[0].digest)
    _, commit, _ = repository.repo.load_commit(repository.resolve(layer))
    mark = commit.get_child_value(0).lookup_value("bootcd.labelled", None).get_string()
    other = write_policy(
        tmp_path / "other",
        policy_files("/.*  system_u:object_r:other_t:s0\n/usr/share/nothing(/.*)?  <<none>>\n"),
    )
    tree = tmp_path / "layer"
    ostree(repository, "checkout", "--force-copy", layer, str(tree))
    metadata = [
        f"--add-metadata-string={key}={value}"
        for key, value in {"ostree.importer.version": "0.15.3", "bootcd.labelled": mark}.items()
    ]
    command = ["commit", f"--branch={layer}", f"--tree=dir={tree}", "--no-bindings", *metadata]
    ostree(repository, *command, f"--selinux-policy={other}")
    assert label_on_disk(checkout(repository, layer, tmp_path / "x") / "usr/bin/su") == (
        b"system_u:object_r:other_t:s0\0"
    )
    again = await run_import(repository, image)
    assert content_checksum(repository.path, again.commit) == content_checksum(repository.path, first.commit)


# Images made from a commit


class Base:
    """A commit labelled by the small policy, as a distribution's build leaves it."""

    def __init__(self, root: Path, rules: str = RULES) -> None:
        self.repo = root / "source-repo"
        self.tree = root / "source"
        subprocess.run(["ostree", f"--repo={self.repo}", "init", "--mode=bare"], check=True)
        for entry in SYSTEM:
            path = self.tree / entry.path.replace("etc/", "usr/etc/", 1)
            path.parent.mkdir(parents=True, exist_ok=True)
            if entry.kind == "file":
                path.write_bytes(entry.content)
            elif entry.kind == "symlink":
                path.symlink_to(entry.target)
        write_policy(self.tree / "usr", policy_files(rules))
        command = ["commit", "--branch=os", f"--tree=dir={self.tree}", f"--selinux-policy={self.tree}"]
        done = subprocess.run(
            ["ostree", f"--repo={self.repo}", *command], check=True, capture_output=True, text=True
        )
        self.commit = done.stdout.strip()

    def image(self, *derived: Layer) -> Image:
        chunked = encapsulate(self.repo, self.commit, {"kernel": ["usr/lib/modules/"]})
        return chunked.image(derived=derived)


async def test_chunked_image_keeps_the_labels_of_its_commit(repository: Repository, tmp_path: Path) -> None:
    base = Base(tmp_path)
    result = await run_import(repository, base.image())
    assert content_checksum(repository.path, result.commit) == content_checksum(base.repo, base.commit)


async def test_layers_on_a_chunked_image_are_labelled_by_its_policy(
    repository: Repository, tmp_path: Path
) -> None:
    base = Base(tmp_path)
    layer = make_layer(CHANGES)
    result = await run_import(repository, base.image(layer))
    ostree(repository, "fsck")
    tree = checkout(repository, image_ref(REFERENCE), tmp_path / "tree")
    assert oracle(tmp_path).differences(tree) == []
    by_ostree = committed_by_ostree(repository, result.commit, tmp_path / "judge", tmp_path)
    assert content_checksum(repository.path, result.commit) == by_ostree


async def test_layer_that_changes_the_policy_of_a_chunked_image_labels_all_of_it(
    repository: Repository, tmp_path: Path
) -> None:
    base = Base(tmp_path)
    rules = RULES + "/usr/bin/tool  --  system_u:object_r:tool_exec_t:s0\n"
    layers = [make_layer(CHANGES), make_layer(policy_entries(policy_files(rules)))]
    result = await run_import(repository, base.image(*layers))
    ostree(repository, "fsck")
    tree = checkout(repository, image_ref(REFERENCE), tmp_path / "tree")
    judge = oracle(tmp_path, policy_files(rules))
    assert judge.differences(tree) == []
    assert label_on_disk(tree / "usr/bin/tool") == b"system_u:object_r:tool_exec_t:s0\0"
    by_ostree = committed_by_ostree(repository, result.commit, tmp_path / "judge", tmp_path)
    assert content_checksum(repository.path, result.commit) == by_ostree


async def test_layer_is_written_as_ostree_commit_with_the_base_policy_writes_it(
    repository: Repository, tmp_path: Path
) -> None:
    base = Base(tmp_path)
    entries = [
        directory("usr"),
        directory("usr/lib"),
        file("usr/lib/libz.so.2", b"z"),
        symlink("usr/lib/z-link", "libz.so.2"),
        file("usr/implied/deep/x", b"x"),
        whiteout("usr/bin/su"),
    ]
    layer = make_layer(entries, compression="none")
    await run_import(repository, base.image(layer))
    archive = tmp_path / "layer.tar"
    archive.write_bytes(layer.blob)
    # The very call bootc makes.
    command = [
        "commit",
        "--tar-autocreate-parents",
        f"--tree=tar={archive}",
        "--branch=judge",
        "--no-bindings",
    ]
    ostree(repository, *command, f"--selinux-policy={base.tree}")
    ours = content_checksum(repository.path, blob_ref(layer.digest))
    assert ours == content_checksum(repository.path, "judge")


def files_of(repository: Repository, commit: str) -> dict[str, str]:
    """Return the checksum of each file of a commit by its path."""
    listed = ostree(repository, "ls", "--recursive", "--checksum", commit)
    lines = (line.split() for line in listed.splitlines() if not line.startswith("d"))
    return {fields[5]: fields[4] for fields in lines}


def objects_in(repository: Repository) -> set[str]:
    return {str(path.relative_to(repository.path)) for path in (repository.path / "objects").rglob("*.*")}


def unreachable(repository: Repository) -> int:
    """Return how many objects no ref leads to."""
    said = ostree(repository, "prune", "--refs-only", "--depth=0", "--no-prune")
    deleted = re.search(r"Would delete: (\d+) objects", said)
    return int(deleted[1]) if deleted else 0
