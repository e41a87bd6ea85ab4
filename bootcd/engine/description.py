"""What is told of a version that was found, by what its manifest and its config say of it."""

from __future__ import annotations

from bootcd.model.job import ImageUpdate
from bootcd.oci.manifest import ImageConfig, ImageManifest, announced
from bootcd.oci.timestamp import parse_timestamp
from bootcd.ostreefmt.origin import TrackedImage
from bootcd.policy.rollout import PERIOD, announced_period


def describe(tracked: TrackedImage, digest: str, manifest: ImageManifest, config: ImageConfig) -> ImageUpdate:
    """Return what is known without the host; `digest` is what the version goes by there."""
    return ImageUpdate(
        image=tracked.name,
        transport=tracked.transport,
        digest=digest,
        version=config.version or "",
        created=parse_timestamp(config.timestamp),
        rollout_secs=announced_period(announced(manifest, config, PERIOD)).total_seconds(),
    )
