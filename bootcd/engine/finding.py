"""What the registry has that a host which bootc drives does not run yet.

It is asked by our own client, as on every host. bootc's check tells neither when a version was made nor what
period its rollout takes, and on a host that boots a composefs image it may stage what it finds.
"""

from __future__ import annotations

import os

from bootcd.engine.description import describe
from bootcd.engine.notes import release_notes
from bootcd.engine.source import open_source
from bootcd.model.errors import WrongState
from bootcd.model.host import Host, ImageReferenceStatus
from bootcd.model.job import ImageUpdate, WorkerSettings
from bootcd.oci.manifest import host_architecture
from bootcd.oci.resolve import ResolvedImage
from bootcd.ostreefmt.origin import TrackedImage


def followed_image(host: Host) -> TrackedImage:
    """Return the image the next upgrade takes: that of what is staged, as bootc has it, else of the host.

    Raises WrongState, and InvalidImage for a name that is none.
    """
    followed = _followed(host)
    if followed is None:
        raise WrongState(
            "this host was not deployed from a container image", hint="use: bootcctl switch IMAGE"
        )
    return TrackedImage.unverified(followed.transport, followed.image)


async def find_update(host: Host, settings: WorkerSettings) -> tuple[ImageUpdate | None, str]:
    """Return what is newer than what is deployed, and its release notes; None if nothing is.

    Raises: what `open_source` and its source raise.
    """
    tracked = followed_image(host)
    newest = host.status.staged or host.status.booted
    current = newest.image.image_digest if newest and newest.image else ""
    async with open_source(tracked, settings) as source:
        if await source.current_digest() == current:
            return None, ""
        architecture, variant = host_architecture(os.uname().machine)
        resolved = await source.resolve(architecture=architecture, variant=variant)
        digest = _name(resolved, host)
        if digest == current:
            return None, ""
        notes = await release_notes(source, resolved)
    update = describe(tracked, digest, resolved.manifest, resolved.config)
    return update.model_copy(update={"has_notes": bool(notes)}), notes


def _followed(host: Host) -> ImageReferenceStatus | None:
    staged = host.status.staged
    return staged.image.image if staged and staged.image else host.spec.image


def _name(resolved: ResolvedImage, host: Host) -> str:
    """Return the digest an image goes by on this host, if it is deployed here, else that of its manifest.

    Releases of bootc differ in whether that is the digest of the manifest, or of the config; what is
    remembered of a version is remembered by it.
    """
    known = {entry.image.image_digest for entry in host.status.deployments if entry.image}
    names = (resolved.digest, resolved.index_digest, resolved.manifest.config.digest)
    return next((name for name in names if name and name in known), resolved.digest)
