"""Signatures of an image, from its registry and from where else they are kept.

Nothing read here is trusted: number and size are bounded, and whoever verifies decides.
https://github.com/containers/image/blob/main/docs/signature-protocols.md
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from yarl import URL

from bootcd.host.files import read_bounded
from bootcd.model.errors import InvalidConfig, InvalidManifest
from bootcd.oci.manifest import INDEX_MEDIA_TYPES, MANIFEST_MEDIA_TYPES, Descriptor
from bootcd.oci.reference import ImageReference
from bootcd.oci.resolve import digest_of
from bootcd.oci.trust.attachment import (
    MAX_ATTACHMENT_BYTES,
    MAX_ATTACHMENTS,
    MAX_SIGNATURES_BYTES,
    Attachment,
    Blob,
    parse_referrers,
    parse_signature_manifest,
    referrers_tag,
    signature_tag,
)
from bootcd.registry.client import RegistryClient
from bootcd.registry.failures import Target

MAX_LOOKASIDE = 128
"Signatures of one image that are looked at, as many as podman does."
_MANIFEST = {"Accept": MANIFEST_MEDIA_TYPES[0]}
_INDEX = {"Accept": INDEX_MEDIA_TYPES[0]}


async def attached_signatures(
    client: RegistryClient, reference: ImageReference, digest: str
) -> list[Attachment]:
    """Return what is attached to a manifest: under cosign's tag, and as referrers.

    Raises what RegistryError roots, DigestMismatch and InvalidManifest.
    """
    blobs: list[Blob] = []
    room = MAX_SIGNATURES_BYTES
    with Target(reference).naming():
        listed = await client.document(reference, f"manifests/{signature_tag(digest)}", _MANIFEST)
        if listed is not None:
            blobs += parse_signature_manifest(listed)
            room -= len(listed)
        for referrer in await _referrers(client, reference, digest):
            if len(blobs) >= MAX_ATTACHMENTS or room <= 0:
                break
            listed = await client.document(reference, f"manifests/{referrer}", _MANIFEST)
            if listed is None:
                continue
            if digest_of(listed, referrer) != referrer:
                raise InvalidManifest(f"the signature {referrer} is not what the registry sent")
            blobs += parse_signature_manifest(listed)
            room -= len(listed)
    found: dict[tuple[str, tuple[tuple[str, str], ...]], Blob] = {}
    for blob in blobs[:MAX_ATTACHMENTS]:
        found.setdefault((blob.digest, tuple(sorted(blob.annotations.items()))), blob)
    attachments = []
    for blob in found.values():
        if blob.size <= min(MAX_ATTACHMENT_BYTES, room):
            room -= blob.size
            content = await _read(client, reference, blob)
            attachments.append(Attachment(blob.media_type, content, blob.annotations))
    return attachments


async def _referrers(client: RegistryClient, reference: ImageReference, digest: str) -> list[str]:
    index = await client.document(reference, f"referrers/{digest}", _INDEX)
    if index is None:
        # A registry of before OCI 1.1: whoever attaches something keeps the index under a tag.
        index = await client.document(reference, f"manifests/{referrers_tag(digest)}", _INDEX)
    return [] if index is None else parse_referrers(index)


async def _read(client: RegistryClient, reference: ImageReference, blob: Blob) -> bytes:
    descriptor = Descriptor(media_type=blob.media_type, digest=blob.digest, size=blob.size)
    async with aclosing(client.open_blob(reference, descriptor)) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def lookaside_signatures(
    client: RegistryClient, reference: ImageReference, digest: str, base: str
) -> list[bytes]:
    """Return the files of signatures of a manifest below the address `base`, http, https or file.

    Raises InvalidConfig for another address, and what RegistryError roots.
    """
    algorithm, _, value = digest.partition(":")
    where = f"{base.rstrip('/')}/{reference.repository}@{algorithm}={value}"
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https", "file") or (parts.scheme == "file" and parts.netloc):
        raise InvalidConfig(
            "the signature storage of registries.d is no http, https or file address",
            hint="see containers-registries.d(5)",
        )
    signatures: list[bytes] = []
    room = MAX_SIGNATURES_BYTES
    for number in range(1, MAX_LOOKASIDE + 1):
        address = f"{where}/signature-{number}"
        if parts.scheme == "file":
            signature = await asyncio.to_thread(_read_file, Path(unquote(urlsplit(address).path)))
        else:
            signature = await client.elsewhere(reference, URL(address), MAX_ATTACHMENT_BYTES)
        if signature is None or len(signature) > room:
            break
        room -= len(signature)
        signatures.append(signature)
    return signatures


def _read_file(path: Path) -> bytes | None:
    try:
        return read_bounded(path, MAX_ATTACHMENT_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidConfig(f"the signature {path} cannot be read: {error.strerror}") from error
