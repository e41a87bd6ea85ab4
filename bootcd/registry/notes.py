"""Release notes from a registry: by its list of referrers, or by the tag that stands for one."""

from __future__ import annotations

from contextlib import aclosing

from bootcd.model.errors import InvalidManifest
from bootcd.oci.manifest import INDEX_MEDIA_TYPES, MANIFEST_MEDIA_TYPES, Descriptor
from bootcd.oci.notes import clean_notes, notes_among, notes_layer
from bootcd.oci.reference import ImageReference
from bootcd.oci.resolve import digest_of
from bootcd.oci.trust.attachment import referrers_tag
from bootcd.registry.client import RegistryClient
from bootcd.registry.failures import Target

_MANIFEST = {"Accept": MANIFEST_MEDIA_TYPES[0]}
_INDEX = {"Accept": INDEX_MEDIA_TYPES[0]}


async def release_notes(client: RegistryClient, reference: ImageReference, digest: str) -> str:
    """Return the newest notes attached to the manifest or index `digest`, empty if there are none.

    Raises InvalidManifest, DigestMismatch and what RegistryError roots.
    """
    with Target(reference).naming():
        index = await client.document(reference, f"referrers/{digest}", _INDEX)
        if index is None:
            # A registry of before OCI 1.1: whoever attaches something keeps the index under a tag.
            index = await client.document(reference, f"manifests/{referrers_tag(digest)}", _INDEX)
        if index is None:
            return ""
        problem: InvalidManifest | None = None
        for entry in notes_among(index):
            manifest = await client.document(reference, f"manifests/{entry.digest}", _MANIFEST)
            try:
                if manifest is None or digest_of(manifest, entry.digest) != entry.digest:
                    raise InvalidManifest(f"release notes {entry.digest} are not what the registry gave")
                layer = notes_layer(manifest, digest)
            except InvalidManifest as error:
                problem = error
                continue
            return clean_notes(await _read(client, reference, layer))
        if problem:
            raise problem
        return ""


async def _read(client: RegistryClient, reference: ImageReference, layer: Descriptor) -> bytes:
    async with aclosing(client.open_blob(reference, layer)) as chunks:
        return b"".join([chunk async for chunk in chunks])
