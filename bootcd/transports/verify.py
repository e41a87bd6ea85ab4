"""Content held to its descriptor: nothing on a medium is believed because it lies under the right name."""

from __future__ import annotations

import hashlib
from collections.abc import Generator

from bootcd.model.errors import BootcdError, DigestMismatch, InvalidManifest
from bootcd.oci.manifest import Descriptor, parse_manifest
from bootcd.oci.resolve import Document, digest_of
from bootcd.transports.place import Content, Place, cut_short, read, reading


def document(place: Place, name: str, limit: int, entry: Descriptor | None) -> Document:
    """Read a manifest or index, which must be the one `entry` describes."""
    data = read(place, name, limit)
    digest = digest_of(data, entry.digest if entry else "")
    if entry and digest != entry.digest:
        raise mismatch(place.image, entry.digest, digest, "a manifest")
    try:
        return Document(data, digest, parse_manifest(data, entry.media_type if entry else None))
    except InvalidManifest as error:
        raise InvalidManifest(
            f"{place.image}: {error.message}", hint=error.hint, image=place.image
        ) from error


def stream(content: Content, descriptor: Descriptor, image: str) -> Generator[bytes, None, None]:
    """Yield a blob and close it; what was yielded is the blob once the iteration has ended by itself."""
    running = hashlib.new(descriptor.digest.partition(":")[0])
    with content:
        if content.size != descriptor.size:
            raise (
                cut_short(image, descriptor.digest)
                if content.size < descriptor.size
                else mismatch(
                    image,
                    descriptor.digest,
                    "",
                    f"a blob of {content.size} instead of {descriptor.size} bytes",
                )
            )
        done = 0
        with reading(image):
            for chunk in content.chunks():
                running.update(chunk)
                done += len(chunk)
                yield chunk
    if done < descriptor.size:
        raise cut_short(image, descriptor.digest)
    actual = f"{running.name}:{running.hexdigest()}"
    if actual != descriptor.digest:
        raise mismatch(image, descriptor.digest, actual, "a blob")


def mismatch(image: str, expected: str, actual: str, what: str) -> BootcdError:
    return DigestMismatch(
        f"{what} of {image} has digest {actual} instead of {expected}"
        if actual
        else f"{what} lies at {expected} of {image}",
        hint="the image was damaged or altered; copy it again",
        expected=expected,
        actual=actual,
        image=image,
    )
