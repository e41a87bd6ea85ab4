"""Images as skopeo, docker and podman leave them: directories, saved archives, the store of the host."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from bootcd.engine.source import open_source
from bootcd.model.errors import (
    BackendFailed,
    BootcdError,
    DigestMismatch,
    InvalidLayout,
    InvalidManifest,
    NotFound,
    OutOfSpace,
    Unsupported,
)
from bootcd.model.job import WorkerSettings
from bootcd.oci.resolve import digest_of
from bootcd.ostreefmt.origin import TrackedImage
from bootcd.transports import podman, storage
from tests.adapter.transports.conftest import Take, Taken
from tests.support.oci_image import Image, make_image, make_index
from tests.support.oci_layout import write_layout


def skopeo(*arguments: str) -> bytes:
    command = ["skopeo", "--insecure-policy", *arguments]
    return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout


@pytest.fixture
def layout(tmp_path: Path, image: Image) -> Path:
    return write_layout(tmp_path / "os", {"1": image})


def check_archives(taken: Taken, image: Image) -> None:
    """Check that the layers are the image's, uncompressed."""
    resolved, _, layers = taken
    assert resolved.config_bytes == image.config
    assert {layer.compression for layer in resolved.manifest.layers} == {"none"}
    assert [digest_of(layers[layer.digest]) for layer in resolved.manifest.layers] == [
        layer.diff_id for layer in image.layers
    ]


# dir


async def test_directory_gives_the_image(tmp_path: Path, layout: Path, image: Image, take: Take) -> None:
    skopeo("copy", f"oci:{layout}:1", f"dir:{tmp_path}/a:b")
    resolved, digest, layers = await take("dir", f"{tmp_path}/a:b")
    assert (resolved.digest, digest, resolved.config_bytes) == (image.digest, image.digest, image.config)
    assert layers == {layer.digest: layer.blob for layer in image.layers}


async def test_directory_of_an_index_gives_the_image_of_the_platform(
    tmp_path: Path, image: Image, take: Take
) -> None:
    index = make_index([make_image([], architecture="arm64"), image])
    write_layout(tmp_path / "multi", {"1": index})
    skopeo("copy", "--all", f"oci:{tmp_path}/multi:1", f"dir:{tmp_path}/dir")
    resolved, digest, _ = await take("dir", f"{tmp_path}/dir")
    assert (resolved.digest, resolved.index_digest, digest) == (image.digest, index.digest, index.digest)


async def test_directory_that_is_altered_or_none_is_refused(
    tmp_path: Path, layout: Path, image: Image, take: Take
) -> None:
    with pytest.raises(InvalidLayout, match="holds no image"):
        await take("dir", str(layout))
    skopeo("copy", f"oci:{layout}:1", f"dir:{tmp_path}/dir")
    blob = tmp_path / "dir" / image.layers[1].digest.partition(":")[2]
    blob.write_bytes(b"x" * len(image.layers[1].blob))
    with pytest.raises(DigestMismatch):
        await take("dir", f"{tmp_path}/dir")


# docker-archive


async def test_docker_archive_gives_the_image_under_the_digest_skopeo_gives_it(
    tmp_path: Path, layout: Path, image: Image, take: Take
) -> None:
    archive = tmp_path / "os.tar"
    skopeo("copy", f"oci:{layout}:1", f"docker-archive:{archive}:localhost/os:1")
    taken = await take("docker-archive", str(archive))
    check_archives(taken, image)
    assert taken[0].manifest_bytes == skopeo("inspect", "--raw", f"docker-archive:{archive}")
    assert taken[0].digest == taken[1]
    check_archives(await take("docker-archive", f"{archive}:localhost/os:1"), image)
    with pytest.raises(NotFound, match="of this name"):
        await take("docker-archive", f"{archive}:localhost/os:2")


Document = list[dict[str, Any]]


def rewrite(archive: Path, change: Callable[[Document], object], rename: dict[str, str]) -> None:
    """Change the list of images of an archive, and names of its files."""
    with tarfile.open(archive) as tar:
        members = [(info, tar.extractfile(info) if info.isfile() else None) for info in tar.getmembers()]
        content = [(info, file.read() if file else b"") for info, file in members]
    with tarfile.open(archive, "w") as tar:
        for info, data in content:
            if info.name == "manifest.json":
                document = json.loads(data)
                changed = change(document)
                data = json.dumps(document if changed is None else changed).encode()
            info.name = rename.get(info.name, info.name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        pytest.param(lambda d: {}, InvalidLayout, "not in order", id="no-list"),
        pytest.param(lambda d: [], NotFound, "no image", id="empty"),
        pytest.param(lambda d: [[]], InvalidLayout, "not in order", id="no-object"),
        pytest.param(lambda d: d[0].update(Config=7), InvalidLayout, "not in order", id="no-config-name"),
        pytest.param(lambda d: d[0].update(Layers=[None]), InvalidLayout, "not in order", id="no-layer-name"),
        pytest.param(lambda d: d.append(d[0]), InvalidLayout, "has 2 images", id="two-images"),
        pytest.param(lambda d: d[0].update(Config="../../../etc/passwd"), NotFound, "has no", id="path-out"),
        pytest.param(
            lambda d: d[0].update(Layers=d[0]["Layers"][:1]),
            InvalidManifest,
            "1 layers and 2",
            id="layer-missing",
        ),
        pytest.param(lambda d: d[0]["Layers"].reverse(), DigestMismatch, "a blob", id="layers-swapped"),
        pytest.param(
            lambda d: d[0]["Layers"].__setitem__(0, d[0]["Config"]),
            DigestMismatch,
            "a blob",
            id="config-as-layer",
        ),
    ],
)
async def test_docker_archive_out_of_order_is_refused(
    tmp_path: Path,
    layout: Path,
    take: Take,
    change: Callable[[Document], object],
    error: type[BootcdError],
    words: str,
) -> None:
    archive = tmp_path / "os.tar"
    skopeo("copy", f"oci:{layout}:1", f"docker-archive:{archive}:localhost/os:1")
    rewrite(archive, change, {})
    with pytest.raises(error, match=words):
        await take("docker-archive", str(archive))


async def test_docker_archive_follows_links_inside_and_no_others(
    tmp_path: Path, layout: Path, image: Image, take: Take
) -> None:
    archive = tmp_path / "os.tar"
    skopeo("copy", f"oci:{layout}:1", f"docker-archive:{archive}:localhost/os:1")
    with tarfile.open(archive) as tar:
        [first, second] = [info.name for info in tar if info.issym()]

    def by_link(document: Document) -> None:
        document[0]["Layers"] = [first, second]

    rewrite(archive, by_link, {})
    check_archives(await take("docker-archive", str(archive)), image)
    with tarfile.open(archive, "a") as tar:
        for name, target in (("loop", "loop"), ("out", "../../../../etc/passwd")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    for name in ("loop", "out"):

        def by_bad_link(document: Document, name: str = name) -> None:
            document[0]["Layers"] = [name, second]

        rewrite(archive, by_bad_link, {})
        with pytest.raises(NotFound):
            await take("docker-archive", str(archive))


# containers-storage


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of its own for podman and skopeo."""
    configuration = tmp_path / "storage.conf"
    configuration.write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/graph"\nrunroot = "{tmp_path}/run"\n'
    )
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(configuration))
    return tmp_path


async def test_store_gives_an_image_copied_into_it(
    store: Path, layout: Path, image: Image, take: Take
) -> None:
    skopeo("copy", f"oci:{layout}:1", "containers-storage:localhost/os:1")
    taken = await take("containers-storage", "localhost/os:1")
    check_archives(taken, image)
    resolved, digest, _ = taken
    assert (resolved.manifest_bytes, resolved.digest, digest) == (image.manifest, image.digest, image.digest)


async def test_store_gives_an_image_podman_built(store: Path, layout: Path, take: Take) -> None:
    skopeo("copy", f"oci:{layout}:1", "containers-storage:localhost/os:1")
    (store / "Containerfile").write_text(
        "FROM localhost/os:1\nLABEL org.opencontainers.image.version=45\nCOPY added /usr/\n"
    )
    (store / "added").write_text("added")
    subprocess.run(
        ["podman", "build", "--isolation=chroot", "--network=host", "--tag=localhost/os:2", str(store)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    resolved, digest, layers = await take("containers-storage", "localhost/os:2")
    assert resolved.config.version == "45"
    assert digest == resolved.digest
    diff_ids = [digest_of(layers[layer.digest]) for layer in resolved.manifest.layers]
    assert diff_ids == list(resolved.config.diff_ids)
    assert len(diff_ids) == 3


@pytest.fixture
def without_skopeo(store: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Take skopeo away from a host that has podman."""
    programs = store / "programs"
    programs.mkdir()
    podman_path = shutil.which("podman")
    assert podman_path
    (programs / "podman").symlink_to(podman_path)
    return lambda: monkeypatch.setenv("PATH", str(programs))


async def test_store_is_read_by_podman_where_there_is_no_skopeo(
    store: Path, layout: Path, image: Image, take: Take, without_skopeo: Callable[[], None]
) -> None:
    skopeo("copy", f"oci:{layout}:1", "containers-storage:localhost/os:1")
    by_skopeo, digest, _ = await take("containers-storage", "localhost/os:1")
    without_skopeo()
    taken = await take("containers-storage", "localhost/os:1")
    check_archives(taken, image)
    # Whoever reads the store next does not take the same image for a new one.
    assert (taken[0].digest, taken[1]) == (by_skopeo.digest, digest) == (image.digest, image.digest)


async def test_podman_is_asked_for_the_name_skopeo_would_take(
    layout: Path, take: Take, without_skopeo: Callable[[], None]
) -> None:
    skopeo("copy", f"oci:{layout}:1", "containers-storage:localhost/os:1")
    without_skopeo()
    with pytest.raises(NotFound, match="this host has no containers-storage:os:1"):
        await take("containers-storage", "os:1")


async def test_image_the_spool_has_no_room_for_is_refused_before_it_is_written(
    layout: Path, take: Take, without_skopeo: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    skopeo("copy", f"oci:{layout}:1", "containers-storage:localhost/os:1")
    without_skopeo()
    with monkeypatch.context() as context:
        context.setattr(podman.os, "fstatvfs", lambda _: Mock(f_bavail=1, f_frsize=4096))
        with pytest.raises(OutOfSpace, match="where 4096 are free") as caught:
            await take("containers-storage", "localhost/os:1")
    assert caught.value.hint == "free some space there, or install skopeo, which reads images without a copy"


async def test_another_image_than_the_store_said_is_refused(
    store: Path, layout: Path, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    skopeo("copy", f"oci:{layout}:1", "containers-storage:localhost/os:1")
    real = shutil.which("podman")
    programs = store / "lying"
    programs.mkdir()
    wrong = "0" * 64
    script = f"""#!/bin/sh
case $2 in
inspect) echo '[{{"Id": "{wrong}", "Digest": "sha256:{wrong}", "Size": 1}}]' ;;
save) exec {real} image save --quiet localhost/os:1 ;;
esac
"""
    (programs / "podman").write_text(script)
    (programs / "podman").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(DigestMismatch, match=f"the config of .*/os:1 has .* instead of sha256:{wrong}"):
        await take("containers-storage", "localhost/os:1")


async def test_host_with_neither_skopeo_nor_podman_is_told_what_is_missing(
    tmp_path: Path, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unsupported, match="skopeo or podman, and this host has neither"):
        await take("containers-storage", "localhost/os:1")


async def test_store_without_the_image_says_so(store: Path, take: Take) -> None:
    with pytest.raises(NotFound, match="this host has no containers-storage:localhost/os:1"):
        await take("containers-storage", "localhost/os:1")


async def test_host_without_skopeo_is_told_what_is_missing(
    take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_COMMAND", ("/nowhere/skopeo",))
    with pytest.raises(Unsupported) as caught:
        await take("containers-storage", "localhost/os:1")
    assert caught.value.hint == "install skopeo anew"


async def test_skopeo_that_ends_in_the_middle_is_typed_and_leaves_no_process(
    tmp_path: Path, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "skopeo"
    script.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(storage, "_COMMAND", (str(script),))
    with pytest.raises(BackendFailed, match="skopeo has ended"):
        async with open_source(
            TrackedImage.unverified("containers-storage", "localhost/os:1"), WorkerSettings()
        ):
            pass
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
