"""The OCI image layout, in a directory (`oci:`) or an archive (`oci-archive:`).

https://github.com/opencontainers/image-spec/blob/main/image-layout.md; which image a name stands for:
containers-transports(5).
"""

from __future__ import annotations

from collections.abc import Generator

from bootcd.model.errors import InvalidLayout, InvalidManifest, NotFound
from bootcd.oci.manifest import (
    INDEX_MEDIA_TYPES,
    MANIFEST_MEDIA_TYPES,
    MAX_CONFIG_BYTES,
    MAX_MANIFEST_BYTES,
    Descriptor,
    ImageIndex,
    ImageManifest,
    parse_digest,
    parse_manifest,
)
from bootcd.oci.resolve import Document
from bootcd.transports import verify
from bootcd.transports.place import Place, read

_INDEX = "index.json"
_REF_NAME = "org.opencontainers.image.ref.name"


class Layout:
    """One image of a layout: the one named `tag`, or without a tag the only one."""

    def __init__(self, place: Place, tag: str) -> None:
        self._place = place
        self.image = place.image
        self._tag = tag

    def current_digest(self) -> str:
        return self._entry().digest

    def manifest(self, entry: Descriptor | None) -> Document:
        entry = entry or self._entry()
        return verify.document(self._place, _path(entry), MAX_MANIFEST_BYTES, entry)

    def config(self, manifest: ImageManifest) -> bytes:
        return read(self._place, _path(manifest.config), MAX_CONFIG_BYTES)

    def blob(self, layer: Descriptor) -> Generator[bytes, None, None]:
        return verify.stream(self._place.open(_path(layer)), layer, self.image)

    def close(self) -> None:
        self._place.close()

    def _entry(self) -> Descriptor:
        place = self._place
        try:
            index = parse_manifest(read(place, _INDEX, MAX_MANIFEST_BYTES), INDEX_MEDIA_TYPES[0])
        except NotFound as error:
            raise InvalidLayout(
                f"{place.image} is no OCI layout: it has no {_INDEX}",
                hint="make one with skopeo copy",
                image=place.image,
            ) from error
        except InvalidManifest as error:
            raise InvalidLayout(
                f"{_INDEX} of {place.image} is not in order: {error.message}", image=place.image
            ) from error
        assert isinstance(index, ImageIndex), "of the media type it was parsed as"
        images = [
            entry for entry in index.manifests if entry.media_type in MANIFEST_MEDIA_TYPES + INDEX_MEDIA_TYPES
        ]
        if self._tag:
            images = [entry for entry in images if entry.annotations.get(_REF_NAME) == self._tag]
        if not images:
            raise NotFound(
                f"{place.image} has no image" + (" of this tag" if self._tag else ""),
                hint="skopeo inspect and the file index.json tell what there is",
                image=place.image,
            )
        if len(images) > 1 and not self._tag:
            raise InvalidLayout(
                f"{place.image} has {len(images)} images, and no tag says which one is meant",
                hint=f"name one, as in {place.image}:TAG",
                image=place.image,
            )
        # Of two with one tag the first counts, as in every reader of the format.
        return images[0]


def _path(descriptor: Descriptor) -> str:
    algorithm, digits = parse_digest(descriptor.digest)
    return f"blobs/{algorithm}/{digits}"
