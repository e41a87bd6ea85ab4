"""Whether an image meets every requirement of the scope that counts for it, and by whose signature.

The verdict is about the manifest: what the manifest names by digest needs no signature of its own. Of an
image published for several platforms it is the manifest of this platform that has to be signed.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeVar

from cryptography import x509

from bootcd.model.errors import SignatureRejected
from bootcd.model.trust import Verdict
from bootcd.oci.reference import HEX_DIGITS
from bootcd.oci.trust.attachment import Attachment
from bootcd.oci.trust.identity import Named, SignedIdentity
from bootcd.oci.trust.payload import parse_payload
from bootcd.oci.trust.policy import (
    AcceptAnything,
    Fulcio,
    Keys,
    Matched,
    Pki,
    Reject,
    SignedBaseLayer,
    SignedBy,
    SigstoreSigned,
)
from bootcd.signatures.certificate import load_certificates
from bootcd.signatures.files import load_keys
from bootcd.signatures.gpg import verify_gpg
from bootcd.signatures.sigstore import (
    Claim,
    Proof,
    at_second,
    load_public_key,
    read_candidate,
    verify_by_fulcio,
    verify_by_key,
    verify_by_pki,
)

_MAX_REASONS = 3
_SigstoreMethod = Literal["key", "fulcio", "pki"]
_Signature = TypeVar("_Signature")


@dataclass(frozen=True, slots=True)
class Subject:
    """The image to judge."""

    shown: str
    "For people."
    named: Named | None
    "The name it is pulled by; None where its transport has none a signature could claim."
    manifest: bytes


@dataclass(frozen=True, slots=True)
class Sources:
    """How to get the signatures of the image; each is asked once at most for a requirement that needs it."""

    simple: Callable[[], Awaitable[Sequence[bytes]]]
    attached: Callable[[], Awaitable[Sequence[Attachment]]]
    attached_hint: str = ""
    "What to do where none was found."


@dataclass(frozen=True, slots=True)
class Judge:
    """`accept_unnamed`: a signature that claims no name is taken for any, which only bundles can be."""

    now: datetime
    accept_unnamed: bool = False

    async def judge(self, matched: Matched, subject: Subject, sources: Sources) -> Verdict:
        """Return why the image is let in.

        Raises SignatureRejected if it is not, with fields `image`, `scope` and `requirement`; what a
        source raises passes through.
        """
        verdicts: list[Verdict] = []
        for requirement in matched.requirements:
            try:
                match requirement:
                    case AcceptAnything():
                        continue
                    case Reject():
                        raise SignatureRejected("no image of this scope is let in")
                    case SignedBaseLayer():
                        raise SignatureRejected("nobody can verify this kind of requirement")
                    case SignedBy():
                        verdicts.append(await self._signed_by(requirement, matched, subject, sources))
                    case SigstoreSigned():
                        verdicts.append(await self._sigstore(requirement, matched, subject, sources))
            except SignatureRejected as error:
                raise SignatureRejected(
                    f"{subject.shown} is not let in by the signature policy, scope {matched.scope}, "
                    f"requirement {requirement.type}: {error.message}",
                    hint=error.hint,
                    image=subject.shown,
                    scope=matched.scope,
                    requirement=requirement.type,
                ) from error
        return verdicts[0] if verdicts else Verdict(scope=matched.scope)

    async def _signed_by(
        self, requirement: SignedBy, matched: Matched, subject: Subject, sources: Sources
    ) -> Verdict:
        if not requirement.supported:
            raise SignatureRejected(f"keys of the type {requirement.key_type} cannot be verified by anybody")
        keys = await asyncio.to_thread(load_keys, requirement.keys)

        async def verify(message: bytes) -> Verdict:
            signature = await verify_gpg(message, keys)
            payload = parse_payload(signature.content, "atomic")
            claim = Claim((payload.manifest_digest,), payload.docker_reference)
            _check_claims([claim], subject, requirement.identity)
            return Verdict(
                scope=matched.scope,
                method="gpg",
                key=signature.fingerprint,
                identity=claim.name,
                time=signature.time or at_second(payload.timestamp),
            )

        return await _first(verify, await sources.simple(), hint="")

    async def _sigstore(
        self, requirement: SigstoreSigned, matched: Matched, subject: Subject, sources: Sources
    ) -> Verdict:
        prove, method = await asyncio.to_thread(self._prepare, requirement)

        async def verify(attachment: Attachment) -> Verdict:
            proof = prove(attachment)
            claim = _check_claims(proof.claims, subject, requirement.identity, self.accept_unnamed)
            return Verdict(
                scope=matched.scope,
                method=method,
                key=proof.key,
                signer=proof.signer,
                identity=claim.name,
                time=proof.logged or claim.time,
            )

        return await _first(verify, await sources.attached(), hint=sources.attached_hint)

    def _prepare(self, requirement: SigstoreSigned) -> tuple[Callable[[Attachment], Proof], _SigstoreMethod]:
        """Load the keys of a requirement; return what verifies one signature by them. Blocks."""
        logs = [load_public_key(pem) for pem in load_keys(requirement.rekor)]
        signer = requirement.signer
        match signer:
            case Keys():
                keys = [load_public_key(pem) for pem in load_keys(signer)]
                return (lambda attached: verify_by_key(read_candidate(attached), keys, logs)), "key"
            case Fulcio():
                roots = _authorities(signer.ca)
                return (
                    lambda attached: verify_by_fulcio(read_candidate(attached), signer, roots, logs)
                ), "fulcio"
            case Pki():
                roots, between = _authorities(signer.roots), _authorities(signer.intermediates)
                return (
                    lambda attached: verify_by_pki(read_candidate(attached), signer, roots, between, self.now)
                ), "pki"


def _authorities(keys: Keys) -> list[x509.Certificate]:
    return [certificate for pem in load_keys(keys) for certificate in load_certificates(pem)]


def _check_claims(
    claims: Sequence[Claim], subject: Subject, identity: SignedIdentity, accept_unnamed: bool = False
) -> Claim:
    """Return the claim that is about this manifest under a name the policy takes for it."""
    about = [
        claim for claim in claims if any(_is_digest_of(digest, subject.manifest) for digest in claim.digests)
    ]
    if not about:
        raise SignatureRejected("it is of another manifest")
    for claim in about:
        if (accept_unnamed and not claim.name) or identity.accepts(subject.named, claim.name):
            return claim
    if not about[0].name:
        raise SignatureRejected(
            "it names no image, and the policy wants a name",
            hint="sign with `cosign sign -a docker-reference=NAME`, or set accept-unnamed-signatures",
        )
    raise SignatureRejected(f"it is for {about[0].name!r}, which is not what {identity} takes for the image")


def _is_digest_of(digest: str, data: bytes) -> bool:
    algorithm, _, value = digest.partition(":")
    return algorithm in HEX_DIGITS and hashlib.new(algorithm, data).hexdigest() == value


async def _first(
    verify: Callable[[_Signature], Awaitable[Verdict]], signatures: Sequence[_Signature], *, hint: str
) -> Verdict:
    """Return the verdict of the first signature that holds; say why none does."""
    reasons: dict[str, None] = {}
    for signature in signatures:
        try:
            return await verify(signature)
        except SignatureRejected as error:
            reasons[error.message] = None
            hint = error.hint or hint
    if not reasons:
        raise SignatureRejected("the image has no signature", hint=hint)
    listed = list(reasons)
    more = f"; and {len(listed) - _MAX_REASONS} other reasons" if len(listed) > _MAX_REASONS else ""
    count = (
        "its signature does not count"
        if len(signatures) == 1
        else f"none of {len(signatures)} signatures counts"
    )
    raise SignatureRejected(f"{count}: {'; '.join(listed[:_MAX_REASONS])}{more}", hint=hint)
