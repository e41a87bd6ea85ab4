"""What differs between two versions of an image, as far as their manifests tell: whole layers. Pure."""

from __future__ import annotations

from bootcd.model.job import ImageChanges
from bootcd.oci.manifest import ImageManifest


def layer_changes(old: ImageManifest, new: ImageManifest) -> ImageChanges:
    """Compare the layers of two manifests; digests and versions are the caller's to add."""
    before = {layer.digest: layer.size for layer in old.layers}
    after = {layer.digest: layer.size for layer in new.layers}
    added, removed = after.keys() - before.keys(), before.keys() - after.keys()
    return ImageChanges(
        layers=len(after),
        added_layers=len(added),
        added_bytes=sum(after[digest] for digest in added),
        removed_layers=len(removed),
        removed_bytes=sum(before[digest] for digest in removed),
    )
