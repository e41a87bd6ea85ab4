"""Garbage of the layer cache: which image and layer refs nothing needs any more.

The rules are bootc's, because either program cleans up after the other: an image ref lives while some
deployment's origin names it, a layer ref while the manifest of a living image, of a
deployment or of a base image names it. Refs outside these two namespaces are never touched.
"""

from __future__ import annotations

from bootcd.model.errors import BootcdError
from bootcd.oci.manifest import ImageManifest, parse_manifest
from bootcd.ostree.sysroot import Sysroot
from bootcd.ostreefmt.metadata import parse_merge_metadata
from bootcd.ostreefmt.refs import BASEIMAGE_PREFIX, BLOB_PREFIX, IMAGE_PREFIX, image_ref, parse_blob_ref

_COMMIT_PREFIXES = ("ostree/0", "ostree/1", "rpmostree/base", BASEIMAGE_PREFIX)


def drop_unused_refs(sysroot: Sysroot) -> list[str]:
    """Delete the image and layer refs that nothing needs; returns their names.

    A commit whose manifest cannot be read keeps every layer: guessing could lose what it needs.
    """
    repository = sysroot.repository
    origins = (sysroot.origin(deployment).image for deployment in sysroot.deployments)
    wanted_images = {image_ref(image.image_ref_name) for image in origins if image is not None}
    images = repository.refs(IMAGE_PREFIX)
    dropped = sorted(images.keys() - wanted_images)

    commits = {images[ref] for ref in images.keys() & wanted_images}
    commits |= {deployment.get_csum() for deployment in sysroot.deployments}
    for prefix in _COMMIT_PREFIXES:
        commits |= set(repository.refs(prefix).values())
    try:
        needed = {layer for commit in commits for layer in _layers(sysroot, commit)}
    except BootcdError:
        needed = None
    if needed is not None:
        dropped += sorted(ref for ref in repository.refs(BLOB_PREFIX) if parse_blob_ref(ref) not in needed)
    for ref in dropped:
        repository.delete_ref(ref)
    return dropped


def _layers(sysroot: Sysroot, commit: str) -> list[str]:
    metadata = parse_merge_metadata(sysroot.repository.commit_metadata(commit))
    if metadata is None:
        return []
    manifest = parse_manifest(metadata.manifest_json.encode(), None)
    return [layer.digest for layer in manifest.layers] if isinstance(manifest, ImageManifest) else []
