"""Installations under test: a small host image in an OCI layout, the command, and what it left on a disk.

The image has what an installation looks at: a kernel and initramfs of a few bytes, os-release, the modules of
this machine's own GRUB, links out of / into /var. Nothing can boot it; tests in a virtual machine boot
a real one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bootcd.install.layout import MIB
from bootcd.install.loop import loop_device
from tests.support.oci_image import Entry, Image, Layer, directory, file, make_image, make_layer, symlink

KERNEL = "6.1.0-test"
GRUB = Path("/usr/lib/grub/x86_64-efi")
ROOT_START = 514 * MIB
"Where the root partition begins on x86_64: after the table, BIOS-BOOT and EFI-SYSTEM."
ESP_START = 2 * MIB
DEADLINE_SECS = 100


def host_entries(*, kernel: bool = True) -> list[Entry]:
    """Return a small host's files."""
    modules = f"usr/lib/modules/{KERNEL}"
    entries = [
        directory(name) for name in ("usr", "etc", "var", "run", "proc", "sys", "dev", "boot", "sysroot")
    ]
    entries += [directory("tmp", mode=0o1777), symlink("ostree", "sysroot/ostree")]
    entries += [symlink("root", "var/roothome"), symlink("home", "var/home")]
    entries += [
        directory("usr/lib"),
        file("usr/lib/os-release", b'ID=small\nNAME="Small"\nVERSION_ID=1\nPRETTY_NAME="Small 1"\n'),
        directory("usr/lib/modules"),
        directory(modules),
        file(f"{modules}/modules.dep"),
        directory("usr/lib/bootc"),
        directory("usr/lib/bootc/kargs.d"),
        file("usr/lib/bootc/kargs.d/10.toml", b'kargs = ["console=ttyS0", "quiet"]\n'),
        file("etc/hosts", b"127.0.0.1 localhost\n"),
        file("usr/lib/blob", os.urandom(1 << 20)),
    ]
    if kernel:
        entries += [file(f"{modules}/vmlinuz", b"kernel"), file(f"{modules}/initramfs.img", b"initramfs")]
    return entries


def grub_entries() -> list[Entry]:
    """Return GRUB's modules; the one that reads boot entries is another one by that name."""
    files = {path.name: path.read_bytes() for path in GRUB.iterdir() if path.is_file()}
    files["blsuki.mod"] = files["hello.mod"]
    files["moddep.lst"] += b"blsuki: extcmd\n"
    directories = [directory("usr/lib/grub"), directory("usr/lib/grub/x86_64-efi")]
    wanted = {name: data for name, data in files.items() if name.endswith((".mod", ".lst", ".img"))}
    return directories + [
        file(f"usr/lib/grub/x86_64-efi/{name}", data) for name, data in sorted(wanted.items())
    ]


def small_image(*more: Iterable[Entry] | Layer, grub: bool = True, **options: Any) -> Image:
    """Return a small host image; `more` are layers on top."""
    entries = host_entries(kernel=options.pop("kernel", True)) + (grub_entries() if grub else [])
    labels = {"ostree.bootable": "1", "org.opencontainers.image.version": "1.0"}
    layers = [make_layer(entries)]
    layers += [layer if isinstance(layer, Layer) else make_layer(layer) for layer in more]
    return make_image(layers, labels=labels, **options)


def write_layout(image: Image, path: Path, tag: str = "1") -> str:
    """Write an image as an OCI layout; returns the reference `bootcd-install` takes."""
    blobs = path / "blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    for digest, data in {**image.blobs, image.digest: image.manifest}.items():
        (blobs / digest.partition(":")[2]).write_bytes(data)
    entry = {"mediaType": image.media_type, "digest": image.digest, "size": len(image.manifest)}
    entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return f"oci:{path}:{tag}"


def raw_disk(path: Path, size: int = 2048 * MIB) -> Path:
    """Make a file of a disk's size that takes no space."""
    with path.open("wb") as disk:
        disk.truncate(size)
    return path


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "bootcd.install", *map(str, arguments)]


def install(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=DEADLINE_SECS, check=False
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@contextmanager
def partition(disk: Path, mount_point: Path, start: int = ROOT_START, size: int = 0) -> Iterator[Path]:
    """Mount a partition of a raw disk read-only."""
    mount_point.mkdir(exist_ok=True)
    descriptor = os.open(disk, os.O_RDWR)
    try:
        with loop_device(descriptor, offset=start, size=size, name=str(disk)) as device:
            subprocess.run(["mount", "-o", "ro", device, mount_point], check=True)
            try:
                yield mount_point
            finally:
                subprocess.run(["umount", mount_point], check=True)
    finally:
        os.close(descriptor)


@contextmanager
def attached(disk: Path) -> Iterator[Path]:
    """Have a file as a block device."""
    descriptor = os.open(disk, os.O_RDWR)
    try:
        with loop_device(descriptor, name=str(disk)) as device:
            yield Path(device)
    finally:
        os.close(descriptor)


def esp_files(disk: Path, start: int = ESP_START) -> set[str]:
    """Return the paths of the files in an EFI system partition."""
    listed = subprocess.run(
        ["mdir", "-/", "-b", "-i", f"{disk}@@{start}", "::/"], capture_output=True, text=True, check=False
    )
    return {line.removeprefix("::/") for line in listed.stdout.splitlines() if not line.endswith("/")}


def esp_read(disk: Path, path: str, start: int = ESP_START) -> bytes:
    done = subprocess.run(["mtype", "-i", f"{disk}@@{start}", f"::/{path}"], capture_output=True, check=True)
    return done.stdout


def entry_of(root: Path) -> dict[str, str]:
    """Return the one boot entry below /boot of a mounted root."""
    [path] = (root / "boot/loader/entries").glob("*.conf")
    return dict(line.split(" ", 1) for line in path.read_text().splitlines() if " " in line)


def deployment_of(root: Path, stateroot: str = "default") -> Path:
    [path] = (root / f"ostree/deploy/{stateroot}/deploy").glob("*.0")
    return path


def loop_devices_of(disk: Path) -> list[str]:
    """Return the loop devices that stand on a file."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if backing.read_text().strip() == str(disk):
                found.append(backing.parts[-3])
        except OSError:
            continue
    return found


def await_detached(disk: Path, deadline_secs: float = 20) -> None:
    """Return when no loop device stands on a file any more."""
    end = time.monotonic() + deadline_secs
    while loop_devices_of(disk):
        assert time.monotonic() < end, f"still attached: {loop_devices_of(disk)}"
        time.sleep(0.05)
