"""OCI layouts in directories and archives: what real tools write, and what nobody should."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from bootcd.engine.source import open_source
from bootcd.model.errors import (
    BootcdError,
    DigestMismatch,
    InvalidImage,
    InvalidLayout,
    InvalidManifest,
    MediumUnavailable,
    NoMatchingPlatform,
    NotFound,
    Stalled,
    Unsupported,
)
from bootcd.model.job import WorkerSettings
from bootcd.ostreefmt.origin import TrackedImage
from tests.adapter.transports.conftest import SETTINGS, Take
from tests.support.oci_image import Image, make_image, make_index
from tests.support.oci_layout import blob_path, write_archive, write_layout

Spoil = Callable[[Path, Image], None]


@pytest.fixture
def layout(tmp_path: Path, image: Image) -> Path:
    return write_layout(tmp_path / "os", {"1": image})


def check(taken: object, image: Image) -> None:
    resolved, _, layers = taken  # type: ignore[misc]
    assert resolved.digest == image.digest
    assert resolved.manifest_bytes == image.manifest
    assert resolved.config_bytes == image.config
    assert layers == {layer.digest: layer.blob for layer in image.layers}


@pytest.mark.parametrize("tag", ["", ":1"], ids=["untagged", "tagged"])
async def test_layout_in_a_directory_gives_the_image(
    layout: Path, image: Image, take: Take, tag: str
) -> None:
    taken = await take("oci", f"{layout}{tag}")
    check(taken, image)
    assert taken[1] == image.digest


@pytest.mark.parametrize("prefix", ["", "./"], ids=["plain-names", "dotted-names"])
async def test_layout_in_an_archive_gives_the_image(
    tmp_path: Path, layout: Path, image: Image, take: Take, prefix: str
) -> None:
    archive = write_archive(tmp_path / "os.tar", layout, prefix=prefix)
    check(await take("oci-archive", f"{archive}:1"), image)


@pytest.mark.parametrize("transport", ["oci", "oci-archive"])
async def test_layout_written_by_skopeo_gives_the_same_image(
    tmp_path: Path, layout: Path, image: Image, take: Take, transport: str
) -> None:
    copy = tmp_path / "copy"
    skopeo("copy", f"oci:{layout}:1", f"{transport}:{copy}:v1.2")
    check(await take(transport, f"{copy}:v1.2"), image)
    check(await take(transport, str(copy)), image)
    with pytest.raises(NotFound, match="no image of this tag"):
        await take(transport, f"{copy}:v1")


@pytest.mark.parametrize("transport", ["oci", "oci-archive"])
async def test_index_in_a_layout_gives_the_image_of_the_platform(
    tmp_path: Path, image: Image, take: Take, transport: str
) -> None:
    index = make_index([make_image([], architecture="arm64"), image])
    source = write_layout(tmp_path / "multi", {"1": index})
    copy = tmp_path / "copy"
    skopeo("copy", "--all", f"oci:{source}:1", f"{transport}:{copy}:1")
    taken = await take(transport, f"{copy}:1")
    check(taken, image)
    assert (taken[0].index_digest, taken[1]) == (index.digest, index.digest)


async def test_index_without_the_platform_is_refused(tmp_path: Path, take: Take) -> None:
    index = make_index([make_image([], architecture="arm64")])
    write_layout(tmp_path / "arm", {"1": index})
    with pytest.raises(NoMatchingPlatform):
        await take("oci", f"{tmp_path}/arm:1")


async def test_layout_of_two_images_wants_a_tag(tmp_path: Path, image: Image, take: Take) -> None:
    write_layout(tmp_path / "os", {"1": image, "2": make_image([])})
    with pytest.raises(InvalidLayout, match="has 2 images") as caught:
        await take("oci", str(tmp_path / "os"))
    assert ":TAG" in caught.value.hint
    check(await take("oci", f"{tmp_path}/os:1"), image)


def blob(layout: Path, image: Image) -> Path:
    return blob_path(layout, image.layers[0].digest)


def change_blob(layout: Path, image: Image) -> None:
    path = blob(layout, image)
    path.write_bytes(b"x" + path.read_bytes()[1:])


def change_manifest(layout: Path, image: Image) -> None:
    path = blob_path(layout, image.digest)
    path.write_bytes(path.read_bytes().replace(b"amd64", b"amd65") + b" ")


def change_config(layout: Path, image: Image) -> None:
    digest = json.loads(image.manifest)["config"]["digest"]
    blob_path(layout, digest).write_bytes(image.config.replace(b"44.1", b"45.1"))


def link_blob(layout: Path, image: Image) -> None:
    path = blob(layout, image)
    path.rename(layout / "elsewhere")
    path.symlink_to(layout / "elsewhere")


def link_directory(layout: Path, image: Image) -> None:
    (layout / "blobs").rename(layout / "elsewhere")
    (layout / "blobs").symlink_to("elsewhere")


def link_index(layout: Path, image: Image) -> None:
    (layout / "index.json").rename(layout / "elsewhere")
    (layout / "index.json").symlink_to("/etc/passwd")


def shorten_blob(layout: Path, image: Image) -> None:
    os.truncate(blob(layout, image), 100)


def lengthen_blob(layout: Path, image: Image) -> None:
    with blob(layout, image).open("ab") as file:
        file.write(b"x")


def swap_for_pipe(layout: Path, image: Image) -> None:
    blob(layout, image).unlink()
    os.mkfifo(blob(layout, image))


def swap_for_socket(layout: Path, image: Image) -> None:
    (layout / "index.json").unlink()
    here = Path.cwd()
    os.chdir(layout)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("index.json")
    finally:
        os.chdir(here)


def enlarge_index(layout: Path, image: Image) -> None:
    os.truncate(layout / "index.json", 8 << 30)


def index_entry(**changes: object) -> Spoil:
    def spoil(layout: Path, image: Image) -> None:
        document = json.loads((layout / "index.json").read_text())
        document["manifests"][0] |= changes
        (layout / "index.json").write_text(json.dumps(document))

    return spoil


def write_index(text: str) -> Spoil:
    return lambda layout, image: (layout / "index.json").write_text(text) and None


def remove(name: str) -> Spoil:
    return lambda layout, image: (layout / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        pytest.param(change_blob, DigestMismatch, "has digest sha256:", id="other-blob"),
        pytest.param(change_manifest, DigestMismatch, "a manifest of oci:", id="other-manifest"),
        pytest.param(change_config, DigestMismatch, "the config of oci:", id="other-config"),
        pytest.param(link_blob, InvalidLayout, "symbolic link", id="link-to-a-blob"),
        pytest.param(link_directory, InvalidLayout, "symbolic link", id="link-to-the-blobs"),
        pytest.param(link_index, InvalidLayout, "symbolic link", id="link-out-of-the-layout"),
        pytest.param(shorten_blob, InvalidLayout, "shorter than it says", id="short-blob"),
        pytest.param(lengthen_blob, DigestMismatch, "instead of", id="long-blob"),
        pytest.param(swap_for_pipe, InvalidLayout, "not a regular file", id="pipe"),
        pytest.param(swap_for_socket, MediumUnavailable, "cannot be read", id="socket"),
        pytest.param(enlarge_index, InvalidLayout, "larger than", id="huge-index"),
        pytest.param(write_index("{"), InvalidLayout, "not in order", id="no-json"),
        pytest.param(write_index('{"schemaVersion":2,"manifests":[]}'), NotFound, "no image", id="empty"),
        pytest.param(remove("index.json"), InvalidLayout, "no OCI layout", id="no-index"),
        pytest.param(
            index_entry(digest="sha256:../../../../etc/passwd"),
            InvalidLayout,
            "not in order",
            id="digest-path",
        ),
        pytest.param(index_entry(digest="sha256:" + "0" * 64), NotFound, "has no blobs/", id="no-manifest"),
        pytest.param(index_entry(mediaType="text/plain"), NotFound, "no image", id="no-image-type"),
        pytest.param(
            index_entry(mediaType="application/vnd.oci.image.index.v1+json"),
            InvalidManifest,
            "announced",
            id="manifest-as-index",
        ),
    ],
)
async def test_spoilt_layout_is_refused_by_type(
    layout: Path, image: Image, take: Take, spoil: Spoil, error: type[BootcdError], words: str
) -> None:
    spoil(layout, image)
    with pytest.raises(error, match=words) as caught:
        await take("oci", str(layout))
    assert caught.value.fields["image"] == f"oci:{layout}"


async def test_path_where_nothing_is_can_be_tried_again(tmp_path: Path, take: Take) -> None:
    for transport in ("oci", "oci-archive"):
        with pytest.raises(MediumUnavailable, match="is not there") as caught:
            await take(transport, f"{tmp_path}/usb/os")
        assert caught.value.retryable
        assert "mount" in caught.value.hint


async def test_medium_taken_away_in_the_middle_can_be_tried_again(layout: Path, image: Image) -> None:
    tracked = TrackedImage.unverified("oci", str(layout))
    async with open_source(tracked, SETTINGS) as source:
        resolved = await source.resolve(architecture="amd64")
        (layout / "blobs").rename(layout.parent / "gone")
        layout.rename(layout.parent / "unplugged")
        layout.mkdir()
        with pytest.raises(MediumUnavailable, match="is not there") as caught:
            await anext(source.open_blob(resolved.manifest.layers[0]))
        assert caught.value.retryable


async def test_blob_that_shrinks_while_it_is_read_is_refused(layout: Path, image: Image) -> None:
    async with open_source(TrackedImage.unverified("oci", str(layout)), SETTINGS) as source:
        resolved = await source.resolve(architecture="amd64")
        [large, _] = resolved.manifest.layers
        async with aclosing(source.open_blob(large)) as chunks:
            await anext(chunks)
            os.truncate(blob_path(layout, large.digest), 0)
            with pytest.raises(InvalidLayout, match="shorter than it says"):
                async for _ in chunks:
                    pass


async def test_read_that_never_returns_is_a_stall(
    layout: Path, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    # Nothing but a dead file server makes a read of a regular file hang.
    monkeypatch.setattr(os, "pread", lambda *_: os.read(read, 1))
    try:
        settings = WorkerSettings(stall_timeout_secs=0.2)
        async with open_source(TrackedImage.unverified("oci", str(layout)), settings) as source:
            with pytest.raises(Stalled, match=r"for 0.2 seconds"):
                await source.current_digest()
    finally:
        os.close(write)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda tar: gzip.compress(tar), "compressed with gzip", id="gzip"),
        pytest.param(lambda tar: tar[:3000], "ends within a file|not an archive", id="cut"),
        pytest.param(lambda tar: b"no archive" * 1000, "not an archive in order", id="no-archive"),
        pytest.param(
            lambda tar: tar.rstrip(b"\0") + bytes(512 - len(tar.rstrip(b"\0")) % 512) + tar,
            "two files",
            id="twice",
        ),
    ],
)
async def test_archive_out_of_order_is_refused(
    tmp_path: Path, layout: Path, take: Take, make: Callable[[bytes], bytes], words: str
) -> None:
    archive = write_archive(tmp_path / "os.tar", layout)
    archive.write_bytes(make(archive.read_bytes()))
    with pytest.raises(InvalidLayout, match=words):
        await take("oci-archive", str(archive))


async def test_archive_of_too_many_files_is_refused(
    tmp_path: Path, layout: Path, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_archive(tmp_path / "os.tar", layout)
    monkeypatch.setattr("bootcd.transports.archive.MAX_MEMBERS", 3)
    with pytest.raises(InvalidLayout, match="more than 3 files"):
        await take("oci-archive", str(archive))


@pytest.mark.parametrize("name", ["os.oci", "./os:1", "/mnt/../etc/os"])
async def test_path_that_is_not_one_place_for_all_is_refused(take: Take, name: str) -> None:
    for transport in ("oci", "oci-archive"):
        with pytest.raises(InvalidImage):
            await take(transport, name)


async def test_docker_daemon_is_refused_with_a_way_out(take: Take) -> None:
    with pytest.raises(Unsupported) as caught:
        await take("docker-daemon", "os:1")
    assert "docker save" in caught.value.hint


def skopeo(*arguments: str) -> None:
    subprocess.run(["skopeo", "--insecure-policy", *arguments], check=True, capture_output=True, timeout=60)
