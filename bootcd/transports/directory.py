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
from bootcd.oci.trust.attachment import MAX_ATTACHMENT_BYTES, MAX_SIGNATURES_BYTES
from bootcd.transports import verify
from bootcd.transports.place import Place, read

_MANIFEST = "manifest.json"
_MAX_SIGNATURES = 128


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

    def signatures(self, digest: str) -> list[bytes]:
        """Return the files that may hold signatures of the manifest `digest`."""
        prefix = "" if digest == self.current_digest() else f"{parse_digest(digest)[1]}."
        found: list[bytes] = []
        while len(found) < _MAX_SIGNATURES and sum(map(len, found)) < MAX_SIGNATURES_BYTES:
            try:
                found.append(read(self._place, f"{prefix}signature-{len(found) + 1}", MAX_ATTACHMENT_BYTES))
            except NotFound:
                break
        return found

    def close(self) -> None:
        self._place.close()


def _digits(descriptor: Descriptor) -> str:
    return parse_digest(descriptor.digest)[1]
