"""Whether an image may become this host: policy, signatures and image joined.

Asked twice: before anything is fetched, from the policy alone, and once the image is known, from its
signatures. What comes after that is verified by digests alone.
"""

from __future__ import annotations

from pathlib import Path

from bootcd.engine.scope import look_up, verifies
from bootcd.engine.source import ImageSource, SignedSource
from bootcd.host.clock import Clock
from bootcd.model.errors import AccessDenied, SignatureRejected
from bootcd.model.job import WorkerSettings
from bootcd.model.trust import Verdict
from bootcd.oci.reference import parse_reference
from bootcd.oci.resolve import ResolvedImage
from bootcd.oci.trust.attachment import Attachment
from bootcd.oci.trust.identity import Named
from bootcd.oci.trust.policy import Matched, Reject
from bootcd.oci.trust.stored import parse_stored
from bootcd.ostreefmt.origin import REGISTRY, SignaturePolicy, TrackedImage
from bootcd.signatures.policyfile import load_policy

_ATTACHMENTS_HINT = (
    "signatures in a registry are looked for where registries.d says use-sigstore-attachments: true"
)


class Trust:
    def __init__(self, settings: WorkerSettings, clock: Clock) -> None:
        self._root = Path(settings.containers_root)
        self._settings = settings
        self._clock = clock

    def require_possible(self, tracked: TrackedImage, *, verified_only: bool = False) -> None:
        """Refuse an image no signature could help; with `verified_only` one that needs none. Blocks briefly.

        Raises SignatureRejected, or InvalidConfig for a policy that is malformed or missing.
        """
        self._matched(tracked, verified_only)

    def _matched(self, tracked: TrackedImage, verified_only: bool) -> Matched:
        matched = look_up(load_policy(self._root), tracked)
        if verified_only and not verifies(matched, tracked):
            raise AccessDenied(
                "the signature policy now lets this image in unsigned, which takes more privilege",
                hint="try again",
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

    async def judge(
        self,
        tracked: TrackedImage,
        source: ImageSource,
        resolved: ResolvedImage,
        *,
        verified_only: bool = False,
    ) -> Verdict:
        """Return why the policy lets the image in; what an ostree remote says of it comes with the import.

        `verified_only` as for `require_possible`: the policy may have changed since.

        Raises SignatureRejected if it is not, InvalidConfig, and what reading its signatures raises.
        """
        matched = self._matched(tracked, verified_only)
        if not matched.verifies:
            return Verdict(scope=matched.scope)
        # Half of a worker's start; most hosts' images are let in without.
        from bootcd.signatures.files import load_storage
        from bootcd.signatures.judge import Judge, Sources, Subject

        storage = load_storage(self._root)
        signed = source if isinstance(source, SignedSource) else None

        async def stored() -> list[bytes | Attachment]:
            files = await signed.stored_signatures(resolved.digest, storage) if signed else ()
            return [parse_stored(data) for data in files]

        async def simple() -> list[bytes]:
            return [message for message in await stored() if isinstance(message, bytes)]

        async def attached() -> list[Attachment]:
            kept = [message for message in await stored() if isinstance(message, Attachment)]
            return [*kept, *(await signed.attached_signatures(resolved.digest, storage) if signed else ())]

        named = Named.of(parse_reference(tracked.name)) if tracked.transport == REGISTRY else None
        judge = Judge(self._clock.now(), accept_unnamed=self._settings.accept_unnamed_signatures)
        subject = Subject(tracked.name, named, resolved.manifest_bytes)
        return await judge.judge(matched, subject, Sources(simple, attached, _ATTACHMENTS_HINT))
