"""Sigstore bundles, what a log promises in them, and the statement they sign.

A bundle joins a signature with what is needed to judge it: certificate, log entry. It is parsed before
anything in it was verified, so only what is used is taken, and each piece in one form. The log's promise
is a signature over the canonical form (RFC 8785) of four members.

https://github.com/sigstore/protobuf-specs/blob/main/protos/sigstore_bundle.proto,
https://github.com/secure-systems-lab/dsse/blob/master/protocol.md,
https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any

from bootcd.model.errors import SignatureRejected
from bootcd.oci.strictjson import parse_object
from bootcd.oci.trust.attachment import BUNDLE, MAX_ATTACHMENT_BYTES

COSIGN_SIGN = "https://sigstore.dev/cosign/sign/v1"
"Predicate of a statement that means `this image is signed`; others attest something about an image."
REFERENCE_ANNOTATION = "docker-reference"
"Signed annotation that names the image, as simple signing calls it: `cosign sign -a docker-reference=...`."

_IN_TOTO = "application/vnd.in-toto+json"
_STATEMENTS = ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1")
_BUNDLE_TYPES = (BUNDLE, "application/vnd.dev.sigstore.bundle+json;version=0.3")
_MAX_SAFE_INTEGER = 2**53 - 1
_HEX = re.compile(r"[0-9a-f]{1,128}")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An entry of a Rekor log with the log's signature over it."""

    body: bytes
    integrated_time: int
    log_index: int
    log_id: str
    "Hexadecimal."
    promise: bytes

    @property
    def signed(self) -> bytes:
        """The bytes the log has signed."""
        members = {
            "body": base64.b64encode(self.body).decode(),
            "integratedTime": self.integrated_time,
            "logID": self.log_id,
            "logIndex": self.log_index,
        }
        # Ascii texts and small whole numbers: sorted and without blanks, this is the canonical form.
        return json.dumps(members, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Bundle:
    """A signed in-toto statement with what came along."""

    payload: bytes
    signature: bytes
    certificates: tuple[bytes, ...] = ()
    "DER, the signer's first; empty where the signer has a key of his own."
    log_entry: LogEntry | None = None

    @property
    def signed(self) -> bytes:
        """The bytes the signer has signed: DSSE's encoding of type and payload."""
        kind = _IN_TOTO.encode()
        return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(self.payload), self.payload)


@dataclass(frozen=True, slots=True)
class Subject:
    digests: tuple[str, ...]
    name: str
    "The image the signer names, empty if he names none."


@dataclass(frozen=True, slots=True)
class LoggedSignature:
    """What a log entry is about."""

    signature: bytes
    verifier: bytes
    "PEM of the public key or certificate."
    sha256: str
    "Of what was signed: hashedrekord: the payload; dsse: the payload inside the envelope."


def parse_bundle(data: bytes) -> Bundle:
    """Parse a bundle whose content is a signed statement. Raises SignatureRejected."""
    document = _object(data, "the bundle")
    if document.get("mediaType") not in _BUNDLE_TYPES:
        raise SignatureRejected("the bundle is not of version 0.3")
    envelope = document.get("dsseEnvelope")
    if not isinstance(envelope, dict) or envelope.get("payloadType") != _IN_TOTO:
        raise SignatureRejected("the bundle holds no signed statement")
    signatures = envelope.get("signatures")
    if not isinstance(signatures, list) or len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise SignatureRejected("the bundle does not hold exactly one signature")
    material = document.get("verificationMaterial")
    if not isinstance(material, dict):
        raise SignatureRejected("the bundle has no verification material")
    return Bundle(
        payload=_bytes(envelope.get("payload"), "the payload of the bundle"),
        signature=_bytes(signatures[0].get("sig"), "the signature of the bundle"),
        certificates=_certificates(material),
        log_entry=_bundled_entry(material.get("tlogEntries")),
    )


def _certificates(material: dict[str, Any]) -> tuple[bytes, ...]:
    listed: Any
    if "certificate" in material:
        listed = [material["certificate"]]
    elif "x509CertificateChain" in material:
        chain = material["x509CertificateChain"]
        listed = chain.get("certificates") if isinstance(chain, dict) else None
    else:
        return ()
    if not isinstance(listed, list) or not 0 < len(listed) <= 8:
        raise SignatureRejected("the certificates of the bundle are no list of a few")
    return tuple(
        _bytes(entry.get("rawBytes") if isinstance(entry, dict) else None, "a certificate of the bundle")
        for entry in listed
    )


def _bundled_entry(entries: Any) -> LogEntry | None:
    if entries is None or entries == []:
        return None
    if not isinstance(entries, list) or len(entries) != 1:
        raise SignatureRejected("the log entries of the bundle are no list of one")
    entry = _dict(entries[0], "the log entry of the bundle")
    promise = entry.get("inclusionPromise")
    if not isinstance(promise, dict):
        # A log of the second generation promises nothing; its proof needs more keys than a policy names.
        return None
    log_id = entry.get("logId")
    return LogEntry(
        body=_bytes(entry.get("canonicalizedBody"), "the log entry of the bundle"),
        integrated_time=_integer(entry.get("integratedTime"), "the log's time"),
        log_index=_integer(entry.get("logIndex"), "the log's index"),
        log_id=_bytes(log_id.get("keyId") if isinstance(log_id, dict) else None, "the log's id").hex(),
        promise=_bytes(promise.get("signedEntryTimestamp"), "the log's promise"),
    )


def parse_log_annotation(data: bytes) -> LogEntry:
    """Parse the log entry cosign puts beside a simple signature. Raises SignatureRejected."""
    what = "the log entry of the signature"
    document = _object(data, what)
    _exactly(document, what, "SignedEntryTimestamp", "Payload")
    payload = document["Payload"]
    _exactly(payload, what, "body", "integratedTime", "logIndex", "logID")
    log_id = payload["logID"]
    if not isinstance(log_id, str) or not _HEX.fullmatch(log_id):
        raise SignatureRejected(f"{what} names no log")
    for name in ("integratedTime", "logIndex"):
        if type(payload[name]) is not int:
            raise SignatureRejected(f"{name} of {what} is no whole number")
    return LogEntry(
        body=_bytes(payload["body"], what),
        integrated_time=_integer(payload["integratedTime"], what),
        log_index=_integer(payload["logIndex"], what),
        log_id=log_id,
        promise=_bytes(document["SignedEntryTimestamp"], what),
    )


def parse_log_body(body: bytes) -> LoggedSignature:
    """Parse what a log recorded: an entry of kind hashedrekord or dsse, version 0.0.1."""
    what = "the record of the log"
    document = _object(body, what)
    spec = document.get("spec")
    if document.get("apiVersion") != "0.0.1" or not isinstance(spec, dict):
        raise SignatureRejected(f"{what} is of an unknown version")
    match document.get("kind"):
        case "hashedrekord":
            signature = _dict(spec.get("signature"), what)
            return LoggedSignature(
                signature=_bytes(signature.get("content"), what),
                verifier=_bytes(_dict(signature.get("publicKey"), what).get("content"), what),
                sha256=_sha256(_dict(_dict(spec.get("data"), what).get("hash"), what), what),
            )
        case "dsse":
            signatures = spec.get("signatures")
            if not isinstance(signatures, list) or len(signatures) != 1:
                raise SignatureRejected(f"{what} does not hold exactly one signature")
            signature = _dict(signatures[0], what)
            return LoggedSignature(
                signature=_bytes(signature.get("signature"), what),
                verifier=_bytes(signature.get("verifier"), what),
                sha256=_sha256(_dict(spec.get("payloadHash"), what), what),
            )
        case _:
            raise SignatureRejected(f"{what} is of an unknown kind")


def _sha256(node: dict[str, Any], what: str) -> str:
    value = node.get("value")
    if node.get("algorithm") != "sha256" or not isinstance(value, str) or len(value) != 64:
        raise SignatureRejected(f"{what} has no SHA-256 digest")
    return value.lower()


def parse_statement(payload: bytes) -> list[Subject]:
    """Return the subjects of a statement that says an image is signed. Raises SignatureRejected."""
    what = "the signed statement"
    document = _object(payload, what)
    if document.get("_type") not in _STATEMENTS:
        raise SignatureRejected(f"{what} is not one of in-toto")
    if document.get("predicateType") != COSIGN_SIGN:
        raise SignatureRejected(f"{what} attests something else than that the image is signed")
    subjects = document.get("subject")
    if not isinstance(subjects, list) or not 0 < len(subjects) <= 64:
        raise SignatureRejected(f"{what} is about nothing")
    return [_subject(_dict(subject, what), what) for subject in subjects]


def _subject(node: dict[str, Any], what: str) -> Subject:
    digests = _dict(node.get("digest"), what)
    annotations = _dict(node.get("annotations") or {}, what)
    name = annotations.get(REFERENCE_ANNOTATION) or node.get("name") or ""
    if not isinstance(name, str) or not all(isinstance(value, str) for value in digests.values()):
        raise SignatureRejected(f"{what} has a subject that is malformed")
    return Subject(tuple(f"{algorithm}:{value}" for algorithm, value in digests.items()), name)


def _object(data: bytes, what: str) -> dict[str, Any]:
    return parse_object(data, what=what, limit_bytes=MAX_ATTACHMENT_BYTES, error=SignatureRejected)


def _dict(node: Any, what: str) -> dict[str, Any]:
    if not isinstance(node, dict):
        raise SignatureRejected(f"{what} lacks a member")
    return node


def _exactly(node: Any, what: str, *names: str) -> None:
    if not isinstance(node, dict) or node.keys() != set(names):
        raise SignatureRejected(f"{what} lacks one of {', '.join(names)}, or has something beside it")


def _bytes(value: Any, what: str) -> bytes:
    return decode_base64(value if isinstance(value, str) else "", what)


def decode_base64(text: str, what: str) -> bytes:
    """Decode base64 that is not empty. Raises SignatureRejected."""
    try:
        if text and _BASE64.fullmatch(text):
            return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise SignatureRejected(f"{what} is not base64")


def _integer(value: Any, what: str) -> int:
    # The JSON form of protocol buffers writes 64-bit integers as text.
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,16}", value):
        value = int(value)
    if type(value) is not int or not 0 <= value <= _MAX_SAFE_INTEGER:
        raise SignatureRejected(f"{what} is no whole number")
    return value
