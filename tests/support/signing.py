"""Signatures of every kind: made by the real gpg, skopeo and cosign, and by hand where a log or an authority
of the internet would be needed.

What is made by hand is what cosign uploads (https://github.com/sigstore/cosign/blob/main/specs), so the
real skopeo can judge it as well.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from tests.support.machine import REPOSITORY
from tests.support.registry import Registry

TOOLS = REPOSITORY / ".cache/signing/bin"
SKOPEO, COSIGN = TOOLS / "skopeo", TOOLS / "cosign"

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_OCI = "application/vnd.oci."
_ISSUER_OID = ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_ISSUER_V2_OID = ObjectIdentifier("1.3.6.1.4.1.57264.1.8")

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


async def run(*command: object, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a command; returns its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(str(word) for word in command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **(env or {})},
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode(errors="replace")


async def succeed(*command: object, env: Mapping[str, str] | None = None) -> str:
    code, output = await run(*command, env=env)
    assert code == 0, f"{command[0]} failed: {output}"
    return output


@dataclass
class Gpg:
    """A GnuPG home with keys by name; `stop` ends its agent."""

    home: Path

    async def __aenter__(self) -> Gpg:
        self.home.mkdir(mode=0o700)
        return self

    async def __aexit__(self, *_: object) -> None:
        await run("gpgconf", "--homedir", self.home, "--kill", "all")

    async def gpg(self, *arguments: object) -> str:
        return await succeed("gpg", "--homedir", self.home, "--batch", "--yes", "--quiet", *arguments)

    async def make_key(self, name: str, *, at: str = "", expires: str = "never") -> str:
        """Make a key for `<name>@example.org` and return its fingerprint."""
        when = ("--faked-system-time", at) if at else ()
        who = f"{name}@example.org"
        await self.gpg(*when, "--passphrase", "", "--quick-generate-key", who, "ed25519", "sign", expires)
        return await self.fingerprint(name)

    async def fingerprint(self, name: str) -> str:
        listed = await self.gpg("--with-colons", "--list-keys", f"{name}@example.org")
        return next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))

    async def export(self, *names: str, armor: bool = True) -> bytes:
        out = self.home / "exported"
        form = ("--armor",) if armor else ()
        await self.gpg(*form, "--output", out, "--export", *(f"{name}@example.org" for name in names))
        data = out.read_bytes()
        out.unlink()
        return data

    async def revoke(self, name: str) -> None:
        stored = self.home / f"openpgp-revocs.d/{await self.fingerprint(name)}.rev"
        usable = self.home / "revocation"
        usable.write_text(stored.read_text().replace(":-----BEGIN", "-----BEGIN"))
        await self.gpg("--import", usable)

    async def sign(self, name: str, content: bytes, *, at: str = "") -> bytes:
        source, target = self.home / "content", self.home / "signed"
        source.write_bytes(content)
        when = ("--faked-system-time", at) if at else ()
        await self.gpg(*when, "--local-user", f"{name}@example.org", "--output", target, "--sign", source)
        return target.read_bytes()


def payload(
    digest: str, reference: str, kind: str = "cosign container image signature", **optional: Any
) -> bytes:
    """Return what a simple signature signs."""
    critical = {
        "identity": {"docker-reference": reference},
        "image": {"docker-manifest-digest": digest},
        "type": kind,
    }
    return json.dumps({"critical": critical, "optional": optional}, separators=(",", ":")).encode()


def atomic_payload(digest: str, reference: str) -> bytes:
    return payload(digest, reference, "atomic container signature", creator="test", timestamp=1_700_000_000)


def new_key(kind: str = "p256") -> PrivateKey:
    match kind:
        case "p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
        case "rsa":
            return rsa.generate_private_key(65537, 2048)
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case _:
            raise ValueError(kind)


def sign(key: PrivateKey, data: bytes, algorithm: hashes.HashAlgorithm | None = None) -> bytes:
    algorithm = algorithm or hashes.SHA256()
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(algorithm))
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), algorithm)
    return key.sign(data)


def public_pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def certificate_pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


@dataclass
class Issuer:
    """An authority of certificates, a root unless it has one above it."""

    name: str = "root"
    above: Issuer | None = None
    path_length: int | None = None
    lifetime: timedelta = timedelta(days=3650)
    key: PrivateKey = field(default_factory=new_key)

    def __post_init__(self) -> None:
        self.certificate = (self.above or self).issue(
            self.key,
            self.name,
            extensions=[
                (x509.BasicConstraints(ca=True, path_length=self.path_length), True),
                (_key_usage(certs=True), True),
            ],
            start=datetime.now(UTC) - timedelta(days=30),
            lifetime=self.lifetime,
        )

    def issue(
        self,
        key: PrivateKey,
        name: str,
        *,
        extensions: Sequence[tuple[x509.ExtensionType, bool]],
        start: datetime,
        lifetime: timedelta,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + lifetime)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        algorithm = None if isinstance(self.key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        return builder.sign(self.key, algorithm)

    def signer(
        self,
        key: PrivateKey,
        *,
        email: str = "",
        host: str = "",
        oidc_issuer: str = "",
        issuer_v2: str = "",
        at: datetime | None = None,
        lifetime: timedelta = timedelta(minutes=10),
        usage: ObjectIdentifier = ExtendedKeyUsageOID.CODE_SIGNING,
        more: Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> x509.Certificate:
        """Issue a signer's certificate as Fulcio does, valid around `at`."""
        names: list[x509.GeneralName] = []
        if email:
            names.append(x509.RFC822Name(email))
        if host:
            names.append(x509.DNSName(host))
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (_key_usage(certs=False), True),
            (x509.ExtendedKeyUsage([usage]), False),
            (x509.SubjectAlternativeName(names), True),
            *more,
        ]
        if oidc_issuer:
            extensions.append((x509.UnrecognizedExtension(_ISSUER_OID, oidc_issuer.encode()), False))
        if issuer_v2:
            der = b"\x0c" + bytes([len(issuer_v2)]) + issuer_v2.encode()
            extensions.append((x509.UnrecognizedExtension(_ISSUER_V2_OID, der), False))
        start = (at or datetime.now(UTC)) - timedelta(minutes=5)
        return self.issue(key, "signer", extensions=extensions, start=start, lifetime=lifetime)


def _key_usage(*, certs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certs,
        crl_sign=certs,
        encipher_only=False,
        decipher_only=False,
    )


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def hashed_record(signed: bytes, signature: bytes, verifier: bytes) -> bytes:
    """Return what a log records of a simple signature; `verifier` is PEM."""
    return json.dumps(
        {
            "apiVersion": "0.0.1",
            "kind": "hashedrekord",
            "spec": {
                "data": {"hash": {"algorithm": "sha256", "value": hashlib.sha256(signed).hexdigest()}},
                "signature": {"content": _b64(signature), "publicKey": {"content": _b64(verifier)}},
            },
        }
    ).encode()


def dsse_record(content: bytes, signature: bytes, verifier: bytes) -> bytes:
    """Return what a log records of a bundle's envelope."""
    return json.dumps(
        {
            "apiVersion": "0.0.1",
            "kind": "dsse",
            "spec": {
                "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(content).hexdigest()},
                "signatures": [{"signature": _b64(signature), "verifier": _b64(verifier)}],
            },
        }
    ).encode()


@dataclass
class Log:
    """A Rekor log that promises whatever it is asked to."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def entry(self, body: bytes, at: datetime) -> dict[str, Any]:
        """Return the four members the log signs."""
        identity = hashlib.sha256(
            self.key.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        ).hexdigest()
        return {"body": _b64(body), "integratedTime": int(at.timestamp()), "logID": identity, "logIndex": 7}

    def promise(self, entry: Mapping[str, Any]) -> bytes:
        return sign(self.key, json.dumps(entry, sort_keys=True, separators=(",", ":")).encode())

    def annotation(self, body: bytes, at: datetime) -> str:
        """Return the log entry as cosign puts it beside a simple signature."""
        entry = self.entry(body, at)
        return json.dumps({"SignedEntryTimestamp": _b64(self.promise(entry)), "Payload": entry})

    def bundled(self, body: bytes, at: datetime) -> dict[str, Any]:
        """Return the log entry as a bundle holds it."""
        entry = self.entry(body, at)
        return {
            "logIndex": str(entry["logIndex"]),
            "logId": {"keyId": _b64(bytes.fromhex(entry["logID"]))},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(entry["integratedTime"]),
            "inclusionPromise": {"signedEntryTimestamp": _b64(self.promise(entry))},
            "canonicalizedBody": entry["body"],
        }


@dataclass(frozen=True)
class Signed:
    """A simple signature with the annotations cosign gives its layer."""

    content: bytes
    annotations: dict[str, str]


def simple(
    content: bytes,
    key: PrivateKey,
    *,
    certificate: x509.Certificate | None = None,
    chain: Sequence[x509.Certificate] = (),
    log: Log | None = None,
    at: datetime | None = None,
) -> Signed:
    """Sign as cosign does in its first form."""
    signature = sign(key, content)
    notes = {"dev.cosignproject.cosign/signature": _b64(signature)}
    verifier = public_pem(key)
    if certificate:
        verifier = certificate_pem(certificate)
        notes["dev.sigstore.cosign/certificate"] = verifier.decode()
    if chain:
        notes["dev.sigstore.cosign/chain"] = certificate_pem(*chain).decode()
    if log:
        record = hashed_record(content, signature, verifier)
        notes["dev.sigstore.cosign/bundle"] = log.annotation(record, at or datetime.now(UTC))
    return Signed(content, notes)


def statement(digest: str, name: str = "", predicate: str = "https://sigstore.dev/cosign/sign/v1") -> bytes:
    algorithm, _, value = digest.partition(":")
    subject: dict[str, Any] = {"digest": {algorithm: value}, "annotations": {}}
    if name:
        subject["annotations"] = {"docker-reference": name}
    document = {"_type": "https://in-toto.io/Statement/v1", "subject": [subject], "predicateType": predicate}
    return json.dumps(document | {"predicate": {}}).encode()


def bundle(
    content: bytes,
    key: PrivateKey,
    *,
    certificate: x509.Certificate | None = None,
    log: Log | None = None,
    at: datetime | None = None,
) -> bytes:
    """Sign a statement as cosign does in its second form."""
    kind = "application/vnd.in-toto+json"
    encoded = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(content), content)
    algorithm = hashes.SHA384() if getattr(getattr(key, "curve", None), "name", "") == "secp384r1" else None
    signature = sign(key, encoded, algorithm)
    material: dict[str, Any] = {"publicKey": {"hint": "none"}}
    verifier = public_pem(key)
    if certificate:
        verifier = certificate_pem(certificate)
        material = {"certificate": {"rawBytes": _b64(certificate.public_bytes(serialization.Encoding.DER))}}
    if log:
        record = dsse_record(content, signature, verifier)
        material["tlogEntries"] = [log.bundled(record, at or datetime.now(UTC))]
    document = {
        "mediaType": BUNDLE,
        "verificationMaterial": material,
        "dsseEnvelope": {
            "payload": _b64(content),
            "payloadType": kind,
            "signatures": [{"sig": _b64(signature)}],
        },
    }
    return json.dumps(document).encode()


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


async def attach(registry: Registry, repository: str, digest: str, *signatures: Signed) -> None:
    """Push simple signatures where cosign does: under a tag made of the image's digest."""
    config = b"{}"
    layers = []
    for signature in signatures:
        described = _descriptor(SIMPLE_SIGNING, signature.content)
        await registry.push_blob(repository, described["digest"], signature.content)
        layers.append(described | {"annotations": signature.annotations})
    described = _descriptor(f"{_OCI}image.config.v1+json", config)
    await registry.push_blob(repository, described["digest"], config)
    tag = digest.replace(":", "-") + ".sig"
    await registry.push_manifest(
        repository, tag, _manifest(described, layers), f"{_OCI}image.manifest.v1+json"
    )


async def refer(registry: Registry, repository: str, digest: str, *bundles: bytes) -> None:
    """Push bundles as referrers of an image, with the index under a tag that old registries need."""
    entries = []
    for content in bundles:
        described = _descriptor(BUNDLE, content)
        await registry.push_blob(repository, described["digest"], content)
        empty = _descriptor(f"{_OCI}empty.v1+json", b"{}")
        await registry.push_blob(repository, empty["digest"], b"{}")
        manifest = _manifest(
            empty,
            [described],
            artifactType=BUNDLE,
            subject={"mediaType": f"{_OCI}image.manifest.v1+json", "digest": digest, "size": 1},
        )
        entry = _descriptor(f"{_OCI}image.manifest.v1+json", manifest)
        await registry.push_manifest(repository, entry["digest"], manifest, entry["mediaType"])
        entries.append(entry | {"artifactType": BUNDLE})
    index = {"schemaVersion": 2, "mediaType": f"{_OCI}image.index.v1+json", "manifests": entries}
    tag = digest.replace(":", "-")
    await registry.push_manifest(repository, tag, json.dumps(index).encode(), f"{_OCI}image.index.v1+json")


def _manifest(config: Mapping[str, Any], layers: Sequence[Mapping[str, Any]], **more: Any) -> bytes:
    document = {"schemaVersion": 2, "mediaType": f"{_OCI}image.manifest.v1+json", "config": config}
    return json.dumps(document | {"layers": list(layers)} | more).encode()
