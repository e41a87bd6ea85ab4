"""Certificates no authority would issue, which anybody may attach to an image."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from bootcd.model.errors import SignatureRejected
from bootcd.oci.trust.attachment import SIMPLE_SIGNING, Attachment
from bootcd.oci.trust.policy import Keys, Pki
from bootcd.signatures.certificate import load_der
from bootcd.signatures.sigstore import read_candidate, verify_by_pki
from tests.support.signing import Issuer, new_key, payload, simple

HOST = "build.example.org"


def certificate(authority: Issuer) -> bytes:
    signer = authority.signer(new_key(), host=HOST)
    return signer.public_bytes(serialization.Encoding.DER)


def test_certificate_of_an_unknown_version_is_refused() -> None:
    der = certificate(Issuer())
    version_3 = bytes.fromhex("a003020102")
    assert der.count(version_3) == 1

    with pytest.raises(SignatureRejected, match="cannot be read"):
        load_der(der.replace(version_3, bytes.fromhex("a003020107")))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # Key usage becomes a second extended key usage.
        (bytes.fromhex("0603551d0f"), bytes.fromhex("0603551d25")),
        # A DNS name becomes an X.400 address, which the library knows and does not read.
        (b"\x82" + bytes([len(HOST)]) + HOST.encode(), b"\xa3" + bytes([len(HOST)]) + HOST.encode()),
        # ECDSA with SHA-256 becomes an algorithm nobody knows.
        (bytes.fromhex("06082a8648ce3d040302"), bytes.fromhex("06082a8648ce3d04037f")),
    ],
)
def test_certificate_with_parts_that_cannot_be_read_is_refused(old: bytes, new: bytes) -> None:
    authority = Issuer()
    der = certificate(authority)
    assert old in der
    damaged = x509.load_der_x509_certificate(der.replace(old, new))
    signed = simple(payload("sha256:" + "a" * 64, "quay.io/x:1"), new_key(), certificate=damaged)
    candidate = read_candidate(Attachment(SIMPLE_SIGNING, signed.content, signed.annotations))

    with pytest.raises(SignatureRejected):
        verify_by_pki(
            candidate,
            Pki(Keys(data=(b"",)), subject_hostname=HOST),
            [authority.certificate],
            [],
            datetime.now(UTC),
        )
