"""An OCI image layout written from trees of entries, with layers packed in parallel with what else goes on.

https://github.com/opencontainers/image-spec/blob/main/image-layout.md
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tests.support.debian_tree import EPOCH, FileTree, Node

_ARCH = {"amd64": "amd64", "arm64": "arm64"}
_IMAGE_TYPE = "application/vnd.oci.image."
_SUFFIX = {"gzip": "tar+gzip", "zstd": "tar+zstd", "none": "tar"}


@dataclass(frozen=True, slots=True)
class OsImages:
    """A built layout; `kernel` is the kernel version all its images carry."""

    layout: Path
    kernel: str

    async def push(self, tag: str, registry: str, repository: str, as_tag: str = "") -> str:
        """Copy an image to `registry` (`host:port`, plain HTTP) with skopeo and return its digest."""
        target = f"docker://{registry}/{repository}:{as_tag or tag}"
        await push(self.layout, tag, target)
        return self.digest(tag)

    def digest(self, tag: str) -> str:
        index = json.loads((self.layout / "index.json").read_text())
        for entry in index["manifests"]:
            if entry["annotations"]["org.opencontainers.image.ref.name"] == tag:
                return str(entry["digest"])
        raise KeyError(tag)


async def push(layout: Path, tag: str, target: str) -> None:
    """Copy `oci:layout:tag` to a skopeo destination, digests unchanged."""
    process = await asyncio.create_subprocess_exec(
        *("skopeo", "copy", "--quiet", "--insecure-policy", "--preserve-digests", "--dest-tls-verify=false"),
        *(f"oci:{layout}:{tag}", target),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"skopeo copy to {target} failed: {output.decode().strip()}")


def recipe_key(*recipe: Path, text: str = "") -> str:
    """Return a name for what these files and this text make."""
    checksum = hashlib.sha256(text.encode())
    for path in recipe:
        checksum.update(path.read_bytes())
    return checksum.hexdigest()[:16]


def built_once(final: Path, build: Callable[[Path], None], say: Callable[[], None]) -> Path:
    """Return a directory that is there as a whole or not at all, building it first if need be.

    Only one of several processes builds. Blocks.
    """
    if not final.exists():
        final.parent.mkdir(parents=True, exist_ok=True)
        with (final.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not final.exists():
                say()
                work = final.with_name(f"{final.name}.tmp")
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir()
                try:
                    build(work)
                    work.rename(final)
                finally:
                    shutil.rmtree(work, ignore_errors=True)
    return final


@dataclass(frozen=True, slots=True)
class Layer:
    descriptor: dict[str, Any]
    diff_id: str


class Layout:
    """An OCI image layout being written."""

    def __init__(self, root: Path, archive: Path) -> None:
        self._root = root
        self._archive = archive
        self._manifests: list[dict[str, Any]] = []
        (root / "blobs/sha256").mkdir(parents=True, exist_ok=True)

    def add_layer(self, tree: FileTree, paths: Iterable[str], compression: str) -> Layer:
        wanted = set(paths)
        parents = {parent for path in wanted for parent in _parents(path)}
        ordered = [path for path in sorted(wanted | parents) if path in tree]
        # A hard link can only follow the name it refers to.
        ordered.sort(key=lambda path: tree[path].kind == tarfile.LNKTYPE)
        partial = self._root / f"layer-{hashlib.sha256(repr(ordered).encode()).hexdigest()}-{compression}"
        command = {"gzip": ["gzip", "-n", "-5"], "zstd": ["zstd", "-q", "-3"], "none": ["cat"]}[compression]
        with partial.open("wb") as output, self._archive.open("rb") as archive:
            packer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output)
            assert packer.stdin is not None
            hashed = _HashingWriter(packer.stdin)
            with tarfile.open(fileobj=hashed, mode="w|", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
                for path in ordered:
                    _write_node(tar, path, tree[path], archive)
            packer.stdin.close()
            if packer.wait():
                raise RuntimeError(f"{command[0]} failed")
        descriptor = self._adopt(partial, f"{_IMAGE_TYPE}layer.v1.{_SUFFIX[compression]}")
        return Layer(descriptor, f"sha256:{hashed.hash.hexdigest()}")

    def add_image(self, tag: str, layers: list[Layer], version: str) -> None:
        created = "2023-11-14T22:13:20Z"
        labels = {
            "containers.bootc": "1",
            "ostree.bootable": "1",
            "org.opencontainers.image.version": version,
        }
        config = {
            "created": created,
            "architecture": _ARCH[output_of("dpkg", "--print-architecture")],
            "os": "linux",
            "config": {"Labels": labels, "Cmd": ["/sbin/init"]},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": [{"created": created, "created_by": "test recipe"} for _ in layers],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{_IMAGE_TYPE}manifest.v1+json",
            "config": self._add_json(config, f"{_IMAGE_TYPE}config.v1+json"),
            "layers": [layer.descriptor for layer in layers],
        }
        descriptor = self._add_json(manifest, f"{_IMAGE_TYPE}manifest.v1+json")
        self._manifests.append(descriptor | {"annotations": {"org.opencontainers.image.ref.name": tag}})

    def write_index(self) -> None:
        (self._root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        index = {"schemaVersion": 2, "manifests": self._manifests}
        (self._root / "index.json").write_text(json.dumps(index))

    def _add_json(self, document: Any, media_type: str) -> dict[str, Any]:
        partial = self._root / "document"
        partial.write_text(json.dumps(document))
        return self._adopt(partial, media_type)

    def _adopt(self, partial: Path, media_type: str) -> dict[str, Any]:
        with partial.open("rb") as stream:
            checksum = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.seek(0, os.SEEK_END)
        partial.rename(self._root / "blobs/sha256" / checksum)
        return {"mediaType": media_type, "digest": f"sha256:{checksum}", "size": size}


def _write_node(tar: tarfile.TarFile, path: str, node: Node, archive: BinaryIO) -> None:
    info = tarfile.TarInfo(path)
    info.type, info.mode, info.uid, info.gid, info.linkname = (
        node.kind,
        node.mode,
        node.uid,
        node.gid,
        node.target,
    )
    info.mtime = EPOCH
    info.pax_headers = {f"SCHILY.xattr.{name}": value for name, value in sorted(node.xattrs.items())}
    if node.kind != tarfile.REGTYPE:
        tar.addfile(info)
        return
    info.size = node.size
    if isinstance(node.content, bytes):
        tar.addfile(info, io.BytesIO(node.content))
    else:
        archive.seek(node.content[0])
        tar.addfile(info, archive)


class _HashingWriter:
    def __init__(self, sink: Any) -> None:
        self._sink = sink
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self._sink.write(data)
        return len(data)


def _parents(path: str) -> Iterable[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def output_of(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
