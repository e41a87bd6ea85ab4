"""Release notes of an image: an artifact beside it in its registry that says what is new.

    manifest   artifactType application/vnd.bootcd.release-notes.v1, subject: the image or its index
    layers     one, text/markdown, UTF-8, at most 64 KiB

Anybody who may push beside the image may write them, and people read them on terminals: what is shown is
text and nothing else.

https://github.com/opencontainers/image-spec/blob/main/manifest.md#guidelines-for-artifact-usage,
https://github.com/opencontainers/distribution-spec/blob/main/spec.md#listing-referrers
"""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bootcd.model.errors import InvalidManifest
from bootcd.oci.manifest import CREATED, MANIFEST_MEDIA_TYPES, MAX_MANIFEST_BYTES, Descriptor
from bootcd.oci.strictjson import parse_object
from bootcd.oci.timestamp import parse_timestamp

ARTIFACT_TYPE: Final = "application/vnd.bootcd.release-notes.v1"
LAYER_TYPE: Final = "text/markdown"
EMPTY_TYPE: Final = "application/vnd.oci.empty.v1+json"
MAX_NOTES_BYTES = 64 << 10
MAX_CANDIDATES = 8
"Artifacts looked at for one image, the newest first."


class _Model(BaseModel):
    model_config = ConfigDict(defer_build=True, frozen=True, extra="ignore", strict=True)


class Referrer(Descriptor):
    artifact_type: str = ""


class _Index(_Model):
    manifests: Annotated[tuple[Referrer, ...], Field(strict=False)]


class _Artifact(_Model):
    artifact_type: str = Field(default="", alias="artifactType")
    config: Descriptor
    layers: Annotated[tuple[Descriptor, ...], Field(strict=False)]
    subject: Descriptor


def notes_among(index: bytes) -> list[Referrer]:
    """Return what may be release notes in an index of referrers, the newest first; raises InvalidManifest."""
    found = [
        entry
        for entry in _parse(_Index, index, "index of referrers").manifests
        if entry.artifact_type == ARTIFACT_TYPE
        and entry.media_type in MANIFEST_MEDIA_TYPES
        and entry.size <= MAX_MANIFEST_BYTES
    ]
    # A stable sort of the reverse: of equals, or of those without a time, the last one listed is the newest.
    found.reverse()
    found.sort(key=_created, reverse=True)
    return found[:MAX_CANDIDATES]


def notes_layer(manifest: bytes, subject: str) -> Descriptor:
    """Return the layer with the notes of the image `subject`; raises InvalidManifest."""
    artifact = _parse(_Artifact, manifest, "manifest of release notes")
    if ARTIFACT_TYPE not in (artifact.artifact_type, artifact.config.media_type):
        raise InvalidManifest("manifest of release notes is of another kind of artifact")
    if artifact.subject.digest != subject:
        raise InvalidManifest("manifest of release notes is about another image")
    layers = [layer for layer in artifact.layers if layer.media_type == LAYER_TYPE]
    if len(layers) != 1:
        raise InvalidManifest(f"manifest of release notes has {len(layers)} texts, not one")
    if layers[0].size > MAX_NOTES_BYTES:
        raise InvalidManifest(f"release notes are larger than {MAX_NOTES_BYTES} bytes")
    return layers[0]


def clean_notes(data: bytes) -> str:
    """Return notes as text that does nothing to a terminal and shows in the order it is written in.

    Line ends and tabs stay; controls, invisible formatting and what is no character go.
    """
    text = data.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    kept = (
        char
        for char in text
        if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn")
    )
    lines = (
        line.rstrip() for line in "".join(kept).replace("\u2028", "\n").replace("\u2029", "\n").split("\n")
    )
    return "\n".join(lines).strip("\n")


def _created(entry: Referrer) -> float:
    when = parse_timestamp(entry.annotations.get(CREATED))
    return when.timestamp() if when else 0.0


_Parsed = TypeVar("_Parsed", bound=BaseModel)


def _parse(model: type[_Parsed], data: bytes, what: str) -> _Parsed:
    document: dict[str, Any] = parse_object(
        data, what=what, limit_bytes=MAX_MANIFEST_BYTES, error=InvalidManifest
    )
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise InvalidManifest(f"{what} is not in order") from error
