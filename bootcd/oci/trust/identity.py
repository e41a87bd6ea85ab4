"""Whether the name a signature claims is one the policy takes for the image: `signedIdentity`.

A signature is of a manifest and of a name. The manifest alone would let a registry answer with another
image its owner signed: an older one, or one of another product.
Rules: signedIdentity of containers-policy.json(5), as github.com/containers/image applies them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from bootcd.model.errors import InvalidImage
from bootcd.oci.reference import DOCKER_HUB, ImageReference, parse_reference

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PREFIX = re.compile(rf"{_HOST}(?:/{_COMPONENT})*")


@dataclass(frozen=True, slots=True)
class Named:
    """A name in a registry, written out, with tag and digest where it has them."""

    name: str
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        tag = "" if self.tag is None else f":{self.tag}"
        digest = "" if self.digest is None else f"@{self.digest}"
        return f"{self.name}{tag}{digest}"

    @property
    def name_only(self) -> bool:
        return self.tag is None and self.digest is None

    @classmethod
    def of(cls, reference: ImageReference) -> Named:
        """Return the name an image is pulled by; beside a digest, its tag says nothing."""
        plain = reference.canonical
        return cls(plain.name, plain.tag, plain.digest)


def parse_named(text: str) -> Named | None:
    """Read a name as docker does: short ones are of Docker Hub, no tag is added; None if it is none."""
    if text.startswith(("docker:", "registry:")):
        return None
    try:
        reference = parse_reference(text, default_registry=DOCKER_HUB)
    except InvalidImage:
        return None
    before, at, _ = text.partition("@")
    tagged = ":" in before.rpartition("/")[2]
    return Named(reference.name, reference.tag if tagged else None, reference.digest if at else None)


@dataclass(frozen=True, slots=True)
class SignedIdentity:
    """One kind of signedIdentity with its operands.

    `accepts` takes the name the image is pulled by, None where its transport has no such names, and the
    name the signature claims, as written.
    """

    kind: str
    first: str = ""
    "dockerReference, dockerRepository or prefix."
    second: str = ""
    "signedPrefix."

    def accepts(self, image: Named | None, claimed: str) -> bool:
        signed = parse_named(claimed)
        return signed is not None and _RULES[self.kind](self, image, signed)

    def __str__(self) -> str:
        return " ".join(filter(None, (self.kind, self.first, self.second)))


MATCH_REPO_DIGEST_OR_EXACT = SignedIdentity("matchRepoDigestOrExact")

KINDS = {
    "matchExact": (),
    "matchRepoDigestOrExact": (),
    "matchRepository": (),
    "exactReference": ("dockerReference",),
    "exactRepository": ("dockerRepository",),
    "remapIdentity": ("prefix", "signedPrefix"),
}
"Kinds with the members each needs, in the order of `SignedIdentity.first` and `second`."


def operands_problem(identity: SignedIdentity) -> str:
    """Say what is wrong with the operands of an identity in a policy; empty if nothing is."""
    match identity.kind:
        case "exactReference":
            named = parse_named(identity.first)
            if named is None or named.name_only:
                return f"dockerReference {identity.first!r} is no image with a tag or digest"
        case "exactRepository":
            if parse_named(identity.first) is None:
                return f"dockerRepository {identity.first!r} is no repository"
        case "remapIdentity":
            for prefix in (identity.first, identity.second):
                if not _PREFIX.fullmatch(prefix):
                    return f"prefix {prefix!r} is no registry or namespace"
        case _:
            pass
    return ""


def _match_exact(_: SignedIdentity, image: Named | None, signed: Named) -> bool:
    return image is not None and _same(image, signed)


def _match_repo_digest_or_exact(_: SignedIdentity, image: Named | None, signed: Named) -> bool:
    if image is None or signed.name_only:
        return False
    if image.tag is not None:
        return signed == image
    # The digest was compared with the manifest, and the manifest with the signature.
    return image.digest is not None and signed.name == image.name


def _match_repository(_: SignedIdentity, image: Named | None, signed: Named) -> bool:
    return image is not None and signed.name == image.name


def _exact_reference(identity: SignedIdentity, _: Named | None, signed: Named) -> bool:
    wanted = parse_named(identity.first)
    return wanted is not None and _same(wanted, signed)


def _exact_repository(identity: SignedIdentity, _: Named | None, signed: Named) -> bool:
    wanted = parse_named(identity.first)
    return wanted is not None and signed.name == wanted.name


def _remap(identity: SignedIdentity, image: Named | None, signed: Named) -> bool:
    if image is None:
        return False
    prefix, signed_prefix = identity.first, identity.second
    if image.name == prefix or image.name.startswith(f"{prefix}/"):
        text = signed_prefix + str(image)[len(prefix) :]
        remapped = parse_named(text)
        if remapped is None or str(remapped) != text:
            return False
        image = remapped
    return _match_repo_digest_or_exact(identity, image, signed)


def _same(wanted: Named, signed: Named) -> bool:
    return not wanted.name_only and signed == wanted


_RULES: dict[str, Callable[[SignedIdentity, Named | None, Named], bool]] = {
    "matchExact": _match_exact,
    "matchRepoDigestOrExact": _match_repo_digest_or_exact,
    "matchRepository": _match_repository,
    "exactReference": _exact_reference,
    "exactRepository": _exact_repository,
    "remapIdentity": _remap,
}
