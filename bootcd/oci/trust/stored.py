"""Signatures kept as files, beside a `dir:` image or in a lookaside place: OpenPGP, or others with a header.

A file of neither form refuses the image, as with podman: it may be a signature of a form to come.
Format: github.com/containers/image, internal/signature/signature.go
"""

from __future__ import annotations

from bootcd.model.errors import SignatureRejected
from bootcd.oci.strictjson import parse_object
from bootcd.oci.trust.attachment import MAX_ATTACHMENT_BYTES, Attachment
from bootcd.oci.trust.bundle import decode_base64

_OPENPGP = frozenset(
    b"\xa0\xa1\xa2\xa3\xc8"  # compressed data
    b"\x90\x91\x92\x3d\xc4"  # a one-pass signature
    b"\x88\x89\x8a\x8b\xc2"  # a signature
)
_FORMS = (b"simple-signing", b"sigstore-json")


def parse_stored(blob: bytes) -> bytes | Attachment:
    """Return an OpenPGP message, or what would be attached in a registry. Raises SignatureRejected."""
    if blob[:1] and blob[0] in _OPENPGP:
        return blob
    form, newline, content = blob[1:].partition(b"\n")
    if blob[:1] != b"\0" or not newline or form not in _FORMS:
        raise SignatureRejected("a file where signatures are kept is of an unknown form")
    if form == b"simple-signing":
        return content
    what = "a sigstore signature kept as a file"
    document = parse_object(content, what=what, limit_bytes=2 * MAX_ATTACHMENT_BYTES, error=SignatureRejected)
    media_type, payload = document.get("mimeType"), document.get("payload")
    annotations = document.get("annotations") or {}
    if (
        not isinstance(media_type, str)
        or not isinstance(payload, str)
        or not isinstance(annotations, dict)
        or not all(isinstance(value, str) for value in annotations.values())
    ):
        raise SignatureRejected(f"{what} lacks a member")
    return Attachment(media_type, decode_base64(payload, what), annotations)
