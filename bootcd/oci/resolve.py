"""From the document a name stands for to the image of one platform, every digest on the way verified.

    manifest, or index -> manifest of the platform -> config

Registries and local media answer in different ways and mean the same; whoever has the documents
implements `Documents`.

https://github.com/opencontainers/image-spec/blob/main/image-index.md
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

from bootcd.model.errors import InvalidManifest, NoMatchingPlatform
from bootcd.oci.manifest import (
    Descriptor,
    ImageConfig,
    ImageIndex,
    ImageManifest,
    check_layers,
    parse_config,
    select_platform,
)


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or index, with the bytes its digest is of."""

    data: bytes
    digest: str
    parsed: ImageIndex | ImageManifest


class Documents(Protocol):
    """Where the documents of one image come from. Raises what its place raises."""

    async def manifest(self, entry: Descriptor | None) -> Document:
        """Return what the image's name stands for, or the entry of its index, verified against its digest."""
        ...

    async def config(self, manifest: ImageManifest) -> bytes:
        """Return the config of a manifest, verified against its digest."""
        ...


@dataclass(frozen=True, slots=True)
class ResolvedImage:
    """The image of one platform a name stood for at one moment, with the bytes its digests are of."""

    digest: str
    "Of the manifest below, also where the name stands for an index."
    manifest_bytes: bytes
    manifest: ImageManifest
    config_bytes: bytes
    config: ImageConfig
    index_digest: str | None


async def resolve_image(
    documents: Documents, *, architecture: str, variant: str | None = None
) -> ResolvedImage:
    """Find the image of a platform.

    Raises NoMatchingPlatform, InvalidManifest, and whatever `documents` raises.
    """
    document = await documents.manifest(None)
    parsed, index_digest = document.parsed, None
    if isinstance(parsed, ImageIndex):
        index_digest = document.digest
        document = await documents.manifest(select_platform(parsed, architecture, variant or None))
        parsed = document.parsed
    if isinstance(parsed, ImageIndex):
        raise InvalidManifest("the index says of another index that it is an image")
    config_bytes = await documents.config(parsed)
    config = parse_config(config_bytes)
    check_layers(parsed, config)
    if (config.os, config.architecture) != ("linux", architecture):
        offered, wanted = f"{config.os}/{config.architecture}", f"linux/{architecture}"
        raise NoMatchingPlatform(
            f"the image is for {offered}, not for {wanted}", wanted=wanted, offered=offered
        )
    return ResolvedImage(
        digest=document.digest,
        manifest_bytes=document.data,
        manifest=parsed,
        config_bytes=config_bytes,
        config=config,
        index_digest=index_digest,
    )


def digest_of(data: bytes, like: str = "") -> str:
    """Return the digest of `data` by the algorithm of the digest `like`."""
    algorithm = like.partition(":")[0] or "sha256"
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
