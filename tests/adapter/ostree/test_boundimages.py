"""Bound images read from a commit: links are followed inside the image and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootcd.model.errors import NotBootable
from bootcd.ostree.boundimages import MAX_FILE_BYTES, read_bound_images
from bootcd.ostree.repository import Repository
from tests.adapter.ostree.conftest import run_import
from tests.adapter.ostree.test_importer import KERNEL
from tests.support.oci_image import Entry, directory, file, make_image, make_layer, symlink

BOUND = "usr/lib/bootc/bound-images.d"
QUADLET = b"[Image]\nImage=quay.io/example/web:1\n"


async def bound(repository: Repository, *entries: Entry) -> list[str]:
    result = await run_import(repository, make_image([make_layer([*KERNEL, *entries])]))
    return read_bound_images(repository, result.commit)


async def test_links_lead_to_files_of_the_image(staged_repository: Repository) -> None:
    images = await bound(
        staged_repository,
        file("usr/share/containers/systemd/web.image", QUADLET),
        file("etc/containers/systemd/db.container", b"[Container]\nImage=quay.io/example/db@sha256:aa\n"),
        directory("usr/share/quadlets"),
        symlink("usr/share/more", "quadlets"),
        symlink("usr/share/quadlets/chain.image", "/usr/share/containers/systemd/web.image"),
        symlink(f"{BOUND}/web.image", "/usr/share/containers/systemd/web.image"),
        symlink(f"{BOUND}/db.container", "/etc/containers/systemd/db.container"),
        symlink(f"{BOUND}/relative.image", "../../../share/containers/systemd/web.image"),
        symlink(f"{BOUND}/chain.image", "../../../share/more/chain.image"),
        symlink(f"{BOUND}/above.image", "../../../../../../../usr/share/containers/systemd/web.image"),
    )
    assert images == ["quay.io/example/db@sha256:aa", "quay.io/example/web:1"]


async def test_image_without_the_directory_binds_nothing(staged_repository: Repository) -> None:
    assert await bound(staged_repository) == []


HOSTILE: dict[str, tuple[list[Entry], str]] = {
    "no-link": ([file(f"{BOUND}/x.image", QUADLET)], "not a symbolic link"),
    "nowhere": ([symlink(f"{BOUND}/x.image", "/usr/share/missing")], "not in the image"),
    "host-file": ([symlink(f"{BOUND}/x.image", "/proc/self/environ")], "not in the image"),
    "circle": (
        [symlink(f"{BOUND}/x.image", "y.image"), symlink(f"{BOUND}/y.image", "x.image")],
        "without an end",
    ),
    "directory": ([symlink(f"{BOUND}/x.image", "/usr")], "regular file"),
    "root": ([symlink(f"{BOUND}/x.image", "/")], "regular file"),
    "through-a-file": ([symlink(f"{BOUND}/x.image", "/usr/lib/os-release/x")], "not in the image"),
    "large": (
        [file("usr/large", b"#" * (MAX_FILE_BYTES + 1)), symlink(f"{BOUND}/x.image", "/usr/large")],
        "regular file",
    ),
}


@pytest.mark.parametrize(("entries", "words"), HOSTILE.values(), ids=HOSTILE)
async def test_link_that_leads_to_no_file_of_the_image_is_refused(
    staged_repository: Repository, entries: list[Entry], words: str
) -> None:
    with pytest.raises(NotBootable, match=words):
        await bound(staged_repository, *entries)


async def test_errors_name_the_link(staged_repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(NotBootable, match=r"/usr/lib/bootc/bound-images\.d/x\.image of the image"):
        await bound(staged_repository, symlink(f"{BOUND}/x.image", "/missing"))
