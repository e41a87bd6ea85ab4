"""A whole Debian system with Debian's policy of five thousand rules, labelled."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bootcd.ostree.repository import Repository
from bootcd.ostreefmt.refs import image_ref
from tests.adapter.ostree.conftest import blobs_of, checkout, run_import
from tests.adapter.ostree.test_importer import REFERENCE
from tests.support.machine import REPOSITORY
from tests.support.oci_image import Layer, file, make_image, make_layer
from tests.support.os_image import OsImages
from tests.support.selinux import Oracle, debian_policy, policy_entries, write_policy

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files get owners and labels"),
    # The first time, the policy is built.
    pytest.mark.timeout(300),
]


def layers_of(images: OsImages, tag: str) -> list[Layer]:
    """Return the layers of an image of an OCI layout."""

    def blob(digest: str) -> bytes:
        return (images.layout / "blobs" / digest.replace(":", "/")).read_bytes()

    manifest = json.loads(blob(images.digest(tag)))
    diff_ids = json.loads(blob(manifest["config"]["digest"]))["rootfs"]["diff_ids"]
    layers = []
    for described, diff_id in zip(manifest["layers"], diff_ids, strict=True):
        suffix = described["mediaType"].rpartition("+")[2]
        compression = suffix if suffix in ("gzip", "zstd") else "none"
        layers.append(Layer(blob(described["digest"]), diff_id, compression))
    return layers


async def test_system_with_debians_policy_is_labelled_as_libselinux_says(
    staged_repository: Repository, os_images: OsImages, tmp_path: Path
) -> None:
    repository = staged_repository
    files = debian_policy(REPOSITORY / ".cache/selinux-policy")
    rules = write_policy(tmp_path / "judge", files) / "etc/selinux/default/contexts/files/file_contexts"
    policy = make_layer(policy_entries(files))
    old, new = layers_of(os_images, "v1"), layers_of(os_images, "v2")
    await run_import(repository, make_image([*old, policy]), reference="docker://registry.example/old:1")
    booted = repository.resolve(image_ref("docker://registry.example/old:1"))
    assert booted
    image, opened = make_image([*new, policy, make_layer([file("usr/bin/added", b"a")])]), list[str]()
    await run_import(repository, image, open_blob=blobs_of(image, opened=opened), label_commit=booted)
    assert not set(opened) & {layer.digest for layer in [*old, policy]}
    tree = checkout(repository, image_ref(REFERENCE), tmp_path / "tree")
    assert Oracle(rules).differences(tree) == []
