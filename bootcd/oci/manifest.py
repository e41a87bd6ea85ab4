"""Manifests, indexes and image configs, of OCI and of docker.

Which image a host becomes is decided by these documents, so one that is ambiguous, over a limit or of
another kind than it was announced as is refused as a whole. Members this product does not use are
ignored; callers that keep or pass on a document keep its bytes.

https://github.com/opencontainers/image-spec/blob/main/manifest.md, image-index.md, config.md,
https://distribution.github.io/distribution/spec/manifest-v2-2/
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from bootcd.model.errors import InvalidManifest, NoMatchingPlatform, Unsupported
from bootcd.oci.reference import is_digest
from bootcd.oci.strictjson import parse_object
from bootcd.oci.timestamp import normalise_timestamp as normalise_timestamp
from bootcd.oci.timestamp import parse_timestamp as parse_timestamp

MAX_MANIFEST_BYTES = 4 << 20
"What registries have to accept at most, and clients read at most (distribution-spec, Pushing Manifests)."
MAX_CONFIG_BYTES = 4 << 20
MAX_LAYERS = 512
MAX_LAYER_BYTES = 1 << 38
"A layer above 256 GiB is a mistake; sums over all layers stay well inside 64 bits."

MANIFEST_MEDIA_TYPES: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEX_MEDIA_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_SCHEMA1_MEDIA_TYPES = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
_CONFIG_MEDIA_TYPES = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
)
# What servers say that know no better; the document speaks for itself then.
_VAGUE_MEDIA_TYPES = ("", "application/json", "application/octet-stream", "text/plain")

Compression = Literal["none", "gzip", "zstd"]
_LAYER_COMPRESSION: Final[dict[str, Compression]] = {
    "application/vnd.oci.image.layer.v1.tar": "none",
    "application/vnd.oci.image.layer.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd": "zstd",
    "application/vnd.docker.image.rootfs.diff.tar": "none",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
}
_FOREIGN_LAYER = re.compile(
    r"application/vnd\.(oci\.image\.layer\.nondistributable\.|docker\.image\.rootfs\.foreign\.).*"
)

CREATED = "org.opencontainers.image.created"
VERSION = "org.opencontainers.image.version"


def parse_digest(text: str) -> tuple[str, str]:
    """Take a digest apart into algorithm, a name hashlib knows, and lower-case hexadecimal digits."""
    if not is_digest(text):
        raise InvalidManifest(f"digest {_quote(text)} is not valid")
    algorithm, _, digits = text.partition(":")
    return algorithm, digits


def _checked_digest(text: str) -> str:
    parse_digest(text)
    return text


def _absent_if_null(value: Any) -> Any:
    # Go writes an empty map or list as null.
    return {} if value is None else value


_Digest = Annotated[str, AfterValidator(_checked_digest)]
_Strings = Annotated[dict[str, str], BeforeValidator(_absent_if_null)]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class _Document(BaseModel):
    model_config = ConfigDict(defer_build=True, frozen=True, extra="ignore", strict=True)


class _CamelDocument(_Document):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Platform(_Document):
    """What an index says its entry runs on; nothing in it is required to make sense."""

    architecture: str = ""
    os: str = ""
    variant: str | None = None

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


class Descriptor(_CamelDocument):
    media_type: str
    digest: _Digest
    size: Annotated[int, Field(ge=0, le=MAX_LAYER_BYTES)]
    annotations: _Strings = {}
    platform: Platform | None = None

    @property
    def compression(self) -> Compression:
        """How a layer is compressed."""
        try:
            return _LAYER_COMPRESSION[self.media_type]
        except KeyError:
            raise InvalidManifest(
                f"layer {self.digest} has the unsupported media type {_quote(self.media_type)}"
            ) from None


# A JSON array is a list, which strict validation does not take for a tuple.
_Descriptors = Annotated[tuple[Descriptor, ...], Field(strict=False)]


class ImageIndex(_CamelDocument):
    media_type: str
    manifests: _Descriptors
    annotations: _Strings = {}


class ImageManifest(_CamelDocument):
    """An image of one platform; layers are the base first."""

    media_type: str
    config: Descriptor
    layers: _Descriptors
    annotations: _Strings = {}

    @property
    def created(self) -> datetime | None:
        """When the image was made, by the manifest's annotation."""
        return parse_timestamp(self.annotations.get(CREATED))


class _ContainerConfig(_Document):
    labels: _Strings = Field(default={}, alias="Labels")


class _RootFs(_Document):
    type: Literal["layers"]
    diff_ids: Annotated[tuple[_Digest, ...], Field(strict=False)]


class ImageConfig(_Document):
    architecture: _Name
    os: _Name
    variant: _Name | None = None
    created: str | None = None
    config: Annotated[_ContainerConfig, BeforeValidator(_absent_if_null)] = _ContainerConfig()
    rootfs: _RootFs

    @property
    def labels(self) -> dict[str, str]:
        return self.config.labels

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """Digests of the uncompressed layers, in the order of `ImageManifest.layers`."""
        return self.rootfs.diff_ids

    @property
    def version(self) -> str | None:
        """The version a label gives the image; None also for one that cannot be shown."""
        version = self.labels.get(VERSION, self.labels.get("version"))
        return version if version and len(version) <= 256 and version.isprintable() else None

    @property
    def created_at(self) -> datetime | None:
        """When the config was made, by its own field and not by a label."""
        return parse_timestamp(self.created)

    @property
    def timestamp(self) -> str | None:
        """When the image was made as bootc shows it: by the label, else by the config's own field."""
        return normalise_timestamp(self.labels.get(CREATED, self.created))


def announced(manifest: ImageManifest, config: ImageConfig, name: str) -> str | None:
    """Return what an image says of itself by an annotation of its manifest, else by a label."""
    return manifest.annotations.get(name, config.labels.get(name))


def parse_manifest(data: bytes, media_type: str | None) -> ImageIndex | ImageManifest:
    """Parse a manifest or index, of the kind the document and `media_type` agree on.

    `media_type` is the value of the Content-Type header; None, or one that says nothing, leaves it to
    the document. Raises InvalidManifest.
    """
    document = parse_object(data, what="manifest", limit_bytes=MAX_MANIFEST_BYTES, error=InvalidManifest)
    kind = _media_type(document, media_type)
    version = document.get("schemaVersion")
    if type(version) is not int or version not in (1, 2):
        raise InvalidManifest("manifest has no schemaVersion 2")
    if version == 1 or kind in _SCHEMA1_MEDIA_TYPES:
        raise InvalidManifest(
            "manifest is of docker schema 1, which is not supported",
            hint="push the image again with a current tool",
        )
    document = {**document, "mediaType": kind}
    if kind in INDEX_MEDIA_TYPES:
        _refuse_members(document, "config", "layers", "fsLayers")
        return _validate(ImageIndex, document, "index")
    if kind in MANIFEST_MEDIA_TYPES:
        _refuse_members(document, "manifests", "fsLayers")
        manifest = _validate(ImageManifest, document, "manifest")
        _check_manifest(manifest)
        return manifest
    raise InvalidManifest(f"media type {_quote(kind)} is none of an image manifest or index")


def _media_type(document: dict[str, Any], header: str | None) -> str:
    announced = (header or "").partition(";")[0].strip().lower()
    if announced in _VAGUE_MEDIA_TYPES:
        announced = ""
    inside = document.get("mediaType")
    if inside is None:
        # OCI documents may leave it out.
        return announced or (INDEX_MEDIA_TYPES if "manifests" in document else MANIFEST_MEDIA_TYPES)[0]
    if not isinstance(inside, str):
        raise InvalidManifest("manifest has a mediaType that is not a text")
    if announced and announced != inside:
        raise InvalidManifest(
            f"manifest was announced as {_quote(announced)} and says it is {_quote(inside)}"
        )
    return inside


def _refuse_members(document: dict[str, Any], *names: str) -> None:
    # Else one program takes it for an index and another for a manifest (CVE-2021-41190).
    for name in names:
        if name in document:
            raise InvalidManifest(f"manifest of type {document['mediaType']} has a member {name!r}")


def _check_manifest(manifest: ImageManifest) -> None:
    if manifest.config.media_type not in _CONFIG_MEDIA_TYPES:
        raise InvalidManifest(
            f"manifest is not of a container image: its config has the media type "
            f"{_quote(manifest.config.media_type)}"
        )
    if manifest.config.size > MAX_CONFIG_BYTES:
        raise InvalidManifest(f"config of the image is larger than {MAX_CONFIG_BYTES} bytes")
    if len(manifest.layers) > MAX_LAYERS:
        raise InvalidManifest(f"image has {len(manifest.layers)} layers, more than {MAX_LAYERS}")
    for layer in manifest.layers:
        if _FOREIGN_LAYER.fullmatch(layer.media_type):
            raise InvalidManifest(
                f"layer {layer.digest} is not distributable, so the registry does not have it"
            )
        _ = layer.compression


def parse_config(data: bytes) -> ImageConfig:
    """Parse an image config; raises InvalidManifest."""
    what = "image config"
    document = parse_object(data, what=what, limit_bytes=MAX_CONFIG_BYTES, error=InvalidManifest)
    config = _validate(ImageConfig, document, what)
    if len(config.diff_ids) > MAX_LAYERS:
        raise InvalidManifest(f"image config names {len(config.diff_ids)} layers, more than {MAX_LAYERS}")
    return config


def check_layers(manifest: ImageManifest, config: ImageConfig) -> None:
    """Raise InvalidManifest unless the config names exactly one diff_id for each layer."""
    if len(manifest.layers) != len(config.diff_ids):
        raise InvalidManifest(
            f"manifest has {len(manifest.layers)} layers and the image config {len(config.diff_ids)} diff_ids"
        )


# Platforms

_MACHINES: Final[dict[str, tuple[str, str | None]]] = {
    "x86_64": ("amd64", None),
    "i386": ("386", None),
    "i486": ("386", None),
    "i586": ("386", None),
    "i686": ("386", None),
    "aarch64": ("arm64", "v8"),
    "armv5tel": ("arm", "v5"),
    "armv5tejl": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v8"),
    "loongarch64": ("loong64", None),
    "ppc64le": ("ppc64le", None),
    "riscv64": ("riscv64", None),
    "s390x": ("s390x", None),
}
# What an architecture without variant stands for.
_DEFAULT_VARIANT = {"amd64": "v1", "arm": "v7", "arm64": "v8"}
_VARIANT = re.compile(r"v([0-9]{1,3})(?:\.([0-9]{1,3}))?")


def host_architecture(machine: str) -> tuple[str, str | None]:
    """Map the machine field of uname(2) to an OCI architecture and variant; raises Unsupported."""
    try:
        return _MACHINES[machine]
    except KeyError:
        raise Unsupported(f"machine {_quote(machine)} has no OCI architecture known here") from None


def select_platform(
    index: ImageIndex, architecture: str, variant: str | None = None, os: str = "linux"
) -> Descriptor:
    """Choose the entry for a host: its own variant or the best one below, the first of equals.

    A lone entry that names no platform is taken; its config tells what it is. Raises NoMatchingPlatform,
    or InvalidManifest where the entry chosen is itself an index.
    """
    known = [
        entry for entry in index.manifests if entry.media_type in MANIFEST_MEDIA_TYPES + INDEX_MEDIA_TYPES
    ]
    best: tuple[tuple[int, int, int], Descriptor] | None = None
    for entry in known:
        platform = entry.platform
        if platform is None or (platform.os, platform.architecture) != (os, architecture):
            continue
        rank = _variant_rank(architecture, platform.variant, variant)
        if rank is not None and (best is None or rank > best[0]):
            best = rank, entry
    chosen = best[1] if best else None
    if chosen is None and len(known) == 1 and known[0].platform is None:
        chosen = known[0]
    if chosen is None:
        wanted = str(Platform(os=os, architecture=architecture, variant=variant))
        offered = sorted({str(entry.platform) for entry in known if entry.platform})
        shown = ", ".join(_quote(name)[1:-1] for name in offered[:10]) or "none"
        raise NoMatchingPlatform(
            f"image is not offered for {wanted}, only for {shown}", wanted=wanted, offered=shown
        )
    if chosen.media_type in INDEX_MEDIA_TYPES:
        raise InvalidManifest(f"index has another index {chosen.digest} in it, which is not supported")
    if chosen.size > MAX_MANIFEST_BYTES:
        raise InvalidManifest(f"manifest {chosen.digest} is larger than {MAX_MANIFEST_BYTES} bytes")
    return chosen


def _variant_rank(architecture: str, offered: str | None, host: str | None) -> tuple[int, int, int] | None:
    """Tell how good a variant is for a host's, higher is better; None if it does not run there."""
    default = _DEFAULT_VARIANT.get(architecture, "v0")
    offered = offered or default
    host = host or default
    if offered == host:
        return 1, 0, 0
    numbers, limit = _VARIANT.fullmatch(offered), _VARIANT.fullmatch(host)
    if numbers is None or limit is None:
        return None
    version = int(numbers[1]), int(numbers[2] or 0)
    return (0, *version) if version <= (int(limit[1]), int(limit[2] or 0)) else None


_Model = TypeVar("_Model", bound=BaseModel)


def _validate(model: type[_Model], document: dict[str, Any], what: str) -> _Model:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        member = ".".join(str(part) for part in first["loc"])
        problem = "is missing" if first["type"] == "missing" else "is not valid"
        raise InvalidManifest(f"member {_quote(member)} of the {what} {problem}") from error


def _quote(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:117] + "...")
