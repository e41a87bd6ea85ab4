"""The `docker-archive:` transport: what `docker save` and `podman save` write.

Such an archive has no manifest of the image and no digests but those of the uncompressed layers, so one is
made of it, to the byte the one that skopeo makes: by it bootc would tell whether the host has this image.

https://github.com/moby/docker-image-spec/blob/main/spec.md, "Combined Image JSON + Filesystem Changeset";
package `docker/internal/tarfile` of https://github.com/containers/image
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from bootcd.model.errors import InvalidImage, InvalidLayout, InvalidManifest, NotFound
from bootcd.oci.manifest import (
    MAX_CONFIG_BYTES,
    MAX_LAYERS,
    MAX_MANIFEST_BYTES,
    Descriptor,
    ImageManifest,
    parse_config,
    parse_manifest,
)
from bootcd.oci.reference import DOCKER_HUB, ImageReference, parse_reference
from bootcd.oci.resolve import Document, digest_of
from bootcd.transports import verify
from bootcd.transports.place import Place, read

_LIST = "manifest.json"
_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
_WRITTEN_LAYER_TYPE = "application/vnd.docker.image.rootfs.diff.tar.gzip"
"What skopeo writes, although it gives out plain archives."
_LAYER_TYPE = "application/vnd.docker.image.rootfs.diff.tar"


@dataclass(frozen=True, slots=True)
class _Saved:
    """One image of the archive, by the names of its files."""

    config: str
    layers: tuple[str, ...]
    tags: tuple[str, ...]


class DockerArchive:
    """One image of an archive: the one named `tag`, or without a tag the only one."""

    def __init__(self, place: Place, tag: str) -> None:
        self._place = place
        self._wanted = _reference(tag) if tag else None
        self._files: dict[str, str] = {}
        self.image = place.image

    def current_digest(self) -> str:
        return self.manifest(None).digest

    def manifest(self, entry: Descriptor | None) -> Document:
        assert entry is None, "there is no index in such an archive"
        saved = self._choose()
        config_bytes = read(self._place, saved.config, MAX_CONFIG_BYTES)
        try:
            diff_ids = parse_config(config_bytes).diff_ids
        except InvalidManifest as error:
            raise InvalidManifest(f"{self.image}: {error.message}", image=self.image) from error
        if len(diff_ids) != len(saved.layers):
            raise InvalidManifest(
                f"{self.image} has {len(saved.layers)} layers and {len(diff_ids)} diff_ids", image=self.image
            )
        self._files = dict(zip(diff_ids, saved.layers, strict=True))
        config = {"mediaType": _CONFIG_TYPE, "size": len(config_bytes), "digest": digest_of(config_bytes)}
        self._files[str(config["digest"])] = saved.config
        layers = [{"size": self._layer_size(self._files[digest]), "digest": digest} for digest in diff_ids]
        data = _manifest(config, _WRITTEN_LAYER_TYPE, layers)
        parsed = parse_manifest(_manifest(config, _LAYER_TYPE, layers), _MANIFEST_TYPE)
        return Document(data, digest_of(data), parsed)

    def config(self, manifest: ImageManifest) -> bytes:
        return read(self._place, self._files[manifest.config.digest], MAX_CONFIG_BYTES)

    def blob(self, layer: Descriptor) -> Generator[bytes, None, None]:
        return verify.stream(self._place.open(self._files[layer.digest]), layer, self.image)

    def close(self) -> None:
        self._place.close()

    def _choose(self) -> _Saved:
        images = [_saved(item) for item in self._read_list()]
        if None in images:
            raise InvalidLayout(f"{_LIST} of {self.image} is not in order", image=self.image)
        chosen = [
            image
            for image in images
            if image and (self._wanted is None or self._wanted in map(_reference_or_none, image.tags))
        ]
        if not chosen:
            raise NotFound(
                f"{self.image} has no image" + (" of this name" if self._wanted else ""), image=self.image
            )
        if len(images) > 1 and self._wanted is None:
            raise InvalidLayout(
                f"{self.image} has {len(images)} images, and no name says which one is meant",
                hint=f"name one, as in {self.image}:localhost/os:1",
                image=self.image,
            )
        return chosen[0]

    def _read_list(self) -> list[Any]:
        try:
            document = json.loads(read(self._place, _LIST, MAX_MANIFEST_BYTES).decode())
        except NotFound as error:
            raise InvalidLayout(
                f"{self.image} was not written by docker or podman save: it has no {_LIST}", image=self.image
            ) from error
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, list):
            raise InvalidLayout(f"{_LIST} of {self.image} is not in order", image=self.image)
        return document

    def _layer_size(self, name: str) -> int:
        with self._place.open(name) as content:
            start = next(content.chunks(), b"")
            if start.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")):
                raise InvalidLayout(
                    f"{self.image} has a compressed layer, which docker and podman save do not write",
                    hint="skopeo copy makes an oci-archive of it",
                    image=self.image,
                )
            return content.size


def _saved(item: Any) -> _Saved | None:
    match item:
        case {"Config": str(config), "Layers": [*layers]} if len(layers) <= MAX_LAYERS:
            tags = item.get("RepoTags") or []
            if isinstance(tags, list) and all(isinstance(text, str) for text in (*layers, *tags)):
                return _Saved(posixpath.normpath(config), tuple(map(posixpath.normpath, layers)), tuple(tags))
    return None


def _manifest(config: dict[str, Any], layer_type: str, layers: list[dict[str, Any]]) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST_TYPE,
        "config": config,
        "layers": [{"mediaType": layer_type, **layer} for layer in layers],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _reference(text: str) -> ImageReference:
    return parse_reference(text, default_registry=DOCKER_HUB)


def _reference_or_none(text: str) -> ImageReference | None:
    try:
        return _reference(text)
    except InvalidImage:
        return None
