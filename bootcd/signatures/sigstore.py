"""Sigstore signatures verified: by a key, by a certificate of Fulcio, by one of somebody's own authority.

Both forms come down to the same: some bytes, a signature over them, maybe a certificate and a log's
promise. Rules, and which hash goes with which key: github.com/containers/image, signature/; for bundles
https://github.com/sigstore/sigstore/blob/main/pkg/signature/algorithm_registry.go
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from bootcd.model.errors import SignatureRejected
from bootcd.oci.trust.attachment import (
    BUNDLE,
    CERTIFICATE_KEY,
    CHAIN_KEY,
    LOG_KEY,
    SIGNATURE_KEY,
    SIMPLE_SIGNING,
    Attachment,
)
from bootcd.oci.trust.bundle import (
    LogEntry,
    decode_base64,
    parse_bundle,
    parse_log_annotation,
    parse_log_body,
    parse_statement,
)
from bootcd.oci.trust.payload import parse_payload
from bootcd.oci.trust.policy import Fulcio, Pki
from bootcd.signatures.certificate import (
    check_fulcio,
    check_pki,
    load_certificates,
    load_der,
    reading_certificates,
    verify_path,
)

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

_BUNDLE_HASHES: dict[str, hashes.HashAlgorithm] = {"secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512()}


@dataclass(frozen=True, slots=True)
class Claim:
    """What a verified signature says: a manifest by one or more digests, under a name if it has one."""

    digests: tuple[str, ...]
    name: str
    time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """A verified signature: what it says, and who says so."""

    claims: tuple[Claim, ...]
    key: str
    signer: str = ""
    logged: datetime | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A signature of either form, unverified."""

    signed: bytes
    payload: bytes
    "What a log records the digest of."
    signature: bytes
    bundle: bool
    certificate: x509.Certificate | None
    chain: tuple[x509.Certificate, ...]
    log_entry: LogEntry | None


def read_candidate(attachment: Attachment) -> Candidate:
    """Take an attached signature apart. Raises SignatureRejected."""
    if attachment.media_type == BUNDLE:
        bundle = parse_bundle(attachment.content)
        certificates = [load_der(data) for data in bundle.certificates]
        return Candidate(
            signed=bundle.signed,
            payload=bundle.payload,
            signature=bundle.signature,
            bundle=True,
            certificate=certificates[0] if certificates else None,
            chain=tuple(certificates[1:]),
            log_entry=bundle.log_entry,
        )
    if attachment.media_type != SIMPLE_SIGNING:
        raise SignatureRejected("it is of an unknown form")
    notes = attachment.annotations
    leaf: list[x509.Certificate] = []
    if CERTIFICATE_KEY in notes:
        leaf = load_certificates(notes[CERTIFICATE_KEY].encode())
        if len(leaf) != 1:
            raise SignatureRejected("it has more than one certificate of its signer")
    return Candidate(
        signed=attachment.content,
        payload=attachment.content,
        signature=decode_base64(notes.get(SIGNATURE_KEY, ""), "the attached signature"),
        bundle=False,
        certificate=leaf[0] if leaf else None,
        chain=tuple(load_certificates(notes[CHAIN_KEY].encode())) if notes.get(CHAIN_KEY) else (),
        log_entry=parse_log_annotation(notes[LOG_KEY].encode()) if LOG_KEY in notes else None,
    )


def verify_by_key(candidate: Candidate, keys: Sequence[PublicKey], logs: Sequence[PublicKey]) -> Proof:
    """Verify a signature by one of `keys`; with `logs`, one of them must have recorded it."""
    for key in keys:
        if not _fits(candidate, key):
            continue
        logged = check_log(candidate, _der(key), logs) if logs else None
        return Proof(_claims(candidate), fingerprint(key), logged=logged)
    raise SignatureRejected("it is by none of the policy's keys")


def verify_by_fulcio(
    candidate: Candidate, wanted: Fulcio, roots: Sequence[x509.Certificate], logs: Sequence[PublicKey]
) -> Proof:
    """Verify a signature by a certificate that was valid when one of `logs` recorded it."""
    certificate = _certificate(candidate)
    logged = check_log(candidate, certificate.public_bytes(serialization.Encoding.DER), logs)
    with reading_certificates():
        verify_path(certificate, candidate.chain, roots, logged)
        signer = check_fulcio(certificate, wanted)
    return Proof(_claims(candidate), _verify_certified(candidate, certificate), signer, logged)


def verify_by_pki(
    candidate: Candidate,
    wanted: Pki,
    roots: Sequence[x509.Certificate],
    intermediates: Sequence[x509.Certificate],
    now: datetime,
) -> Proof:
    """Verify a signature by a certificate that is valid now."""
    certificate = _certificate(candidate)
    with reading_certificates():
        verify_path(certificate, (*intermediates, *candidate.chain), roots, now)
        signer = check_pki(certificate, wanted)
    return Proof(_claims(candidate), _verify_certified(candidate, certificate), signer)


def check_log(candidate: Candidate, verifier: bytes, logs: Sequence[PublicKey]) -> datetime:
    """Check that one of `logs` recorded this very signature by `verifier` (DER); return when."""
    entry = candidate.log_entry
    if entry is None:
        raise SignatureRejected("it comes without the promise of a log the policy wants")
    if not any(_verify(key, entry.promise, entry.signed, hashes.SHA256()) for key in logs):
        raise SignatureRejected("the log's promise is by none of the policy's logs")
    record = parse_log_body(entry.body)
    if _pem_body(record.verifier) != verifier:
        raise SignatureRejected("the log recorded a signature by somebody else")
    if (
        record.signature != candidate.signature
        or record.sha256 != hashlib.sha256(candidate.payload).hexdigest()
    ):
        raise SignatureRejected("the log recorded another signature")
    try:
        return datetime.fromtimestamp(entry.integrated_time, UTC)
    except (ValueError, OverflowError, OSError):
        raise SignatureRejected("the log's time is none") from None


def load_public_key(pem: bytes) -> PublicKey:
    """Load a public key of a kind that signs. Raises SignatureRejected."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise SignatureRejected("a key of the policy is no PEM public key") from None
    if not isinstance(key, PublicKey):
        raise SignatureRejected("a key of the policy is not of ECDSA, RSA or Ed25519")
    return key


def fingerprint(key: PublicKey) -> str:
    return "sha256:" + hashlib.sha256(_der(key)).hexdigest()


def _certificate(candidate: Candidate) -> x509.Certificate:
    if candidate.certificate is None:
        raise SignatureRejected("it comes without a certificate of its signer")
    return candidate.certificate


def _verify_certified(candidate: Candidate, certificate: x509.Certificate) -> str:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise SignatureRejected("the key of the signer's certificate cannot be used") from None
    if not isinstance(key, PublicKey) or not _fits(candidate, key):
        raise SignatureRejected("it is not by the key of its certificate")
    return fingerprint(key)


def _fits(candidate: Candidate, key: PublicKey) -> bool:
    algorithm: hashes.HashAlgorithm = hashes.SHA256()
    if candidate.bundle and isinstance(key, ec.EllipticCurvePublicKey):
        algorithm = _BUNDLE_HASHES.get(key.curve.name, algorithm)
    return _verify(key, candidate.signature, candidate.signed, algorithm)


def _verify(key: PublicKey, signature: bytes, data: bytes, algorithm: hashes.HashAlgorithm) -> bool:
    try:
        match key:
            case ec.EllipticCurvePublicKey():
                key.verify(signature, data, ec.ECDSA(algorithm))
            case rsa.RSAPublicKey():
                key.verify(signature, data, padding.PKCS1v15(), algorithm)
            case ed25519.Ed25519PublicKey():
                key.verify(signature, data)
    except (InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _claims(candidate: Candidate) -> tuple[Claim, ...]:
    """Read what was signed; only after it was verified."""
    if candidate.bundle:
        return tuple(Claim(subject.digests, subject.name) for subject in parse_statement(candidate.payload))
    payload = parse_payload(candidate.payload, "cosign")
    return (Claim((payload.manifest_digest,), payload.docker_reference, at_second(payload.timestamp)),)


def at_second(timestamp: int | None) -> datetime | None:
    """Return a signer's time stamp as a time, None also for one beyond all calendars."""
    try:
        return None if timestamp is None else datetime.fromtimestamp(timestamp, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _der(key: PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _pem_body(pem: bytes) -> bytes:
    """Return what is inside one PEM block."""
    lines = pem.decode(errors="replace").strip().splitlines()
    if len(lines) < 3 or not lines[0].startswith("-----BEGIN ") or not lines[-1].startswith("-----END "):
        raise SignatureRejected("the log recorded no key or certificate")
    return decode_base64("".join(line.strip() for line in lines[1:-1]), "the log's key or certificate")
