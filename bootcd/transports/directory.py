"""The `dir:` transport: one image, its manifest and blobs side by side, named by their digests.

containers-transports(5); what the files are called is said nowhere but in the package `directory` of
https://github.com/containers/image.
"""

from __future__ import annotations

from collections.abc import Generator

from bootcd.model.errors import InvalidLayout, NotFound
from bootcd.oci.manifest import (
    MAX_CONFIG_BYTES,
    MAX_MANIFEST_BYTES,
    Descriptor,
    ImageManifest,
    parse_digest,
)
from bootcd.oci.resolve import Document
from bootcd.transports import verify
from bootcd.transports.place import Place, read

_MANIFEST = "manifest.json"


class DirectoryImage:
    """The image of a directory."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.image = place.image

    def current_digest(self) -> str:
        return self.manifest(None).digest

    def manifest(self, entry: Descriptor | None) -> Document:
        name = f"{_digits(entry)}.{_MANIFEST}" if entry else _MANIFEST
        try:
            return verify.document(self._place, name, MAX_MANIFEST_BYTES, entry)
        except NotFound as error:
            if entry:
                raise
            raise InvalidLayout(
                f"{self.image} holds no image: it has no {_MANIFEST}",
                hint="make one with skopeo copy",
                image=self.image,
            ) from error

    def config(self, manifest: ImageManifest) -> bytes:
        return read(self._place, _digits(manifest.config), MAX_CONFIG_BYTES)

    def blob(self, layer: Descriptor) -> Generator[bytes, None, None]:
        return verify.stream(self._place.open(_digits(layer)), layer, self.image)

    def close(self) -> None:
        self._place.close()


def _digits(descriptor: Descriptor) -> str:
    return parse_digest(descriptor.digest)[1]
