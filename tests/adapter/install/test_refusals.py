"""What cannot work is refused, and the target is as it was, byte for byte."""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bootcd.install import to_disk
from bootcd.install.arguments import common_options, disk_options
from bootcd.install.cli import build_parser
from bootcd.install.layout import MIB
from bootcd.install.prepare import Prepared, prepared
from bootcd.install.report import Reporter
from bootcd.install.target import open_disk
from bootcd.install.to_disk import install_to_disk
from bootcd.model.errors import (
    AccessDenied,
    BootcdError,
    InvalidArguments,
    InvalidConfig,
    NoMatchingPlatform,
    NotBootable,
    OutOfSpace,
    SignatureRejected,
    Unsupported,
    WrongState,
)
from bootcd.ostree.prepare_root import makes_composefs
from tests.support.install import attached, command, raw_disk, small_image, write_layout
from tests.support.oci_image import Entry, file, make_image, make_layer, symlink

MARK = b"what was here before"


def content_of(path: Path) -> str:
    """Return the digest of a sparse file: where its data are, and what they are."""
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        end = position = 0
        while True:
            try:
                position = os.lseek(descriptor, end, os.SEEK_DATA)
            except OSError:  # no more data
                return digest.hexdigest()
            end = os.lseek(descriptor, position, os.SEEK_HOLE)
            digest.update(f"{position} {end}\n".encode())
            digest.update(os.pread(descriptor, end - position, position))
    finally:
        os.close(descriptor)


def arguments(disk: Path, source: str, *more: str) -> argparse.Namespace:
    words = ["to-disk", "--via-loopback", "--config-dir", "/nowhere", "--source-imgref", source, *more]
    return build_parser().parse_args([*words, str(disk)])


async def refused(disk: Path, source: str, *more: str, containers_root: Path = Path("/")) -> BootcdError:
    """Try to install in this process, which is refused before anything is mounted; returns why."""
    before = content_of(disk)
    parsed = arguments(disk, source, *more)
    options = common_options(parsed)
    settings = options.settings.model_copy(update={"containers_root": str(containers_root)})
    with pytest.raises(BootcdError) as caught:
        await install_to_disk(replace(options, settings=settings), disk_options(parsed), Reporter(quiet=True))
    assert content_of(disk) == before
    return caught.value


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    """A disk with something on it that is no file system."""
    disk = raw_disk(tmp_path / "disk.img")
    with disk.open("r+b") as stream:
        for offset in (0, 5 * MIB, 600 * MIB):
            stream.seek(offset + 100)
            stream.write(MARK)
    return disk


OPTIONS = ("--filesystem=ext4",)


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        pytest.param({"kernel": False}, NotBootable, "no kernels", id="without kernel"),
        pytest.param({"grub": False}, NotBootable, "no boot loader", id="without boot loader"),
        pytest.param({"architecture": "arm64"}, NoMatchingPlatform, "arm64", id="of other machines"),
    ],
)
async def test_image_that_cannot_boot_here_is_refused(
    image: dict[str, object], error: type[BootcdError], words: str, marked: Path, tmp_path: Path
) -> None:
    source = write_layout(small_image(**image), tmp_path / "layout")  # type: ignore[arg-type]
    found = await refused(marked, source, *OPTIONS)
    assert isinstance(found, error)
    assert words in found.message


@pytest.mark.parametrize(
    ("link", "quadlet", "words"),
    [
        pytest.param("web.image", b"[Image]\nImage=%h/web\n", "specifier of systemd", id="specifier"),
        pytest.param("web.container", b"[Image]\nImage=q.example/web\n", "has no Image=", id="other section"),
        pytest.param("web.service", b"[Image]\nImage=q.example/web\n", "ends neither in", id="extension"),
        pytest.param("web.image", b"# " + b"x" * (64 << 10), "at most 64 KiB", id="too large"),
    ],
)
@pytest.mark.parametrize("directory", ["usr/share", "etc", "usr/etc"])
async def test_image_with_a_bound_image_that_cannot_be_understood_is_refused(
    link: str, quadlet: bytes, words: str, directory: str, marked: Path, tmp_path: Path
) -> None:
    name = "web.image" if link == "web.service" else link
    place = f"{directory}/containers/systemd/{name}"
    target = f"/{place}".replace("/usr/etc/", "/etc/")
    layer = [file(place, quadlet), symlink(f"usr/lib/bootc/bound-images.d/{link}", target)]
    found = await refused(marked, write_layout(small_image(layer), tmp_path / "layout"), *OPTIONS)
    assert isinstance(found, NotBootable)
    assert f"bound-images.d/{link} of the image" in found.message
    assert words in found.message


async def test_image_the_signature_policy_rejects_is_refused(
    marked: Path, source: str, tmp_path: Path
) -> None:
    policy = tmp_path / "etc/containers/policy.json"
    policy.parent.mkdir(parents=True)
    policy.write_text('{"default": [{"type": "reject"}]}')
    found = await refused(marked, source, *OPTIONS, containers_root=tmp_path)
    assert isinstance(found, SignatureRejected)


async def test_image_of_a_container_is_refused(marked: Path, tmp_path: Path) -> None:
    image = make_image([make_layer([file("usr/bin/tool")])], config_changes={"config": {}})
    found = await refused(marked, write_layout(image, tmp_path / "layout"), *OPTIONS)
    assert isinstance(found, NotBootable)
    assert "neither label" in found.message


@pytest.mark.parametrize(
    ("layer", "error", "words"),
    [
        pytest.param(
            [file("usr/lib/ostree/prepare-root.conf", b"[composefs]\nenabled = verity\n")],
            *((InvalidArguments, "xfs") if makes_composefs() else (Unsupported, "composefs")),
            id="with sealed files",
        ),
        pytest.param(
            [file("usr/lib/bootc/install/1.toml", b"[install]\nnot-known = 1\n")],
            InvalidConfig,
            "unknown key",
            id="with an unknown setting",
        ),
        pytest.param(
            [file("usr/lib/bootc/install/1.toml", b'[install]\nblock = ["tpm2-luks"]\n')],
            Unsupported,
            "encrypted",
            id="with another block set-up",
        ),
        pytest.param(
            [file("usr/lib/bootc/install/1.toml", b'[install]\nbootloader = "systemd"\n')],
            Unsupported,
            "systemd",
            id="with another boot loader",
        ),
    ],
)
async def test_image_that_asks_for_what_cannot_be_done_is_refused(
    layer: list[Entry], error: type[BootcdError], words: str, marked: Path, tmp_path: Path
) -> None:
    found = await refused(marked, write_layout(small_image(layer), tmp_path / "layout"), "--filesystem=xfs")
    assert isinstance(found, error), found
    assert words in found.message


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (("--filesystem=ext4", "--bootloader=systemd"), Unsupported, "boot loader systemd"),
        (("--filesystem=ext4", "--block-setup=tpm2-luks"), Unsupported, "encrypted"),
        (("--filesystem=ext4", "--root-size=10G"), OutOfSpace, "has 2048 MiB"),
        (("--filesystem=ext4", "--root-size=100M"), OutOfSpace, "root partition of 100 MiB"),
        ((), InvalidArguments, "which root file system"),
    ],
)
async def test_option_that_cannot_be_served_is_refused(
    options: tuple[str, ...], error: type[BootcdError], words: str, marked: Path, source: str
) -> None:
    found = await refused(marked, source, *options)
    assert isinstance(found, error), found
    assert words in found.message


async def test_disk_that_is_too_small_is_refused_with_what_is_needed(tmp_path: Path, source: str) -> None:
    disk = raw_disk(tmp_path / "disk.img", 600 * MIB)
    found = await refused(disk, source, *OPTIONS)
    assert isinstance(found, OutOfSpace)
    needed = found.fields["needed_bytes"]
    assert isinstance(needed, int)
    assert 600 * MIB < needed < 800 * MIB


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (["sfdisk", "--quiet", "--label=gpt", "--no-tell-kernel"], "has partitions"),
        (["mkfs.ext4", "-q", "-F"], "has a file system (ext4)"),
        (["mkfs.fat", "-I"], "has a file system (vfat)"),
    ],
)
async def test_disk_that_is_not_empty_is_refused(
    make: list[str], words: str, marked: Path, source: str
) -> None:
    subprocess.run([*make, marked], input=b"size=10M\n", check=True, capture_output=True)
    found = await refused(marked, source, *OPTIONS)
    assert isinstance(found, WrongState)
    assert words in found.message
    assert "--wipe" in found.hint


@pytest.mark.parametrize("tool", ["sfdisk", "mkfs.ext4", "mcopy", "grub-mkimage", "podman"])
async def test_missing_tool_is_named(
    tool: str, marked: Path, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for directory in ("/usr/sbin", "/usr/bin", "/sbin", "/bin"):
        for path in Path(directory).iterdir():
            if path.name != tool and not (programs / path.name).exists():
                (programs / path.name).symlink_to(path)
    monkeypatch.setenv("PATH", str(programs))
    if tool == "podman":
        bound = symlink("usr/lib/bootc/bound-images.d/web.image", "/usr/share/web.image")
        source = write_layout(small_image([bound]), tmp_path / "layout")
    found = await refused(marked, source, *OPTIONS)
    assert isinstance(found, Unsupported)
    assert tool in found.message
    assert "install the package" in found.hint


async def test_file_without_the_option_for_files_is_refused(marked: Path) -> None:
    with pytest.raises(InvalidArguments, match="is a file") as caught:
        open_disk(marked, via_loopback=False)
    assert "--via-loopback" in caught.value.hint


async def test_what_is_no_disk_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", Path("/dev/null")):
        with pytest.raises(InvalidArguments):
            open_disk(path, via_loopback=False)


async def test_file_that_is_attached_to_a_loop_device_is_refused(marked: Path, source: str) -> None:
    with attached(marked) as device:
        found = await refused(marked, source, "--wipe", *OPTIONS)
    assert isinstance(found, WrongState)
    assert str(device) in found.message


async def test_device_that_is_mounted_is_refused_and_named(tmp_path: Path) -> None:
    disk, point = raw_disk(tmp_path / "disk.img", 64 * MIB), tmp_path / "mnt"
    point.mkdir()
    with attached(disk) as device:
        subprocess.run(["mkfs.ext4", "-q", device], check=True)
        assert open_disk(device, via_loopback=False).size == 64 * MIB
        subprocess.run(["mount", device, point], check=True)
        try:
            with pytest.raises(WrongState, match=f"{device} is mounted at {point}") as caught:
                open_disk(device, via_loopback=False)
        finally:
            subprocess.run(["umount", point], check=True)
    assert caught.value.fields["reason"] == "mounted"


async def test_device_that_somebody_claims_is_refused(tmp_path: Path) -> None:
    disk = raw_disk(tmp_path / "disk.img", 64 * MIB)
    with attached(disk) as device:
        claim = os.open(device, os.O_RDWR | os.O_EXCL)
        try:
            with pytest.raises(WrongState, match="is in use"):
                open_disk(device, via_loopback=False)
        finally:
            os.close(claim)


async def test_device_a_loop_device_stands_on_is_refused(tmp_path: Path) -> None:
    disk = raw_disk(tmp_path / "disk.img", 64 * MIB)
    # A loop device claims nothing, so the kernel alone would let it be overwritten.
    with (
        attached(disk) as device,
        attached(device) as upper,
        pytest.raises(WrongState, match=f"is in use as {upper}"),
    ):
        open_disk(device, via_loopback=False)


async def test_file_that_is_attached_by_another_name_is_refused(marked: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.img"
    other.hardlink_to(marked)
    with attached(other) as device, pytest.raises(WrongState, match=f"is in use as {device}"):
        open_disk(marked, via_loopback=True)


async def test_disk_that_changes_while_the_image_is_fetched_is_left_alone(
    marked: Path, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def someone_makes(change: Callable[[], object]) -> None:
        @asynccontextmanager
        async def changed(*words: Any) -> AsyncGenerator[Prepared, None]:
            async with prepared(*words) as image:
                change()
                yield image

        monkeypatch.setattr(to_disk, "prepared", changed)

    async def tried() -> BootcdError:
        parsed = arguments(marked, source, *OPTIONS)
        with pytest.raises(BootcdError) as caught:
            await install_to_disk(common_options(parsed), disk_options(parsed), Reporter(quiet=True))
        return caught.value

    someone_makes(lambda: subprocess.run(["mkfs.ext4", "-q", "-F", marked], check=True))
    assert "has a file system (ext4)" in (await tried()).message
    subprocess.run(["wipefs", "--quiet", "--all", marked], check=True)
    found: list[BootcdError] = []

    def attach() -> None:
        with attached(marked), pytest.raises(WrongState) as caught:
            open_disk(marked, via_loopback=True)
        found.append(caught.value)
        raw_disk(tmp_path / "new.img").rename(marked)

    someone_makes(attach)
    assert "was replaced" in (await tried()).message
    assert found
    assert content_of(marked) == content_of(raw_disk(tmp_path / "empty.img"))


async def test_file_another_installation_works_on_is_refused(marked: Path, source: str) -> None:
    with marked.open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        found = await refused(marked, source, "--wipe", *OPTIONS)
    assert isinstance(found, WrongState)
    assert found.message == f"{marked} is in use"


async def test_device_that_is_read_only_is_refused(tmp_path: Path) -> None:
    disk = raw_disk(tmp_path / "disk.img", 64 * MIB)
    with attached(disk) as device:
        subprocess.run(["blockdev", "--setro", device], check=True)
        try:
            with pytest.raises(AccessDenied, match="read-only"):
                open_disk(device, via_loopback=False)
        finally:
            subprocess.run(["blockdev", "--setrw", device], check=True)


async def test_disk_of_the_system_that_runs_is_refused() -> None:
    done = subprocess.run(
        ["findmnt", "-n", "-o", "SOURCE", "--tab-file", "/proc/1/mountinfo", "/"],
        capture_output=True,
        text=True,
    )
    root = Path(done.stdout.strip())
    if not root.is_block_device():
        pytest.skip("the root file system of this machine has no block device of its own")
    # Looking at it writes nothing.
    with pytest.raises((WrongState, InvalidArguments)) as caught:
        open_disk(root, via_loopback=False)
    assert "system that runs now" in caught.value.message or "is a partition" in caught.value.message


def test_command_says_what_is_wrong_and_what_to_do(marked: Path, source: str) -> None:
    before = content_of(marked)
    done = subprocess.run(
        command("to-disk", "--via-loopback", "--source-imgref", source, marked),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-2:] == [
        "bootcd-install: neither the image nor an option says which root file system to make",
        "  add --filesystem ext4, xfs or btrfs",
    ]
    assert content_of(marked) == before


def test_command_is_for_root_alone(marked: Path, source: str) -> None:
    done = subprocess.run(
        command("to-disk", "--via-loopback", "--filesystem=ext4", "--source-imgref", source, marked),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        user=65534,
        group=65534,
        extra_groups=[],
        cwd="/",
        env={"PATH": "/usr/bin", "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
    )
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        4,
        "bootcd-install: only root can install a system",
    )
