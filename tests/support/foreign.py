"""Deployments as other programs leave them, made with `ostree` alone and with none of the code under test.

Refs, keys and origin files are written out here the way bootc and rpm-ostree write them, so that reading
them is tested against the formats and not against our own writing.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.machine import KARGS, STATEROOT, Machine
from tests.support.oci_image import Entry, Image, Layer, directory, file, make_image, make_layer, symlink

PYTHON = sys.executable

_GI = 'import sys, gi; gi.require_version("OSTree", "1.0"); from gi.repository import Gio, GLib, OSTree\n'

# Detached metadata has no verb in the command line; it is written as bootc writes it, all at once.
_DETACH = (
    _GI
    + """
repo = OSTree.Repo.new(Gio.File.new_for_path(sys.argv[1])); repo.open(None)
entries = dict(zip(sys.argv[3::2], sys.argv[4::2]))
value = GLib.Variant("a{sv}", {key: GLib.Variant("s", text) for key, text in entries.items()})
repo.write_commit_detached_metadata(sys.argv[2], value, None)
"""
)

# libostree's own lock: one taken by flock(2) would be another lock on the same file.
_HOLD = (
    _GI
    + """
sysroot = OSTree.Sysroot.new_default(); sysroot.set_mount_namespace_in_use(); sysroot.load(None)
sysroot.lock()
print("held", flush=True)
sys.stdin.read()
"""
)

# As bootc rollback does it: the same deployments in another order, what is staged left out.
_REORDER = (
    _GI
    + """
import ctypes
assert ctypes.CDLL(None).unshare(0x20000) == 0
sysroot = OSTree.Sysroot.new_default(); sysroot.set_mount_namespace_in_use(); sysroot.load(None)
there = [d for d in sysroot.get_deployments() if not d.is_staged()]
sysroot.write_deployments([there[1], there[0], *there[2:]], None)
"""
)


def image_ref(name: str) -> str:
    """Return the ref of a registry image whose name has none but the characters replaced here."""
    escaped = name.replace(".", "_2E_").replace(":", "_3A_")
    return f"ostree/container/image/docker_3A__2F__2F_{escaped}"


def layer_ref(layer: Layer) -> str:
    return f"ostree/container/blob/sha256_3A_{layer.digest.removeprefix('sha256:')}"


def image_of_tree(tree: Path, *more: Entry, version: str = "1", **options: object) -> Image:
    """Return a directory with usr/etc as an image of one layer, as a container build leaves it."""
    labels = {"org.opencontainers.image.version": version, "org.bootcd.rollout.period": "36h"}
    return make_image([make_layer([*entries_of_tree(tree), *more])], labels=labels, **options)  # type: ignore[arg-type]


def entries_of_tree(tree: Path) -> list[Entry]:
    entries: list[Entry] = [directory("etc")]
    for path in sorted(tree.rglob("*")):
        name = str(path.relative_to(tree))
        if name == "usr/etc":
            continue
        name = name.replace("usr/etc/", "etc/")
        mode = path.lstat().st_mode & 0o7777
        if path.is_symlink():
            entries.append(symlink(name, str(path.readlink())))
        elif path.is_dir():
            entries.append(directory(name, mode=mode))
        else:
            entries.append(file(name, path.read_bytes(), mode=mode))
    return entries


def image_metadata(image: Image) -> dict[str, str]:
    """Return the metadata bootc gives the commit of an image."""
    return {
        "ostree.manifest-digest": image.digest,
        "ostree.manifest": image.manifest.decode(),
        "ostree.container.image-config": image.config.decode(),
        "ostree.importer.version": "0.15.3",
    }


async def commit_image(
    machine: Machine, tree: Path, image: Image, name: str, metadata: Mapping[str, str] | None = None
) -> str:
    """Commit a tree as bootc commits the image it comes from; `metadata` replaces what bootc writes."""
    entries = image_metadata(image) if metadata is None else metadata
    commit = await machine.commit_tree(tree, branch=image_ref(name), metadata=entries)
    for layer in image.layers:
        await set_ref(machine, layer_ref(layer), commit)
    return commit


async def set_ref(machine: Machine, ref: str, commit: str) -> None:
    await machine.ostree("refs", f"--repo={machine.repo}", "--force", f"--create={ref}", commit)


async def refs(machine: Machine) -> set[str]:
    """Return every ref but libostree's own, which follow the deployments."""
    listed = (await machine.ostree("refs", f"--repo={machine.repo}", "--list")).split()
    return {ref for ref in listed if not ref.startswith(("ostree/0/", "ostree/1/"))}


async def note_update(machine: Machine, commit: str, entries: Mapping[str, str]) -> None:
    """Write a commit's detached metadata."""
    pairs = [word for pair in entries.items() for word in pair]
    command = [PYTHON, "-c", _DETACH, str(machine.repo), commit, *pairs]
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0


async def deploy(
    machine: Machine, commit: str, origin: str = "", *options: str, stateroot: str = STATEROOT
) -> None:
    """Deploy a commit with this origin file; where the machine runs, as its next boot's default."""
    path = machine.directory / "origin-file"
    path.write_text(origin or "[origin]\n")
    arguments = ["admin", "deploy", f"--os={stateroot}", f"--origin-file={path}", *options, commit]
    if machine.running:
        inner = machine.path("/run/origin-file")
        inner.write_text(path.read_text())
        arguments[3] = "--origin-file=/run/origin-file"
        await machine.run(["ostree", *arguments])
    else:
        kargs = [f"--karg={karg}" for karg in KARGS]
        await machine.ostree("admin", f"--sysroot={machine.sysroot}", *arguments[1:], *kargs)


async def reorder(machine: Machine) -> None:
    """Queue a rollback, or take one back."""
    await machine.run([PYTHON, "-c", _REORDER])


@asynccontextmanager
async def held_lock(machine: Machine) -> AsyncIterator[None]:
    """Have another program hold the lock of a booted machine's system root."""
    pipe = subprocess.PIPE
    holder = await machine.popen(["unshare", "--mount", PYTHON, "-c", _HOLD], stdin=pipe, stdout=pipe)
    try:
        assert holder.stdout is not None
        assert await holder.stdout.readline() == b"held\n"
        yield
    finally:
        holder.kill()
