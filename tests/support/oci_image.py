"""Small container images built in memory, so that a test says in one place what is in a layer.

    base = make_layer([directory("usr"), file("usr/bin/tool", b"#!/bin/sh\n", mode=0o755)])
    image = make_image([base, make_layer([whiteout("usr/bin/tool")])], labels={"version": "2"})

Archives are POSIX.1-2001 pax (pax(1)): what ustar cannot hold goes into an extended header as raw bytes,
which is how Go's archive/tar writes xattrs (`SCHILY.xattr.<name>`). `gnu=True` gives GNU long-name headers.
Formats: https://github.com/opencontainers/image-spec
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import zstandard

Compression = Literal["gzip", "zstd", "none"]
Kind = Literal["file", "dir", "symlink", "hardlink", "fifo", "char", "block"]

_TYPES: dict[str, bytes] = {
    "file": tarfile.REGTYPE,
    "dir": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
    "fifo": tarfile.FIFOTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
}
_OCI = "application/vnd.oci.image."
_DOCKER = "application/vnd.docker."
MANIFEST_TYPE = {False: _OCI + "manifest.v1+json", True: _DOCKER + "distribution.manifest.v2+json"}
INDEX_TYPE = {False: _OCI + "index.v1+json", True: _DOCKER + "distribution.manifest.list.v2+json"}
CONFIG_TYPE = {False: _OCI + "config.v1+json", True: _DOCKER + "container.image.v1+json"}
_LAYER_TYPE: dict[tuple[bool, Compression], str] = {
    (False, "none"): _OCI + "layer.v1.tar",
    (False, "gzip"): _OCI + "layer.v1.tar+gzip",
    (False, "zstd"): _OCI + "layer.v1.tar+zstd",
    (True, "none"): _DOCKER + "image.rootfs.diff.tar",
    (True, "gzip"): _DOCKER + "image.rootfs.diff.tar.gzip",
    (True, "zstd"): _DOCKER + "image.rootfs.diff.tar.zstd",
}
_USTAR_NUMBER_LIMIT = 8**7


@dataclass(frozen=True)
class Entry:
    """One member of a layer archive. `path` and `target` are written as they are, so `../x` and `/x` work.

    `str` is encoded as UTF-8 with surrogateescape, so any bytes can be a name.
    """

    path: str
    kind: Kind = "file"
    content: bytes = b""
    target: str = ""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 1_700_000_000
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    device: tuple[int, int] = (0, 0)
    pax: Mapping[str, bytes] = field(default_factory=dict)
    "Further extended header records, or ones that override what `make_tar` would write."


def file(path: str, content: bytes = b"", *, mode: int = 0o644, **rest: Any) -> Entry:
    return Entry(path, "file", content=content, mode=mode, **rest)


def directory(path: str, *, mode: int = 0o755, **rest: Any) -> Entry:
    return Entry(path, "dir", mode=mode, **rest)


def symlink(path: str, target: str, **rest: Any) -> Entry:
    return Entry(path, "symlink", target=target, mode=0o777, **rest)


def hardlink(path: str, target: str, **rest: Any) -> Entry:
    return Entry(path, "hardlink", target=target, **rest)


def whiteout(path: str) -> Entry:
    """Return the marker that removes `path` of the layers below."""
    parent, _, name = path.rpartition("/")
    return file(f"{parent}/.wh.{name}" if parent else f".wh.{name}")


def opaque(path: str) -> Entry:
    """Return the marker that hides everything the layers below have in directory `path`."""
    return file(f"{path}/.wh..wh..opq")


def make_tar(entries: Iterable[Entry], *, gnu: bool = False) -> bytes:
    """Return an uncompressed archive of `entries`, in their order."""
    out = io.BytesIO()
    form = tarfile.GNU_FORMAT if gnu else tarfile.USTAR_FORMAT
    with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
        for entry in entries:
            info = tarfile.TarInfo(entry.path)
            info.type = _TYPES[entry.kind]
            info.linkname = entry.target
            info.mode, info.uid, info.gid, info.mtime = entry.mode, entry.uid, entry.gid, entry.mtime
            info.devmajor, info.devminor = entry.device
            info.size = len(entry.content) if entry.kind == "file" else 0
            records = _extended_records(info, entry, gnu=gnu)
            if records:
                header = tarfile.TarInfo("./PaxHeaders/entry")
                header.type, header.size = tarfile.XHDTYPE, len(records)
                tar.addfile(header, io.BytesIO(records))
            tar.addfile(info, io.BytesIO(entry.content) if entry.kind == "file" else None)
    return out.getvalue()


def _extended_records(info: tarfile.TarInfo, entry: Entry, *, gnu: bool) -> bytes:
    """Return the extended header of `entry`, and cut what it holds down to what fits `info`'s own header."""
    records = {f"SCHILY.xattr.{name}": value for name, value in entry.xattrs.items()}
    if not gnu:
        for key, attribute, text in (("path", "name", entry.path), ("linkpath", "linkname", entry.target)):
            raw = text.encode("utf-8", "surrogateescape")
            if len(raw) > 99 or not raw.isascii():
                records[key] = raw
                setattr(info, attribute, raw[:90].decode("ascii", "replace").replace("\ufffd", "_"))
        for key in ("uid", "gid"):
            if getattr(info, key) >= _USTAR_NUMBER_LIMIT:
                records[key] = str(getattr(info, key)).encode()
                setattr(info, key, 0)
    records.update(entry.pax)
    return b"".join(_pax_record(key, value) for key, value in records.items())


def _pax_record(key: str, value: bytes) -> bytes:
    body = b" " + key.encode() + b"=" + value + b"\n"
    length = len(body)
    while length != len(body) + len(str(length)):
        length = len(body) + len(str(length))
    return str(length).encode() + body


def compress(data: bytes, compression: Compression) -> bytes:
    if compression == "gzip":
        return gzip.compress(data, compresslevel=1, mtime=0)
    if compression == "zstd":
        return zstandard.ZstdCompressor(level=1).compress(data)
    return data


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Layer:
    """A layer as a registry holds it, and the digest of its uncompressed archive."""

    blob: bytes = field(repr=False)
    diff_id: str
    compression: Compression = "none"
    annotations: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        return digest_of(self.blob)

    def media_type(self, *, docker: bool) -> str:
        return _LAYER_TYPE[docker, self.compression]


def make_layer(
    entries: Iterable[Entry] = (),
    *,
    compression: Compression = "gzip",
    gnu: bool = False,
    tar: bytes | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Layer:
    """Build a layer of `entries`, or of `tar` as it is (for archives broken on purpose)."""
    data = make_tar(entries, gnu=gnu) if tar is None else tar
    return Layer(compress(data, compression), digest_of(data), compression, dict(annotations or {}))


@dataclass(frozen=True)
class Image:
    """An image of one platform: exactly the bytes a registry serves."""

    manifest: bytes = field(repr=False)
    config: bytes = field(repr=False)
    layers: tuple[Layer, ...]
    media_type: str
    platform: Mapping[str, str]

    @cached_property
    def digest(self) -> str:
        return digest_of(self.manifest)

    @cached_property
    def blobs(self) -> dict[str, bytes]:
        """Return every blob the manifest names, by digest."""
        return {digest_of(self.config): self.config} | {layer.digest: layer.blob for layer in self.layers}


@dataclass(frozen=True)
class Index:
    """Images of several platforms behind one tag."""

    manifest: bytes = field(repr=False)
    images: tuple[Image, ...]
    media_type: str

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)


def make_image(
    layers: Sequence[Layer],
    *,
    labels: Mapping[str, str] | None = None,
    architecture: str = "amd64",
    variant: str = "",
    created: str = "2024-01-01T00:00:00Z",
    annotations: Mapping[str, str] | None = None,
    docker: bool = False,
    config_changes: Mapping[str, Any] | None = None,
    manifest_changes: Mapping[str, Any] | None = None,
) -> Image:
    """Build config and manifest over `layers`. The `_changes` replace top-level members last of all.

    `labels` are added to `containers.bootc=1`, which marks a bootable host image.
    """
    platform = {"architecture": architecture, "os": "linux"} | ({"variant": variant} if variant else {})
    config: dict[str, Any] = {
        **platform,
        "created": created,
        "config": {"Labels": {"containers.bootc": "1", **(labels or {})}},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created": created, "created_by": f"step {n}"} for n in range(len(layers))],
    }
    config_bytes = _json(config | dict(config_changes or {}))
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE[docker],
        "config": _descriptor(CONFIG_TYPE[docker], config_bytes),
        "layers": [
            _descriptor(layer.media_type(docker=docker), layer.blob)
            | ({"annotations": dict(layer.annotations)} if layer.annotations else {})
            for layer in layers
        ],
    }
    if annotations:
        manifest["annotations"] = dict(annotations)
    return Image(
        manifest=_json(manifest | dict(manifest_changes or {})),
        config=config_bytes,
        layers=tuple(layers),
        media_type=MANIFEST_TYPE[docker],
        platform=platform,
    )


def make_index(images: Sequence[Image], *, docker: bool = False) -> Index:
    """Build an index that lists `images` with their platforms, in their order."""
    manifests = [
        _descriptor(image.media_type, image.manifest) | {"platform": dict(image.platform)} for image in images
    ]
    document = {"schemaVersion": 2, "mediaType": INDEX_TYPE[docker], "manifests": manifests}
    return Index(_json(document), tuple(images), INDEX_TYPE[docker])


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
