"""Garbage of the layer cache: which image and layer refs nothing needs any more.

The rules are bootc's, because either program cleans up after the other: an image ref lives while some
deployment's origin names it, a layer ref while the manifest of a living image, of a
deployment or of a base image names it. Refs outside these two namespaces are never touched, and
neither are those inside whose name neither program could have written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from bootcd.model.errors import BootcdError, InvalidImage
from bootcd.oci.manifest import ImageManifest, parse_manifest
from bootcd.ostree.sysroot import Sysroot
from bootcd.ostreefmt.metadata import parse_merge_metadata
from bootcd.ostreefmt.origin import TrackedImage
from bootcd.ostreefmt.refs import (
    BASEIMAGE_PREFIX,
    BLOB_PREFIX,
    IMAGE_PREFIX,
    image_ref,
    parse_blob_ref,
    parse_image_ref,
)

log = logging.getLogger(__name__)

_COMMIT_PREFIXES = ("ostree/0", "ostree/1", "rpmostree/base", BASEIMAGE_PREFIX)


def drop_unused_refs(sysroot: Sysroot) -> list[str]:
    """Delete the image and layer refs that nothing needs; returns their names.

    An origin that cannot be read keeps every image, a commit whose manifest cannot be read keeps every
    layer: guessing could lose what it needs.
    """
    repository = sysroot.repository
    images = _named(repository.refs(IMAGE_PREFIX), parse_image_ref)
    wanted_images = _wanted_images(sysroot)
    dropped = [] if wanted_images is None else sorted(images.keys() - wanted_images)

    commits = {commit for ref, commit in images.items() if ref not in dropped}
    commits |= {deployment.get_csum() for deployment in sysroot.deployments}
    for prefix in _COMMIT_PREFIXES:
        commits |= set(repository.refs(prefix).values())
    try:
        needed = {layer for commit in commits for layer in _layers(sysroot, commit)}
    except BootcdError as error:
        log.warning("no layer is removed from the cache: %s", error.message)
    else:
        layers = _named(repository.refs(BLOB_PREFIX), parse_blob_ref)
        dropped += sorted(ref for ref in layers if parse_blob_ref(ref) not in needed)
    for ref in dropped:
        repository.delete_ref(ref)
    return dropped


def hand_back_image(sysroot: Sysroot, image: TrackedImage | None, commit: str) -> None:
    """Let the ref of an image whose newest version is deployed no more name the version that is.

    Without that, the ref would hold a version that was dropped until the next one comes.
    """
    if image is None:
        return
    ref = image_ref(image.image_ref_name)
    same = [d.get_csum() for d in sysroot.deployments if sysroot.image(d) == image]
    if same and commit not in same and sysroot.repository.resolve(ref) == commit:
        sysroot.repository.set_ref(ref, same[0])


def _wanted_images(sysroot: Sysroot) -> set[str] | None:
    try:
        origins = [sysroot.origin(deployment) for deployment in sysroot.deployments]
        return {image_ref(origin.image.image_ref_name) for origin in origins if origin.image is not None}
    except BootcdError as error:
        log.warning("no image is removed from the cache: %s", error.message)
        return None


def _named(refs: Mapping[str, str], parse: Callable[[str], str]) -> dict[str, str]:
    """Return the refs whose name can be understood."""
    named = {}
    for ref, commit in refs.items():
        try:
            parse(ref)
        except InvalidImage:
            log.warning("ref %s is left alone: it names neither image nor layer", ref)
        else:
            named[ref] = commit
    return named


def _layers(sysroot: Sysroot, commit: str) -> list[str]:
    metadata = parse_merge_metadata(sysroot.repository.commit_metadata(commit))
    if metadata is None:
        return []
    manifest = parse_manifest(metadata.manifest_json.encode(), None)
    return [layer.digest for layer in manifest.layers] if isinstance(manifest, ImageManifest) else []
