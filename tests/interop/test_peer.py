"""bootcd and bootc's own storage code on one repository, in turn.

The images are chunked, with a layer of a container build on top: the peer's release takes no others.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from bootcd.model.job import JobKind, Outcome
from tests.interop import peer
from tests.support.chunked_host import Site
from tests.support.host import PYTHON, run_worker
from tests.support.machine import Machine
from tests.support.oci_image import Image, Layer, directory, file, hardlink, make_layer, symlink, whiteout
from tests.support.registry import Registry

pytestmark = [
    pytest.mark.machine,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not peer.binary().exists(), reason="the peer is not built: run make interop"),
]


def derived(version: str) -> Layer:
    """Return a layer that changes, adds and removes, as a container build on top of the system does."""
    return make_layer(
        [
            file("etc/added.conf", f"version {version}\n".encode()),
            file("usr/bin/tool", b"#!/bin/sh\n", mode=0o4755),
            hardlink("usr/bin/same-tool", "usr/bin/tool"),
            symlink("usr/bin/link", "tool"),
            directory("usr/share/more", mode=0o711),
            file("usr/share/more/file", version.encode()),
            whiteout("usr/share/same"),
            file("var/lib/state", b"from the image\n"),
        ]
    )


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A host with nothing deployed, and a registry with version 1."""
    (tmp_path / "registry").mkdir()
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(Registry(tmp_path / "registry"))
        machine = await Machine.create(tmp_path / "machine", binds=[PYTHON.parent.parent])
        yield Site(tmp_path, await stack.enter_async_context(machine), registry)


async def pull(site: Site, repo: Path) -> str:
    """Let the peer pull what the registry has, and return what it says of the layers."""
    image = f"ostree-unverified-registry:{site.reference}"
    return await peer.run(
        *("container", "image", "pull", "--quiet", "--insecure-skip-tls-verification", repo, image)
    )


async def peer_deploys(site: Site) -> None:
    await peer.run(
        *("container", "image", "deploy", "--sysroot", site.machine.sysroot, "--stateroot", "default"),
        *("--imgref", f"ostree-unverified-registry:{site.reference}", "--insecure-skip-tls-verification"),
    )


async def bootcd_switches(site: Site) -> Outcome:
    """Let a worker take what the registry has."""
    outcome = await run_worker(
        site.directory,
        JobKind.SWITCH,
        image=site.reference,
        sysroot=site.machine.sysroot,
        registry=site.registry.host,
    )
    assert outcome.error is None, outcome.error
    return outcome


def ostree(repo: Path, *arguments: str) -> str:
    command = ["ostree", f"--repo={repo}", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def refs(repo: Path) -> dict[str, str]:
    return {name: ostree(repo, "rev-parse", name) for name in ostree(repo, "refs").splitlines()}


def image_commit(repo: Path) -> str:
    (found,) = (commit for ref, commit in refs(repo).items() if ref.startswith("ostree/container/image/"))
    return found


def size_of_new_layers(old: Image, new: Image) -> int:
    digests = {layer.digest for layer in old.layers}
    return sum(len(new.blobs[layer.digest]) for layer in new.layers if layer.digest not in digests)


async def test_peer_reads_what_bootcd_deployed(site: Site) -> None:
    image, _ = await site.publish("1", derived("1"))
    await bootcd_switches(site)
    name, repo = f"registry:{site.reference}", site.machine.repo
    assert (await peer.run("container", "image", "list", "--repo", repo)).split() == [
        f"docker://{site.reference}"
    ]
    manifest = await peer.run("container", "image", "metadata", "--repo", repo, name)
    assert json.loads(manifest) == json.loads(image.manifest)
    config = await peer.run("container", "image", "metadata", "--config", "--repo", repo, name)
    assert json.loads(config)["rootfs"] == json.loads(image.config)["rootfs"]
    history = await peer.run("container", "image", "history", "--repo", repo, name)
    assert all(layer.digest.removeprefix("sha256:")[:20] in history for layer in image.layers), history


async def test_peer_has_nothing_to_fetch_after_bootcd(site: Site) -> None:
    await site.publish("1", derived("1"))
    await bootcd_switches(site)
    before = refs(site.machine.repo)
    assert "layers needed" not in await pull(site, site.machine.repo)
    assert refs(site.machine.repo) == before


async def test_peer_fetches_only_what_changed_after_bootcd(site: Site) -> None:
    old, _ = await site.publish("1", derived("1"))
    await bootcd_switches(site)
    new, _ = await site.publish("2", derived("2"))
    needed = {layer.digest for layer in new.layers} - {layer.digest for layer in old.layers}
    said = await pull(site, site.machine.repo)
    assert f"layers already present: {len(new.layers) - len(needed)}" in said
    assert f"layers needed: {len(needed)} " in said


async def test_bootcd_fetches_only_what_changed_after_peer(site: Site) -> None:
    old, _ = await site.publish("1", derived("1"))
    await peer_deploys(site)
    new, _ = await site.publish("2", derived("2"))
    assert (await bootcd_switches(site)).bytes_fetched == size_of_new_layers(old, new)


async def test_bootcd_reads_and_upgrades_what_peer_deployed(site: Site) -> None:
    old, _ = await site.publish("1", derived("1"))
    await peer_deploys(site)
    await site.machine.boot()
    booted = (await site.status())["booted"]
    assert booted["image"]["imageDigest"] == old.digest
    assert booted["image"]["image"] == {"image": site.reference, "transport": "registry"}
    assert not booted["incompatible"]
    new, _ = await site.publish("2", derived("2"))
    outcome = await site.upgrade()
    assert outcome.bytes_fetched == size_of_new_layers(old, new)
    assert (await site.status())["staged"]["image"]["imageDigest"] == new.digest


async def test_both_make_the_same_tree_of_an_image(site: Site, tmp_path: Path) -> None:
    await site.publish("1", derived("1"))
    await bootcd_switches(site)
    second = tmp_path / "second"
    subprocess.run(["ostree", f"--repo={second}", "init", "--mode=bare"], check=True)
    await pull(site, second)
    listing = ("ls", "-R", "-C", "-X")
    ours = ostree(site.machine.repo, *listing, image_commit(site.machine.repo)).splitlines()
    theirs = ostree(second, *listing, image_commit(second)).splitlines()
    assert sorted(set(ours) ^ set(theirs)) == []


async def test_peer_prunes_nothing_bootcd_needs(site: Site) -> None:
    await site.publish("1", derived("1"))
    await bootcd_switches(site)
    before = refs(site.machine.repo)
    await peer.run("container", "image", "prune-images", "--full", "--sysroot", site.machine.sysroot)
    assert refs(site.machine.repo) == before
    ostree(site.machine.repo, "fsck", "--quiet")
    assert not (await bootcd_switches(site)).bytes_fetched


async def test_bootcd_prunes_nothing_peer_needs(site: Site) -> None:
    await site.publish("1", derived("1"))
    await peer_deploys(site)
    await site.machine.boot()
    await site.publish("2", derived("2"))
    await site.upgrade()  # and so cleans up
    name = f"registry:{site.reference}"
    assert await peer.run("container", "image", "history", "--repo", site.machine.repo, name)
    ostree(site.machine.repo, "fsck", "--quiet")
