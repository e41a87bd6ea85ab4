"""What the host's signature policy says of an image, before anything of it is fetched.

Light: every look at the host asks it, too.
"""

from __future__ import annotations

from pathlib import Path

from bootcd.model.errors import BootcdError, InvalidImage
from bootcd.model.trust import TrustPolicy
from bootcd.oci.reference import DOCKER_HUB, ImageReference, parse_reference
from bootcd.oci.trust.policy import Matched, Policy
from bootcd.oci.trust.scopes import DOCKER, path_scopes, registry_scopes, storage_scopes
from bootcd.ostreefmt.origin import RemoteSignature, TrackedImage
from bootcd.signatures.policyfile import load_policy


def look_up(policy: Policy, tracked: TrackedImage) -> Matched:
    """Return what a policy requires of an image."""
    match tracked.transport:
        case "registry":
            return policy.match(DOCKER, registry_scopes(parse_reference(tracked.name)))
        case "dir":
            return policy.match("dir", path_scopes(_resolved(tracked.name)))
        case "oci" | "oci-archive":
            # What follows the path names an image inside; scopes are about the path.
            return policy.match(tracked.transport, path_scopes(_resolved(tracked.place[0])))
        case "containers-storage":
            return policy.match(tracked.transport, storage_scopes(_stored(tracked.name)))
        case _:
            return policy.match(tracked.transport, ())


def verifies(matched: Matched, tracked: TrackedImage) -> bool:
    """Whether nothing of an image comes in unsigned: by the policy, or as it is followed."""
    return matched.verifies or isinstance(tracked.signature, RemoteSignature)


def _stored(name: str) -> ImageReference | None:
    """Return the name an image has in the host's own store; None if it is given by id or store."""
    try:
        return parse_reference(name, default_registry=DOCKER_HUB)
    except InvalidImage:
        return None


def _resolved(path: str) -> str:
    return str(Path(path).resolve())


def tracked_policy(root: Path, tracked: TrackedImage | None) -> TrustPolicy:
    """Say what the host's policy says of the image it follows. Blocks; raises nothing."""
    if tracked is None:
        return TrustPolicy()
    try:
        matched = look_up(load_policy(root), tracked)
    except BootcdError as error:
        return TrustPolicy(problem=error.message)
    return TrustPolicy(scope=matched.scope, verifies=verifies(matched, tracked))
