"""Release notes attached to an image in its registry, found by hosts that check for updates.

A registry that knows OCI 1.1 lists what refers to an image by itself, and says so in its answer. For one
that does not, the list is an index under a tag, which whoever attaches something adds to.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pushing-manifests-with-subject
"""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from bootcd.host.clock import SystemClock
from bootcd.host.files import read_bounded
from bootcd.image.repository import Repository
from bootcd.model.errors import InvalidArguments, InvalidManifest, NotFound
from bootcd.oci.manifest import (
    CREATED,
    INDEX_MEDIA_TYPES,
    MANIFEST_MEDIA_TYPES,
    MAX_MANIFEST_BYTES,
    parse_manifest,
)
from bootcd.oci.notes import (
    ARTIFACT_TYPE,
    EMPTY_TYPE,
    LAYER_TYPE,
    MAX_NOTES_BYTES,
    clean_notes,
)
from bootcd.oci.reference import parse_reference
from bootcd.oci.resolve import digest_of
from bootcd.oci.strictjson import parse_object
from bootcd.oci.trust.attachment import referrers_tag

_EMPTY = b"{}"
_ACCEPT = ", ".join(INDEX_MEDIA_TYPES + MANIFEST_MEDIA_TYPES)
_MANIFEST_TYPE, _INDEX_TYPE = MANIFEST_MEDIA_TYPES[0], INDEX_MEDIA_TYPES[0]


def push_notes(
    image: str, file: Path, *, authfile: str = "", plain_http: bool = False, ca_file: str = ""
) -> str:
    """Attach a file to an image; return the digest of the artifact. May be repeated: the newest counts.

    Raises InvalidArguments for a file that is none, InvalidImage, NotFound, and what RegistryError roots.
    """
    text = _read(file)
    reference = parse_reference(image)
    opening = Repository.open(reference, authfile=authfile, plain_http=plain_http, ca_file=ca_file)
    with asyncio.run(opening) as repository:
        return _attach(repository, text, SystemClock().now())


def _read(file: Path) -> bytes:
    try:
        data = read_bounded(file, MAX_NOTES_BYTES)
        data.decode()
    except UnicodeDecodeError as error:
        raise InvalidArguments(f"{file} is not UTF-8 text") from error
    except OSError as error:
        raise InvalidArguments(
            f"{file} cannot be taken: {error.strerror}", hint=f"a text of at most {MAX_NOTES_BYTES >> 10} KiB"
        ) from error
    if not clean_notes(data):
        raise InvalidArguments(f"{file} says nothing")
    return data


def _attach(repository: Repository, text: bytes, now: datetime) -> str:
    subject = _subject(repository)
    created = {CREATED: now.strftime("%Y-%m-%dT%H:%M:%SZ")}
    document = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": _upload(repository, _EMPTY, EMPTY_TYPE),
        "layers": [_upload(repository, text, LAYER_TYPE)],
        "subject": subject,
        "annotations": created,
    }
    manifest = _json(document)
    digest = digest_of(manifest)
    answer = repository.put_manifest(digest, manifest, _MANIFEST_TYPE)
    if "OCI-Subject" not in answer.headers:
        entry = _descriptor(manifest, _MANIFEST_TYPE) | {
            "artifactType": ARTIFACT_TYPE,
            "annotations": created,
        }
        _list(repository, referrers_tag(str(subject["digest"])), entry)
    return digest


def _subject(repository: Repository) -> dict[str, Any]:
    """Describe what the image's name stands for, an index or a manifest."""
    reference = repository.reference
    answer = repository.get_manifest(reference.for_fetch, _ACCEPT)
    data = answer.content
    if reference.digest and digest_of(data, reference.digest) != reference.digest:
        raise InvalidManifest(f"{reference} is not what registry {reference.registry} gave")
    return _descriptor(data, parse_manifest(data, answer.headers.get("Content-Type")).media_type)


def _list(repository: Repository, tag: str, entry: dict[str, Any]) -> None:
    """Add an artifact to the index that stands for the registry's list of them."""
    try:
        data = repository.get_manifest(tag, _INDEX_TYPE).content
        index = parse_object(
            data, what="the index of referrers", limit_bytes=MAX_MANIFEST_BYTES, error=InvalidManifest
        )
        entries = index.get("manifests")
        if not isinstance(entries, list):
            raise InvalidManifest("the index of referrers lists nothing")
    except NotFound:
        index, entries = {"schemaVersion": 2, "mediaType": _INDEX_TYPE}, []
    repository.put_manifest(tag, _json(index | {"manifests": [*entries, entry]}), _INDEX_TYPE)


def _upload(repository: Repository, data: bytes, media_type: str) -> dict[str, Any]:
    repository.put_blob(digest_of(data), data)
    return _descriptor(data, media_type)


def _descriptor(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
