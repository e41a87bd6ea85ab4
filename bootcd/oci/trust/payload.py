"""What a simple signature says: the digest of a manifest and the name it was signed under.

Both kinds of signature carry this JSON, one inside an OpenPGP message, the other beside a sigstore
signature; they differ in one word. It is parsed only once its signature was verified, and strictly all the
same: a document two programs read differently is no statement.
Format: containers-signature(5), https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

from bootcd.model.errors import SignatureRejected
from bootcd.oci.reference import is_digest
from bootcd.oci.strictjson import parse_object

MAX_PAYLOAD_BYTES = 64 << 10

Kind = Literal["atomic", "cosign"]
_TYPES: Final[dict[Kind, str]] = {
    "atomic": "atomic container signature",
    "cosign": "cosign container image signature",
}
_MAX_TIMESTAMP = 1 << 62


@dataclass(frozen=True, slots=True)
class Payload:
    manifest_digest: str
    docker_reference: str
    "The name that was signed, as written; nobody has checked its form."
    creator: str | None = None
    timestamp: int | None = None
    "Seconds since 1970, the signer's word."


def parse_payload(data: bytes, kind: Kind) -> Payload:
    """Parse what a signature says. Raises SignatureRejected."""
    document = parse_object(
        data, what="the content of the signature", limit_bytes=MAX_PAYLOAD_BYTES, error=SignatureRejected
    )
    top = _exactly(document, "critical", "optional")
    optional = top["optional"]
    if optional is None and kind == "cosign":
        optional = {}
    if not isinstance(optional, dict):
        raise SignatureRejected("member optional of the signature is no object")
    critical = _exactly(top["critical"], "type", "image", "identity")
    if critical["type"] != _TYPES[kind]:
        raise SignatureRejected(f"the signature is not of the type {_TYPES[kind]!r}")
    digest = _exactly(critical["image"], "docker-manifest-digest")["docker-manifest-digest"]
    reference = _exactly(critical["identity"], "docker-reference")["docker-reference"]
    if not isinstance(digest, str) or not is_digest(digest):
        raise SignatureRejected("the signature names no digest of a manifest")
    if not isinstance(reference, str):
        raise SignatureRejected("the signature names no image")
    return Payload(digest, reference, _creator(optional), _timestamp(optional))


def _creator(optional: dict[str, Any]) -> str | None:
    creator = optional.get("creator")
    if creator is not None and not isinstance(creator, str):
        raise SignatureRejected("the creator of the signature is no text")
    return creator


def _timestamp(optional: dict[str, Any]) -> int | None:
    value = optional.get("timestamp")
    if value is None:
        return None
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not math.isfinite(value)
        or value != int(value)
        or abs(value) >= _MAX_TIMESTAMP
    ):
        raise SignatureRejected("the time of the signature is no whole number")
    return int(value)


def _exactly(node: Any, *names: str) -> dict[str, Any]:
    if not isinstance(node, dict) or node.keys() != set(names):
        raise SignatureRejected(f"the signature lacks one of {', '.join(names)}, or has something beside it")
    return node
