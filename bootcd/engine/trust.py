"""Whether an image may become this host: policy, signatures and image joined.

Asked twice: before anything is fetched, from the policy alone, and once the image is known, from its
signatures. What comes after that is verified by digests alone.
"""

from __future__ import annotations

from pathlib import Path

from bootcd.engine.source import ImageSource, SignedSource
from bootcd.host.clock import Clock
from bootcd.model.errors import BootcdError, InvalidImage, SignatureRejected
from bootcd.model.job import WorkerSettings
from bootcd.model.trust import TrustPolicy, Verdict
from bootcd.oci.reference import DOCKER_HUB, ImageReference, parse_reference
from bootcd.oci.resolve import ResolvedImage
from bootcd.oci.trust.attachment import Attachment
from bootcd.oci.trust.identity import Named
from bootcd.oci.trust.policy import Matched, Policy, Reject
from bootcd.oci.trust.scopes import DOCKER, path_scopes, registry_scopes, storage_scopes
from bootcd.ostreefmt.origin import REGISTRY, RemoteSignature, SignaturePolicy, TrackedImage
from bootcd.signatures.policyfile import load_policy

_ATTACHMENTS_HINT = (
    "signatures in a registry are looked for where registries.d says use-sigstore-attachments: true"
)


def look_up(policy: Policy, tracked: TrackedImage) -> Matched:
    """Return what a policy requires of an image."""
    match tracked.transport:
        case "registry":
            return policy.match(DOCKER, registry_scopes(parse_reference(tracked.name)))
        case "dir":
            return policy.match("dir", path_scopes(_resolved(tracked.name)))
        case "oci" | "oci-archive":
            # What follows the path names an image inside; scopes are about the path.
            return policy.match(tracked.transport, path_scopes(_resolved(tracked.name.partition(":")[0])))
        case "containers-storage":
            return policy.match(tracked.transport, storage_scopes(_stored(tracked.name)))
        case _:
            return policy.match(tracked.transport, ())


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
    return TrustPolicy(scope=matched.scope, verifies=matched.verifies)


class Trust:
    def __init__(self, settings: WorkerSettings, clock: Clock) -> None:
        self._root = Path(settings.containers_root)
        self._settings = settings
        self._clock = clock

    def require_possible(self, tracked: TrackedImage) -> None:
        """Refuse an image no signature could help. Blocks briefly.

        Raises SignatureRejected, or InvalidConfig for a policy that is malformed or missing.
        """
        self._matched(tracked)

    def _matched(self, tracked: TrackedImage) -> Matched:
        matched = look_up(load_policy(self._root), tracked)
        if isinstance(tracked.signature, RemoteSignature):
            raise SignatureRejected(
                f"{tracked.name} has to be signed by the ostree remote {tracked.signature.remote}, "
                "which cannot be verified yet",
                hint="use bootc for this image for now",
                image=tracked.name,
            )
        if any(isinstance(requirement, Reject) for requirement in matched.requirements):
            raise SignatureRejected(
                f"{tracked.name} is not let in by the signature policy, scope {matched.scope}, "
                "requirement reject",
                hint="see /etc/containers/policy.json",
                image=tracked.name,
                scope=matched.scope,
                requirement="reject",
            )
        if tracked.signature is SignaturePolicy.CONTAINER_POLICY and not matched.verifies:
            raise SignatureRejected(
                f"{tracked.name} has to be signed, and the signature policy, scope {matched.scope}, "
                "accepts anything",
                hint="name the image's signer in /etc/containers/policy.json, or switch without "
                "--enforce-container-sigpolicy",
                image=tracked.name,
                scope=matched.scope,
                requirement="insecureAcceptAnything",
            )
        return matched

    async def judge(self, tracked: TrackedImage, source: ImageSource, resolved: ResolvedImage) -> Verdict:
        """Return why the image is let in.

        Raises SignatureRejected if it is not, InvalidConfig, and what reading its signatures raises.
        """
        matched = self._matched(tracked)
        if not matched.verifies:
            return Verdict(scope=matched.scope)
        # Half of a worker's start; most hosts' images are let in without.
        from bootcd.signatures.files import load_storage
        from bootcd.signatures.judge import Judge, Sources, Subject

        storage = load_storage(self._root)
        signed = source if isinstance(source, SignedSource) else None

        async def simple() -> list[bytes]:
            return list(await signed.simple_signatures(resolved.digest, storage)) if signed else []

        async def attached() -> list[Attachment]:
            return list(await signed.attached_signatures(resolved.digest, storage)) if signed else []

        named = Named.of(parse_reference(tracked.name)) if tracked.transport == REGISTRY else None
        judge = Judge(self._clock.now(), accept_unnamed=self._settings.accept_unnamed_signatures)
        subject = Subject(tracked.name, named, resolved.manifest_bytes)
        return await judge.judge(matched, subject, Sources(simple, attached, _ATTACHMENTS_HINT))
