"""The test operating system is what its tests take it for."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.os_image import TAGS, OsImages
from tests.support.registry import Registry
from tests.support.tree import Tree, differences, scan_tree

OWN = "usr/lib/test-os"
EXTRACT = {"gzip": ["--gzip"], "zstd": ["--zstd"], "tar": []}


def manifest(images: OsImages, tag: str) -> Any:
    return blob(images, images.digest(tag))


def blob(images: OsImages, digest: str) -> Any:
    return json.loads((images.layout / "blobs/sha256" / digest.removeprefix("sha256:")).read_text())


def packing(layer: dict[str, Any]) -> str:
    return str(layer["mediaType"].rpartition("layer.v1.")[2].removeprefix("tar+"))


def test_os_images_are_bootable_systems_in_several_layers(
    os_images: OsImages, os_tree: Callable[[str], Tree]
) -> None:
    tree = os_tree("v1")
    first = manifest(os_images, "v1")
    labels = blob(os_images, first["config"]["digest"])["config"]["Labels"]

    assert sum(entry.type == "file" for entry in tree.values()) > 10_000
    modules = f"usr/lib/modules/{os_images.kernel}"
    assert {f"{modules}/vmlinuz", f"{modules}/initramfs.img", f"{modules}/modules.dep"} <= tree.keys()
    assert labels["containers.bootc"] == labels["ostree.bootable"] == "1"
    assert [packing(layer) for layer in first["layers"]] == ["gzip", "zstd", "gzip", "gzip", "tar"]
    assert 50 << 20 < sum(layer["size"] for layer in first["layers"]) < 250 << 20
    assert not [path for path in tree if path.startswith(("boot/", "proc/", "sys/"))]
    assert (tree["home"].target, tree["root"].target) == ("var/home", "var/roothome")


def test_os_images_hold_what_is_hard_to_deploy(os_tree: Callable[[str], Tree]) -> None:
    tree = os_tree("v1")

    assert tree["usr/bin/ping"].xattrs[0][0] == "security.capability"
    assert tree["usr/bin/passwd"].mode == 0o4755
    assert tree["usr/bin/perl"].inode == tree["usr/bin/perl5.36.0"].inode
    assert tree["dev/null"].type == "other"
    assert len(dict(tree[f"{OWN}/attributes"].xattrs)) == 2
    assert max(len(path) for path in tree) > 400
    assert any(not path.isascii() for path in tree)


def test_flatten_agrees_with_gnu_tar(
    os_images: OsImages, os_tree: Callable[[str], Tree], tmp_path: Path
) -> None:
    """v1 has no white-outs, so unpacking its layers over each other must give the same tree."""
    for layer in manifest(os_images, "v1")["layers"]:
        archive = os_images.layout / "blobs/sha256" / layer["digest"].removeprefix("sha256:")
        command = [
            "tar",
            "-xp",
            "--numeric-owner",
            "--xattrs",
            "--xattrs-include=*",
            *EXTRACT[packing(layer)],
        ]
        subprocess.run([*command, "-C", str(tmp_path), "-f", str(archive)], check=True)

    assert differences(os_tree("v1"), scan_tree(tmp_path)) == []


def test_second_version_shares_layers_and_changes_adds_deletes(
    os_images: OsImages, os_tree: Callable[[str], Tree]
) -> None:
    layers = {tag: [layer["digest"] for layer in manifest(os_images, tag)["layers"]] for tag in TAGS}
    one, two, three = (os_tree(tag) for tag in ("v1", "v2", "v3"))
    initramfs = f"usr/lib/modules/{os_images.kernel}/initramfs.img"

    assert layers["v1"][:4] == layers["v2"][:4] == layers["v3"][:4] == layers["other"][:4]
    assert len(layers["v2"]) == 6
    assert not set(layers["v1"][4:]) & set(layers["v2"][4:])
    assert layers["v2"][5] == layers["v3"][5]
    assert {
        "usr/bin/nano",
        "etc/test-os-removed-in-v2.conf",
        f"{OWN}/opaque/deep/hidden",
    } <= one.keys() - two.keys()
    assert {f"{OWN}/added/0299", f"{OWN}/opaque/added", f"{OWN}/shape-file/inner"} <= two.keys() - one.keys()
    assert one[initramfs] != two[initramfs]
    assert two[initramfs].sha256 == three[initramfs].sha256
    assert not [path for path in two if "/.wh." in path]
    shapes = {
        name: (one[f"{OWN}/{name}"].type, two[f"{OWN}/{name}"].type) for name in ("shape-file", "shape-link")
    }
    assert shapes == {"shape-file": ("file", "directory"), "shape-link": ("symlink", "file")}


async def test_push_keeps_digests(os_images: OsImages, tmp_path: Path) -> None:
    async with Registry(tmp_path) as registry:
        digest = await os_images.push("v2", registry.host, "os", "latest")

        raw = subprocess.run(
            ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{registry.host}/os:latest"],
            capture_output=True,
            check=True,
        )
        assert json.loads(raw.stdout) == manifest(os_images, "v2")
        assert digest == os_images.digest("v2")
