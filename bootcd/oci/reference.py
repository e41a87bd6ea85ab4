"""Image references of a registry: `host[:port]/repository[:tag][@digest]`.

Everything that names an image (a user's switch, an ostree origin, a ref) passes through one grammar
here, so that two spellings of one image cannot drift apart. The grammar is that of
https://github.com/distribution/reference; which first component is a host follows docker and podman:
it holds a dot, a colon or an upper-case letter, or is `localhost`.

A short name such as `fedora` means a different image on every host with another search list, which
no operating system should be replaced by. It is refused unless the caller names a default registry.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from ipaddress import AddressValueError, IPv6Address

from bootcd.model.errors import InvalidImage

DOCKER_HUB = "docker.io"
DEFAULT_TAG = "latest"

MAX_NAME_CHARS = 255
"Registry and repository with the slash between them, the limit of docker and podman."
_MAX_REFERENCE_CHARS = 1024
"More than name, tag and the longest digest need; keeps hostile input away from the patterns."

HEX_DIGITS = {"sha256": 64, "sha384": 96, "sha512": 128}
"Digest algorithms this product verifies, with the length of their hexadecimal form."

# domain-name, port-number, path-component and tag of the reference grammar.
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[(?P<ipv6>[0-9a-fA-F:]+)\])(?::(?P<port>[0-9]{{1,5}}))?")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"(?P<algorithm>[a-z0-9]+):(?P<hex>[0-9a-f]+)")
_IMAGE_ID = re.compile(r"[0-9a-f]{64}")

# Transports of containers-transports(5) that are no registry. `oci:5000/x` is still a host and port.
_OTHER_TRANSPORT = re.compile(
    r"(containers-storage|dir|docker-archive|docker-daemon|oci|oci-archive|sif|ostree-[a-z-]+):(?![0-9]+/)"
)
_REGISTRY_TRANSPORT = re.compile(r"docker://|registry:(?![0-9]+/)")


def is_digest(text: str) -> bool:
    """Tell whether text is `algorithm:hex` of a known algorithm and the right length."""
    match = _DIGEST.fullmatch(text)
    return match is not None and HEX_DIGITS.get(match["algorithm"]) == len(match["hex"])


@dataclass(frozen=True, slots=True)
class ImageReference:
    """A complete reference; it always has a tag, a digest or both.

    `str()` is the form an ostree origin holds after `docker://`; that of a parsed reference parses
    back to an equal value. Raises InvalidImage for parts outside the grammar.
    """

    registry: str
    "`host[:port]`, an IPv6 address in brackets."
    repository: str
    tag: str | None = None
    digest: str | None = None

    def __post_init__(self) -> None:
        if len(self.name) > MAX_NAME_CHARS:
            raise InvalidImage(f"image name {_quote(self.name)} is longer than {MAX_NAME_CHARS} characters")
        _check_registry(self.registry)
        _check_repository(self.repository)
        if self.tag is None and self.digest is None:
            raise InvalidImage(f"image {_quote(self.name)} has neither tag nor digest")
        if self.tag is not None and not _TAG.fullmatch(self.tag):
            raise InvalidImage(
                f"tag {_quote(self.tag)} of the image reference is not valid",
                hint="a tag has at most 128 letters, digits, '_', '.' and '-', and starts with no '.' or '-'",
            )
        if self.digest is not None and not is_digest(self.digest):
            raise InvalidImage(
                f"digest {_quote(self.digest)} of the image reference is not valid",
                hint="a digest is sha256:, sha384: or sha512: and the lower-case hexadecimal digits",
            )

    def __str__(self) -> str:
        tag = "" if self.tag is None else f":{self.tag}"
        digest = "" if self.digest is None else f"@{self.digest}"
        return f"{self.name}{tag}{digest}"

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def for_fetch(self) -> str:
        """What to ask the registry for: the digest, which a tag beside it does not change, or the tag."""
        reference = self.digest or self.tag
        assert reference is not None
        return reference

    @property
    def canonical(self) -> ImageReference:
        """The reference an image ref is named after: without the tag where there is a digest too."""
        return self if self.digest is None else replace(self, tag=None)

    def with_tag(self, tag: str | None) -> ImageReference:
        """Replace the tag and leave the digest as it is."""
        return replace(self, tag=tag)

    def with_digest(self, digest: str | None) -> ImageReference:
        """Replace the digest and leave the tag as it is."""
        return replace(self, digest=digest)


def parse_reference(text: str, *, default_registry: str | None = None) -> ImageReference:
    """Read a reference as a person or an origin writes it.

    `docker://` and `registry:` in front are accepted, other transports refused. The tag `latest` is
    added where there is neither tag nor digest. `default_registry` completes a name without a host;
    on Docker Hub a name of one component also gets its `library/`. Raises InvalidImage.
    """
    if len(text) > _MAX_REFERENCE_CHARS:
        raise InvalidImage(f"image reference is longer than {_MAX_REFERENCE_CHARS} characters")
    if match := _REGISTRY_TRANSPORT.match(text):
        text = text[match.end() :]
    elif match := _OTHER_TRANSPORT.match(text):
        raise InvalidImage(
            f"transport {_quote(match[1])} of the image reference is not a registry",
            hint="images come from a registry: give host/repository:tag",
        )
    if "://" in text:
        # The text may hold a password, so it is not repeated.
        raise InvalidImage("image reference is a URL", hint="leave out the scheme: give host/repository:tag")
    if not text:
        raise InvalidImage("image reference is empty", hint="give host/repository:tag")

    rest, at, digest = text.partition("@")
    slash = rest.rfind("/")
    colon = rest.find(":", slash + 1)
    tag = None
    if colon >= 0:
        rest, tag = rest[:colon], rest[colon + 1 :]
    if tag is None and not at:
        tag = DEFAULT_TAG

    registry, slash_found, repository = rest.partition("/")
    if not slash_found or not _looks_like_host(registry):
        if default_registry is None:
            raise _short_name(rest)
        if _IMAGE_ID.fullmatch(rest):
            raise InvalidImage(f"{_quote(rest)} is an image ID, which no registry knows")
        registry, repository = default_registry, rest
    if registry in (DOCKER_HUB, "index.docker.io"):
        registry = DOCKER_HUB
        if "/" not in repository:
            repository = f"library/{repository}"
    return ImageReference(registry, repository, tag, digest if at else None)


def _looks_like_host(component: str) -> bool:
    return component == "localhost" or "." in component or ":" in component or component != component.lower()


def _short_name(name: str) -> InvalidImage:
    if all(_COMPONENT.fullmatch(part) for part in name.split("/")):
        full = f"{DOCKER_HUB}/{name}" if "/" in name else f"{DOCKER_HUB}/library/{name}"
        hint = f"name the registry too, for example {full}"
    else:
        hint = "give host/repository:tag"
    return InvalidImage(f"image name {_quote(name)} does not say which registry it is from", hint=hint)


def _check_registry(registry: str) -> None:
    match = _HOST.fullmatch(registry)
    valid = match is not None and _looks_like_host(registry)
    if match is not None and match["ipv6"] is not None:
        try:
            IPv6Address(match["ipv6"])
        except AddressValueError:
            valid = False
    if match is not None and match["port"] is not None:
        valid = valid and 0 < int(match["port"]) < 65536
    if not valid:
        raise InvalidImage(
            f"registry {_quote(registry)} of the image reference is not a valid host",
            hint="a registry is host or host:port, an IPv6 address in brackets",
        )


def _check_repository(repository: str) -> None:
    for component in repository.split("/"):
        if _COMPONENT.fullmatch(component):
            continue
        if component != component.lower():
            hint = "a repository name has no upper-case letters"
        elif not component:
            hint = "a repository name has no empty part between slashes"
        else:
            hint = (
                "each part of a repository name is lower-case letters and digits, with single '.', '_', '__' "
                "or '-' between them"
            )
        raise InvalidImage(f"repository {_quote(repository)} of the image reference is not valid", hint=hint)


def _quote(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
