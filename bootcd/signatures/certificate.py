"""Certificates of signers: a path to an authority the policy names, and whom the certificate names.

Not the verifier of web servers: a signer is an e-mail address, a workflow or a host, the certificate is
for signing code, and the time that counts is when the signature was made.
Path rules: RFC 5280 §6, as far as such certificates use it; what is critical and not known here is refused.
Fulcio's extensions: https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from ipaddress import ip_address
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, ObjectIdentifier

from bootcd.model.errors import SignatureRejected
from bootcd.oci.trust.policy import Fulcio, Pki

_E = TypeVar("_E", bound=x509.ExtensionType)

_MAX_PATH = 6
_MAX_TRIED = 64
_ISSUER = ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_ISSUER_V2 = ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_BUILD_SIGNER_URI = ObjectIdentifier("1.3.6.1.4.1.57264.1.9")
_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
)
_WEAK = (hashes.MD5, hashes.SHA1)
_TEXT_TAGS = (0x0C, 0x13, 0x16)
_UNREADABLE = (
    *(ValueError, TypeError, UnsupportedAlgorithm),
    *(x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
)


@contextmanager
def reading_certificates() -> Iterator[None]:
    """Reject what the library cannot read; parts of a certificate are parsed only when they are asked for."""
    try:
        yield
    except _UNREADABLE:
        raise SignatureRejected("a certificate cannot be read") from None


def load_certificates(pem: bytes) -> list[x509.Certificate]:
    """Load the certificates of a PEM text. Raises SignatureRejected if there is none, or a damaged one."""
    with reading_certificates():
        return x509.load_pem_x509_certificates(pem)


def load_der(data: bytes) -> x509.Certificate:
    with reading_certificates():
        return x509.load_der_x509_certificate(data)


def verify_path(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    at: datetime,
) -> None:
    """Find a path from a code signer's certificate to one of `roots`, all of it valid `at` that time.

    Raises SignatureRejected.
    """
    _check(leaf, at)
    tried = 0

    def reach(certificate: x509.Certificate, path: tuple[x509.Certificate, ...]) -> bool:
        nonlocal tried
        for issuer, trusted in [(root, True) for root in roots] + [(other, False) for other in intermediates]:
            tried += 1
            if tried > _MAX_TRIED:
                return False
            if issuer.subject != certificate.issuer or issuer in path or not _issued(certificate, issuer):
                continue
            try:
                _check(issuer, at, below=len(path))
            except SignatureRejected:
                continue
            if trusted or (len(path) < _MAX_PATH and reach(issuer, (*path, issuer))):
                return True
        return False

    if not reach(leaf, ()):
        raise SignatureRejected("the signer's certificate is of no authority the policy names")


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    if isinstance(certificate.signature_hash_algorithm, _WEAK):
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _check(certificate: x509.Certificate, at: datetime, below: int | None = None) -> None:
    """Check one certificate of a path; `below` counts the authorities under it, None for the signer's own."""
    if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
        raise SignatureRejected("the signer's certificate was not valid when it signed")
    try:
        extensions = certificate.extensions
    except ValueError:
        raise SignatureRejected("a certificate has extensions that cannot be read") from None
    for extension in extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise SignatureRejected("a certificate has a critical extension that is not known here")
    usage = _extension(extensions, x509.ExtendedKeyUsage)
    if usage is not None and not {
        ExtendedKeyUsageOID.CODE_SIGNING,
        ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    } & set(usage):
        raise SignatureRejected("the signer's certificate is not for signing code")
    if below is None:
        return
    constraints = _extension(extensions, x509.BasicConstraints)
    key_usage = _extension(extensions, x509.KeyUsage)
    if constraints is None or not constraints.ca:
        raise SignatureRejected("a certificate of the path is of no authority")
    if constraints.path_length is not None and below > constraints.path_length:
        raise SignatureRejected("an authority of the path may not have so many below it")
    if key_usage is not None and not key_usage.key_cert_sign:
        raise SignatureRejected("a certificate of the path may not sign others")


def _extension(extensions: x509.Extensions, kind: type[_E]) -> _E | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def check_fulcio(certificate: x509.Certificate, wanted: Fulcio) -> str:
    """Check whom a certificate of Fulcio names and return that. Raises SignatureRejected."""
    issuer = _fulcio_issuer(certificate)
    if issuer != wanted.oidc_issuer:
        raise SignatureRejected(f"its signer logged in at {issuer!r}, not where the policy says")
    if wanted.subject_email:
        _check_email(certificate, wanted.subject_email)
    if wanted.build_signer_uri:
        uri = _text_extension(certificate, _BUILD_SIGNER_URI)
        if uri != wanted.build_signer_uri:
            raise SignatureRejected(f"its signer is the workflow {uri!r}, not the one of the policy")
    return " ".join(filter(None, (wanted.subject_email, wanted.build_signer_uri)))


def check_pki(certificate: x509.Certificate, wanted: Pki) -> str:
    """Check whom a certificate of somebody's own authority names and return that."""
    if wanted.subject_email:
        _check_email(certificate, wanted.subject_email)
    if wanted.subject_hostname and not _names_host(certificate, wanted.subject_hostname):
        raise SignatureRejected("its signer's certificate is not for the host of the policy")
    return " ".join(filter(None, (wanted.subject_email, wanted.subject_hostname)))


def _fulcio_issuer(certificate: x509.Certificate) -> str:
    first, second = _raw_extension(certificate, _ISSUER), _text_extension(certificate, _ISSUER_V2)
    old = None if first is None else first.decode(errors="replace")
    if old is not None and second is not None and old != second:
        raise SignatureRejected("its certificate names two places its signer logged in at")
    issuer = old if old is not None else second
    if issuer is None:
        raise SignatureRejected("its certificate does not say where its signer logged in")
    return issuer


def _raw_extension(certificate: x509.Certificate, oid: ObjectIdentifier) -> bytes | None:
    for extension in certificate.extensions:
        if extension.oid == oid and isinstance(extension.value, x509.UnrecognizedExtension):
            return extension.value.value
    return None


def _text_extension(certificate: x509.Certificate, oid: ObjectIdentifier) -> str | None:
    """Read an extension that is one DER text."""
    data = _raw_extension(certificate, oid)
    if data is None:
        return None
    size, start = (data[1], 2) if len(data) > 1 else (-1, 2)
    if size in (0x81, 0x82):
        start = 2 + (size & 0x7F)
        size = int.from_bytes(data[2:start], "big")
    if not data or data[0] not in _TEXT_TAGS or len(data) != start + size:
        raise SignatureRejected("an extension of its certificate is no text")
    return data[start:].decode(errors="replace")


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    return _extension(certificate.extensions, x509.SubjectAlternativeName)


def _check_email(certificate: x509.Certificate, email: str) -> None:
    names = _alternative_names(certificate)
    if names is None or email not in names.get_values_for_type(x509.RFC822Name):
        raise SignatureRejected(f"its signer's certificate is not of {email}")


def _names_host(certificate: x509.Certificate, host: str) -> bool:
    names = _alternative_names(certificate)
    if names is None:
        return False
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        wanted = host.lower().rstrip(".")
        return any(_fits(name.lower(), wanted) for name in names.get_values_for_type(x509.DNSName))
    return address in names.get_values_for_type(x509.IPAddress)


def _fits(pattern: str, host: str) -> bool:
    """Compare as RFC 6125 does: a `*` is a whole first label."""
    first, dot, rest = pattern.partition(".")
    if first == "*" and dot:
        label, _, parent = host.partition(".")
        return bool(label) and parent == rest
    return pattern == host
