"""The origin of a deployment: which image it tracks and how that image is verified.

A deployment's `.origin` file is a GKeyFile. bootc keeps the image in one key of it, in a grammar that
joins signature source, transport and name; libostree and others keep their own groups in the same file.

Formats: `OstreeImageReference` of https://github.com/bootc-dev/bootc, crate ostree-ext;
https://docs.gtk.org/glib/struct.KeyFile.html; containers-transports(5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from bootcd.model.errors import BackendFailed, InvalidImage, Unsupported
from bootcd.model.host import ImageReferenceStatus, OstreeRemote

ORIGIN_GROUP = "origin"
IMAGE_KEY = "container-image-reference"
REFSPEC_KEYS = ("refspec", "baserefspec")
"A plain ostree ref; rpm-ostree uses the second once packages are layered on it."

# What marks a deployment an image update would damage. bootc looks at the group alone, whatever is in it:
# [rpmostree] initramfs and other local changes, [packages] layered, [overrides] replaced or removed,
# [modules] enabled.
LOCAL_CHANGE_GROUPS = frozenset({"rpmostree", "packages", "overrides", "modules"})

# State of one deployment, which libostree never carries over to the next.
_TRANSIENT_GROUP = "libostree-transient"

REGISTRY: Final = "registry"
TRANSPORTS = frozenset(
    {REGISTRY, "oci", "oci-archive", "docker-archive", "containers-storage", "dir", "docker-daemon"}
)

_WITH_TAG = frozenset({"oci", "oci-archive", "docker-archive"})
_IN_FILES = _WITH_TAG | {"dir"}

_MAX_TEXT = 64 << 10
_MAX_IMAGE = 4096


class SignaturePolicy(Enum):
    """Who decides whether an image is genuine, where no ostree remote does."""

    UNVERIFIED = "ostree-unverified-image"
    "Whatever containers-policy.json(5) says, its permissive default included."
    CONTAINER_POLICY = "ostree-image-signed"
    "containers-policy.json(5), whose default must not accept anything."


@dataclass(frozen=True, slots=True)
class RemoteSignature:
    """The commit inside the image is signed with a key of this ostree remote."""

    remote: str


SignatureSource = SignaturePolicy | RemoteSignature


@dataclass(frozen=True, slots=True)
class TrackedImage:
    """An image a deployment follows; `str()` is the form bootc writes.

    `transport` is one of `TRANSPORTS`. Make one with `parse_tracked_image` or `registry`, which check.
    """

    transport: str
    name: str
    signature: SignatureSource = SignaturePolicy.UNVERIFIED

    @classmethod
    def registry(cls, name: str) -> TrackedImage:
        """Return the unverified image `name` of a registry, such as `quay.io/x:1`."""
        return parse_tracked_image(f"ostree-unverified-registry:{name}")

    @classmethod
    def unverified(cls, transport: str, name: str) -> TrackedImage:
        """Return the unverified image `name` of a transport."""
        return parse_tracked_image(f"{SignaturePolicy.UNVERIFIED.value}:{transport}:{name}")

    def require_usable(self) -> None:
        """Raise unless the name is one its transport can be asked for, as far as the name tells.

        Raises:
            InvalidImage: it names no one place.
            Unsupported: images of the transport are not read.
        """
        if self.transport == "docker-daemon":
            raise Unsupported(
                "images are not taken from a docker daemon",
                hint="write the image to a file with docker save, and use transport docker-archive",
            )
        if self.transport != REGISTRY:
            _ = self.place

    @property
    def place(self) -> tuple[str, str]:
        """Where an image is that is in no registry: path or name, and tag, empty if there is none.

        Raises InvalidImage for a path that does not name one place for everybody.
        """
        if self.transport not in _IN_FILES:
            if self.name.startswith("["):
                # It may name programs to run.
                raise InvalidImage(
                    f"{self.image_ref_name} names a store of its own",
                    hint="only the store that containers-storage.conf(5) sets up is read",
                )
            return self.name, ""
        path, _, tag = self.name.partition(":") if self.transport in _WITH_TAG else (self.name, "", "")
        if not path.startswith("/"):
            raise InvalidImage(
                f"the path in {self.image_ref_name} is not absolute",
                hint="name the image by its whole path, from / on",
            )
        if ".." in path.split("/"):
            raise InvalidImage(f"the path in {self.image_ref_name} leads up with ..")
        return path, tag

    @property
    def image_ref_name(self) -> str:
        """The name the image ref is made of, which is the one bootc's clean-up compares with the origin."""
        return f"docker://{self.name}" if self.transport == REGISTRY else f"{self.transport}:{self.name}"

    @property
    def status(self) -> ImageReferenceStatus:
        """The image as the status document shows it; an unverified one has no signature."""
        match self.signature:
            case SignaturePolicy.UNVERIFIED:
                return ImageReferenceStatus(image=self.name, transport=self.transport)
            case SignaturePolicy.CONTAINER_POLICY:
                return ImageReferenceStatus(
                    image=self.name, transport=self.transport, signature="containerPolicy"
                )
            case RemoteSignature(remote):
                return ImageReferenceStatus(
                    image=self.name, transport=self.transport, signature=OstreeRemote(ostree_remote=remote)
                )

    def __str__(self) -> str:
        match self.signature:
            case SignaturePolicy.UNVERIFIED if self.transport == REGISTRY:
                return f"ostree-unverified-registry:{self.name}"
            case SignaturePolicy() as policy:
                return f"{policy.value}:{self.image_ref_name}"
            case RemoteSignature(remote):
                return f"ostree-remote-image:{remote}:{self.image_ref_name}"


def parse_tracked_image(text: str) -> TrackedImage:
    """Parse an image with its signature source, in any of the five forms bootc accepts."""
    if len(text) > _MAX_IMAGE or not text.isprintable() or not _encodable(text):
        raise InvalidImage("the tracked image is too long or holds control characters")
    scheme, colon, rest = text.partition(":")
    if not colon:
        raise InvalidImage(f"the tracked image {text!r} names no signature source")
    signature: SignatureSource
    if scheme == "ostree-unverified-registry":
        return _with_name(SignaturePolicy.UNVERIFIED, REGISTRY, rest, text)
    if scheme in ("ostree-remote-registry", "ostree-remote-image"):
        remote, colon, rest = rest.partition(":")
        if not remote or not colon:
            raise InvalidImage(f"the tracked image {text!r} names no ostree remote")
        signature = RemoteSignature(remote)
        if scheme == "ostree-remote-registry":
            return _with_name(signature, REGISTRY, rest, text)
    else:
        try:
            signature = SignaturePolicy(scheme)
        except ValueError:
            raise InvalidImage(
                f"the tracked image {text!r} has an unknown signature source {scheme!r}"
            ) from None
    transport, colon, name = rest.partition(":")
    if not colon:
        raise InvalidImage(f"the tracked image {text!r} names no transport")
    if transport == "docker":
        if not name.startswith("//"):
            raise InvalidImage(f"the tracked image {text!r} lacks // after docker:")
        transport, name = REGISTRY, name[2:]
    if transport not in TRANSPORTS:
        raise InvalidImage(f"the tracked image {text!r} has an unknown transport {transport!r}")
    return _with_name(signature, transport, name, text)


def _with_name(signature: SignatureSource, transport: str, name: str, text: str) -> TrackedImage:
    if not name or name != name.strip():
        raise InvalidImage(f"the tracked image {text!r} names no image")
    return TrackedImage(transport, name, signature)


@dataclass(frozen=True, slots=True)
class Origin:
    """An origin file. Make one with `parse_origin` or `Origin.fresh`.

    `groups` holds every group and key of the file in order, values as they are written, escapes and all.
    """

    image: TrackedImage | None = None
    refspec: str | None = None
    groups: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()

    @classmethod
    def fresh(cls, image: TrackedImage) -> Origin:
        """Return an origin with the one key bootc writes."""
        return cls(image=image, groups=((ORIGIN_GROUP, ((IMAGE_KEY, _escape(str(image))),)),))

    @property
    def incompatible(self) -> bool:
        """Whether the deployment has local changes, which hide its image from `bootc status`.

        `image` is known all the same: what an incompatible deployment tracks must not be collected.
        """
        return any(name in LOCAL_CHANGE_GROUPS for name, _ in self.groups)

    @property
    def pinned(self) -> bool:
        """Whether libostree keeps the deployment until it is unpinned."""
        return any(
            name == _TRANSIENT_GROUP and dict(keys).get("pinned", "").rstrip() in ("true", "1")
            for name, keys in self.groups
        )

    def tracking(self, image: TrackedImage) -> Origin:
        """Return the origin of a next deployment that tracks `image`.

        Groups of others stay; what was tracked before and libostree's transient state do not.
        """
        fresh = Origin.fresh(image)
        others = tuple(group for group in self.groups if group[0] not in (ORIGIN_GROUP, _TRANSIENT_GROUP))
        return Origin(image=image, groups=fresh.groups + others)

    def to_keyfile(self) -> str:
        """Return the file's text."""
        groups = ("".join([f"[{name}]\n", *(f"{k}={v}\n" for k, v in keys)]) for name, keys in self.groups)
        return "\n".join(groups)


# Spelling of names as g_key_file_load_from_data() takes them.
_GROUP_LINE = re.compile(r"\[([^\[\]\x00-\x1f\x7f]+)\][ \t]*")
_KEY = re.compile(r"[^=\[\]\x00-\x1f\x7f]+(?<! )(?:\[[A-Za-z0-9._@-]+\])?")
_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)
_ESCAPES = {"s": " ", "n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
_SPACE = " \t\n\r\f"


def parse_origin(text: str) -> Origin:
    """Parse an origin file of at most 64 KiB.

    Raises BackendFailed for a text that is no keyfile, InvalidImage for an image bootc would not
    accept either. A file with neither image nor refspec is fine, and tracks nothing.
    """
    groups = _parse_keyfile(text)
    origin = groups.get(ORIGIN_GROUP, {})
    image = origin.get(IMAGE_KEY)
    refspec = next((origin[key] for key in REFSPEC_KEYS if key in origin), None)
    return Origin(
        image=None if image is None else parse_tracked_image(_unescape(image)),
        refspec=None if refspec is None else _unescape(refspec),
        groups=tuple((name, tuple(keys.items())) for name, keys in groups.items()),
    )


def _parse_keyfile(text: str) -> dict[str, dict[str, str]]:
    if len(text) > _MAX_TEXT:
        raise BackendFailed(f"the origin file is larger than {_MAX_TEXT} bytes")
    if "\0" in text or not _encodable(text):
        raise BackendFailed("the origin file is not text")
    groups: dict[str, dict[str, str]] = {}
    current: dict[str, str] | None = None
    # A carriage return anywhere else than in a line end could not be written back as it was.
    for number, raw in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        line = raw.lstrip(_SPACE)
        if not line or line.startswith("#"):
            continue
        if group := _GROUP_LINE.fullmatch(line):
            current = groups.setdefault(group[1], {})
            continue
        key, equals, value = line.partition("=")
        key = key.rstrip(_SPACE)
        if current is None or not equals or "\r" in value or not _KEY.fullmatch(key):
            raise BackendFailed(f"line {number} of the origin file is neither group, key nor comment")
        current[key] = value.lstrip(_SPACE)
    return groups


def _unescape(value: str) -> str:
    def plain(match: re.Match[str]) -> str:
        if match[1] not in _ESCAPES:
            raise BackendFailed("the origin file holds an unknown escape sequence")
        return _ESCAPES[match[1]]

    return _ESCAPE.sub(plain, value)


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
