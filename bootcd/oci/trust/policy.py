"""containers-policy.json(5): what each scope requires of an image.

The file is the one podman, skopeo and bootc read, so it is read as strictly as they do: a member of a
name nobody knows may have been meant to forbid, and one of them makes the whole policy invalid.
Behaviour where the manual is silent: github.com/containers/image, signature/policy_config*.go.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bootcd.model.errors import InvalidConfig
from bootcd.oci.strictjson import parse_object
from bootcd.oci.trust.identity import KINDS, MATCH_REPO_DIGEST_OR_EXACT, SignedIdentity, operands_problem
from bootcd.oci.trust.scopes import is_scope

MAX_POLICY_BYTES = 1 << 20
_GPG_KEYS = "GPGKeys"
_KEY_TYPES = frozenset({_GPG_KEYS, "signedByGPGKeys", "X509Certificates", "signedByX509CAs"})


@dataclass(frozen=True, slots=True)
class Keys:
    """Where key material is: files, or the data itself; never both."""

    paths: tuple[str, ...] = ()
    data: tuple[bytes, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.paths or self.data)


@dataclass(frozen=True, slots=True)
class AcceptAnything:
    type: Literal["insecureAcceptAnything"] = "insecureAcceptAnything"


@dataclass(frozen=True, slots=True)
class Reject:
    type: Literal["reject"] = "reject"


@dataclass(frozen=True, slots=True)
class SignedBaseLayer:
    """Known to the format, and never met by any image: nobody has built it."""

    type: Literal["signedBaseLayer"] = "signedBaseLayer"


@dataclass(frozen=True, slots=True)
class SignedBy:
    """A simple signature by one of these OpenPGP keys."""

    keys: Keys
    identity: SignedIdentity = MATCH_REPO_DIGEST_OR_EXACT
    key_type: str = _GPG_KEYS
    type: Literal["signedBy"] = "signedBy"

    @property
    def supported(self) -> bool:
        """Whether the keys are of the one type anybody has built."""
        return self.key_type == _GPG_KEYS


@dataclass(frozen=True, slots=True)
class Fulcio:
    """A certificate of a Fulcio authority: who logged in where, or which workflow ran."""

    ca: Keys
    oidc_issuer: str
    subject_email: str = ""
    build_signer_uri: str = ""


@dataclass(frozen=True, slots=True)
class Pki:
    """A certificate of somebody's own authority."""

    roots: Keys
    intermediates: Keys = Keys()
    subject_email: str = ""
    subject_hostname: str = ""


@dataclass(frozen=True, slots=True)
class SigstoreSigned:
    """A sigstore signature by one of these keys, or by a certificate. `signer` is exactly one of three."""

    signer: Keys | Fulcio | Pki
    rekor: Keys = Keys()
    "Keys of the log that must have seen the signature; none: no log is asked for."
    identity: SignedIdentity = MATCH_REPO_DIGEST_OR_EXACT
    type: Literal["sigstoreSigned"] = "sigstoreSigned"


Requirement = AcceptAnything | Reject | SignedBaseLayer | SignedBy | SigstoreSigned


@dataclass(frozen=True, slots=True)
class Matched:
    """What counts for one image."""

    scope: str
    "As a person finds it in the file: transport and scope, or `default`."
    requirements: tuple[Requirement, ...]

    @property
    def verifies(self) -> bool:
        """Whether no image passes without somebody's signature."""
        return any(
            isinstance(r, SignedBy | SigstoreSigned | SignedBaseLayer | Reject) for r in self.requirements
        )


@dataclass(frozen=True, slots=True)
class Policy:
    default: tuple[Requirement, ...]
    transports: Mapping[str, Mapping[str, tuple[Requirement, ...]]]

    def match(self, transport: str, scopes: Sequence[str]) -> Matched:
        """Return the requirements of the first of `scopes`, else of the transport, else the default."""
        known = self.transports.get(transport, {})
        for scope in scopes:
            if scope in known:
                return Matched(f"{transport} {scope}", known[scope])
        if "" in known:
            return Matched(transport, known[""])
        return Matched("default", self.default)


def parse_policy(data: bytes, path: str) -> Policy:
    """Parse a policy file; `path` is its name for people. Raises InvalidConfig for anything unknown."""
    try:
        document = parse_object(data, what="the file", limit_bytes=MAX_POLICY_BYTES, error=InvalidConfig)
        members = _members(document, "the policy", {"default", "transports"})
        if "default" not in members:
            raise _invalid("it has no default")
        transports = {
            transport: {
                scope: _requirements(listed, _scope_name(transport, scope))
                for scope, listed in _object(scopes, f"transport {transport!r}").items()
            }
            for transport, scopes in _object(members.get("transports", {}), "transports").items()
        }
        return Policy(_requirements(members["default"], "default"), transports)
    except InvalidConfig as error:
        raise InvalidConfig(
            f"the signature policy {path} is malformed: {error.message}",
            hint="see containers-policy.json(5); no image is let in until it is corrected",
            path=path,
        ) from None


def _scope_name(transport: str, scope: str) -> str:
    if not is_scope(transport, scope):
        raise _invalid(f"transport {transport!r} has no scopes like {scope!r}")
    return f"scope {scope!r} of {transport}"


def _requirements(node: Any, where: str) -> tuple[Requirement, ...]:
    if not isinstance(node, list) or not node:
        raise _invalid(f"{where} has no list of requirements")
    return tuple(_requirement(entry, where) for entry in node)


def _requirement(node: Any, where: str) -> Requirement:
    kind = _object(node, f"a requirement of {where}").get("type")
    where = f"requirement {kind!r} of {where}"
    match kind:
        case "insecureAcceptAnything":
            _members(node, where, {"type"})
            return AcceptAnything()
        case "reject":
            _members(node, where, {"type"})
            return Reject()
        case "signedBaseLayer":
            members = _members(node, where, {"type", "baseLayerIdentity"})
            if "baseLayerIdentity" not in members:
                raise _invalid(f"{where} has no baseLayerIdentity")
            _identity(members["baseLayerIdentity"], where)
            return SignedBaseLayer()
        case "signedBy":
            return _signed_by(node, where)
        case "sigstoreSigned":
            return _sigstore_signed(node, where)
        case _:
            raise _invalid(f"{where} is of an unknown type")


def _signed_by(node: Any, where: str) -> SignedBy:
    members = _members(node, where, {"type", "keyType", "keyPath", "keyPaths", "keyData", "signedIdentity"})
    key_type = _text(members.get("keyType"), where, "keyType")
    if key_type not in _KEY_TYPES:
        raise _invalid(f"{where} has the unknown keyType {key_type!r}")
    sources = [
        _key_source(members, where, name) for name in ("keyPath", "keyPaths", "keyData") if name in members
    ]
    keys = [source for source in sources if source is not None]
    if len(sources) != 1 or len(keys) != 1:
        raise _invalid(f"{where} needs one of keyPath, keyPaths and keyData")
    return SignedBy(keys[0], _signed_identity(members, where), key_type)


def _sigstore_signed(node: Any, where: str) -> SigstoreSigned:
    key_names = ("keyPath", "keyPaths", "keyData", "keyDatas")
    rekor_names = ("rekorPublicKeyPath", "rekorPublicKeyPaths", "rekorPublicKeyData", "rekorPublicKeyDatas")
    members = _members(node, where, {"type", "fulcio", "pki", "signedIdentity", *key_names, *rekor_names})
    signers: list[Keys | Fulcio | Pki] = []
    for name in key_names:
        if name in members and (source := _key_source(members, where, name)) is not None:
            if name.endswith("s") and not source:
                raise _invalid(f"{where} has an empty {name}")
            signers.append(source)
    if "fulcio" in members:
        signers.append(_fulcio(members["fulcio"], f"fulcio of {where}"))
    if "pki" in members:
        signers.append(_pki(members["pki"], f"pki of {where}"))
    if len(signers) != 1:
        raise _invalid(f"{where} needs one of keyPath, keyPaths, keyData, keyDatas, fulcio and pki")
    logs = []
    for name in rekor_names:
        if name in members and (source := _key_source(members, where, name)) is not None:
            if name.endswith("s") and not source:
                raise _invalid(f"{where} has an empty {name}")
            logs.append(source)
    if len(logs) > 1:
        raise _invalid(f"{where} has more than one of {', '.join(rekor_names)}")
    if isinstance(signers[0], Fulcio) and not logs:
        raise _invalid(f"{where} has fulcio and no key of a Rekor log, whose time it needs")
    if isinstance(signers[0], Pki) and logs:
        raise _invalid(f"{where} has pki and a key of a Rekor log, which do not go together")
    return SigstoreSigned(signers[0], logs[0] if logs else Keys(), _signed_identity(members, where))


def _fulcio(node: Any, where: str) -> Fulcio:
    members = _members(node, where, {"caPath", "caData", "oidcIssuer", "subjectEmail", "buildSignerURI"})
    fulcio = Fulcio(
        ca=_one_source(members, where, "caPath", "caData"),
        oidc_issuer=_text(members.get("oidcIssuer"), where, "oidcIssuer"),
        subject_email=_text(members.get("subjectEmail"), where, "subjectEmail"),
        build_signer_uri=_text(members.get("buildSignerURI"), where, "buildSignerURI"),
    )
    if not fulcio.oidc_issuer:
        raise _invalid(f"{where} has no oidcIssuer")
    if not fulcio.subject_email and not fulcio.build_signer_uri:
        raise _invalid(f"{where} has neither subjectEmail nor buildSignerURI")
    return fulcio


def _pki(node: Any, where: str) -> Pki:
    names = {"caRootsPath", "caRootsData", "caIntermediatesPath", "caIntermediatesData"}
    members = _members(node, where, names | {"subjectEmail", "subjectHostname"})
    intermediates = Keys()
    if members.keys() & {"caIntermediatesPath", "caIntermediatesData"}:
        intermediates = _one_source(members, where, "caIntermediatesPath", "caIntermediatesData")
    pki = Pki(
        roots=_one_source(members, where, "caRootsPath", "caRootsData"),
        intermediates=intermediates,
        subject_email=_text(members.get("subjectEmail"), where, "subjectEmail"),
        subject_hostname=_text(members.get("subjectHostname"), where, "subjectHostname"),
    )
    if not pki.subject_email and not pki.subject_hostname:
        raise _invalid(f"{where} has neither subjectEmail nor subjectHostname")
    return pki


def _signed_identity(members: Mapping[str, Any], where: str) -> SignedIdentity:
    if "signedIdentity" not in members:
        return MATCH_REPO_DIGEST_OR_EXACT
    return _identity(members["signedIdentity"], where)


def _identity(node: Any, where: str) -> SignedIdentity:
    kind = _object(node, f"the identity of {where}").get("type")
    if not isinstance(kind, str) or kind not in KINDS:
        raise _invalid(f"the identity of {where} is of the unknown type {kind!r}")
    operands = KINDS[kind]
    members = _members(node, f"the identity of {where}", {"type", *operands})
    if missing := [name for name in operands if name not in members]:
        raise _invalid(f"the identity of {where} has no {missing[0]}")
    identity = SignedIdentity(kind, *(_text(members[name], where, name) for name in operands))
    if problem := operands_problem(identity):
        raise _invalid(f"in {where}, {problem}")
    return identity


def _one_source(members: Mapping[str, Any], where: str, *names: str) -> Keys:
    sources = [_key_source(members, where, name) for name in names if name in members]
    found = [source for source in sources if source is not None]
    if len(found) != 1:
        raise _invalid(f"{where} needs one of {' and '.join(names)}")
    return found[0]


def _key_source(members: Mapping[str, Any], where: str, name: str) -> Keys | None:
    """Read one member that names or holds keys; None for one that says nothing."""
    value = members[name]
    if value is None or value == "":
        # Empty data is data all the same, and holds no key.
        return Keys(data=(b"",)) if value == "" and name.endswith("Data") else None
    if name.endswith("s") and not isinstance(value, list):
        raise _invalid(f"{name} of {where} is no list")
    entries = value if isinstance(value, list) and name.endswith("s") else [value]
    if name.rstrip("s").endswith("Path"):
        return Keys(paths=tuple(_text(entry, where, name) for entry in entries))
    return Keys(data=tuple(_base64(entry, where, name) for entry in entries))


def _base64(value: Any, where: str, name: str) -> bytes:
    try:
        return base64.b64decode(_text(value, where, name).replace("\n", "").replace("\r", ""), validate=True)
    except (binascii.Error, ValueError):
        raise _invalid(f"{name} of {where} is not base64") from None


def _text(value: Any, where: str, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _invalid(f"{name} of {where} is no text")
    return value


def _members(node: Any, where: str, known: set[str]) -> dict[str, Any]:
    members = _object(node, where)
    for name in members:
        if name not in known:
            raise _invalid(f"{where} has an unknown member {name[:60]!r}")
    return members


def _object(node: Any, where: str) -> dict[str, Any]:
    if not isinstance(node, dict):
        raise _invalid(f"{where} is no object")
    return node


def _invalid(problem: str) -> InvalidConfig:
    return InvalidConfig(problem)
