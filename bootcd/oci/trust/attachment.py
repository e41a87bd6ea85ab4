"""Signatures attached to an image in its registry: manifests that list them, referrers, fall-back tags.

cosign keeps signatures in a manifest of their own, found by a tag made of the image's digest
(`sha256-<hex>.sig`) or, since OCI 1.1, as a manifest that names the image as its subject. The registry is
not trusted with any of it: what is read here only tells where bytes are that may be a signature.
Formats: https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md and BUNDLE_SPEC.md,
https://github.com/opencontainers/distribution-spec/blob/main/spec.md#listing-referrers
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bootcd.model.errors import InvalidManifest
from bootcd.oci.manifest import MANIFEST_MEDIA_TYPES, MAX_MANIFEST_BYTES
from bootcd.oci.reference import is_digest
from bootcd.oci.strictjson import parse_object

MAX_ATTACHMENTS = 64
"Signatures of one image that are looked at; what is beyond is as good as absent."
MAX_ATTACHMENT_BYTES = 1 << 20
MAX_SIGNATURES_BYTES = 16 << 20
"Of all signatures of one image together, as they stay in memory until one of them holds."

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
ARTIFACT_SIGNATURE = "application/vnd.dev.cosign.artifact.sig.v1+json"
_SIGNATURE_TYPES = frozenset({BUNDLE, ARTIFACT_SIGNATURE})
# go-containerregistry's fall-back index gives the type of the config, which says nothing.
_VAGUE_TYPES = frozenset({"", "application/vnd.oci.empty.v1+json"})

SIGNATURE_KEY = "dev.cosignproject.cosign/signature"
CERTIFICATE_KEY = "dev.sigstore.cosign/certificate"
CHAIN_KEY = "dev.sigstore.cosign/chain"
LOG_KEY = "dev.sigstore.cosign/bundle"


@dataclass(frozen=True, slots=True)
class Blob:
    """Where an attached signature is: a blob, with the annotations of its descriptor."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Attachment:
    """An attached signature that was read; nothing in it was verified."""

    media_type: str
    content: bytes
    annotations: Mapping[str, str]


def signature_tag(digest: str) -> str:
    """Return the tag cosign keeps the signatures of a manifest under."""
    return f"{referrers_tag(digest)}.sig"


def referrers_tag(digest: str) -> str:
    """Return the tag of the referrers index, for registries that do not keep one themselves."""
    return digest.replace(":", "-", 1)


def parse_signature_manifest(data: bytes) -> list[Blob]:
    """Return the signatures a manifest lists, of the kinds known here. Raises InvalidManifest."""
    document = _document(data, "the manifest of signatures")
    layers = document.get("layers")
    if not isinstance(layers, list):
        raise InvalidManifest("the manifest of signatures has no layers")
    blobs = []
    for layer in layers[:MAX_ATTACHMENTS]:
        blob = _blob(layer)
        if blob.media_type in (SIMPLE_SIGNING, BUNDLE):
            blobs.append(blob)
    return blobs


def parse_referrers(data: bytes) -> list[str]:
    """Return the digests of the manifests in an index of referrers that may hold signatures."""
    document = _document(data, "the index of referrers")
    entries = document.get("manifests")
    if not isinstance(entries, list):
        raise InvalidManifest("the index of referrers lists nothing")
    digests = []
    for entry in entries:
        blob = _blob(entry)
        kind = entry.get("artifactType", "")
        if blob.media_type in MANIFEST_MEDIA_TYPES and kind in _SIGNATURE_TYPES | _VAGUE_TYPES:
            digests.append(blob.digest)
    return digests[:MAX_ATTACHMENTS]


def _document(data: bytes, what: str) -> dict[str, Any]:
    return parse_object(data, what=what, limit_bytes=MAX_MANIFEST_BYTES, error=InvalidManifest)


def _blob(node: Any) -> Blob:
    if not isinstance(node, dict):
        raise InvalidManifest("a descriptor of a signature is no object")
    media_type, digest, size = node.get("mediaType"), node.get("digest"), node.get("size")
    annotations = node.get("annotations") or {}
    if not isinstance(media_type, str) or not isinstance(digest, str) or not is_digest(digest):
        raise InvalidManifest("a descriptor of a signature has no media type or digest")
    if type(size) is not int or size < 0:
        raise InvalidManifest("a descriptor of a signature has no size")
    if not isinstance(annotations, dict) or not all(isinstance(value, str) for value in annotations.values()):
        raise InvalidManifest("a descriptor of a signature has annotations that are no texts")
    if not isinstance(node.get("artifactType", ""), str):
        raise InvalidManifest("a descriptor of a signature has an artifact type that is no text")
    return Blob(media_type, digest, size, annotations)
