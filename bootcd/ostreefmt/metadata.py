"""What bootc writes into the metadata of image and layer commits.

libostree holds these as `a{sv}` whose values here are all strings, so a plain dict of strings stands
for them and the adapter turns it into a variant. The commit of an image carries manifest and config;
a newer version that a check found is noted as detached metadata of the commit the image ref names.

Format: crate ostree-ext, `container/store.rs`, of https://github.com/bootc-dev/bootc.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from bootcd import __version__
from bootcd.model.errors import BackendFailed, InvalidManifest

MANIFEST_DIGEST = "ostree.manifest-digest"
MANIFEST = "ostree.manifest"
CONFIG = "ostree.container.image-config"
IMPORTER_VERSION = "ostree.importer.version"
DERIVED_BASE = "bootc.derived"
"Written by others on commits built on the host: the base commit that must be kept for them."

INDEX_DIGEST = "bootcd.index-digest"
"Ours, of an image's commit: what a registry calls an image that is published for several platforms."
TRUST = "bootcd.trust"
"Ours, of an image's commit: why the signature policy let the image in, `bootcd.model.trust.Verdict`."

CACHED_MANIFEST_DIGEST = "ostree-ext.cached.manifest-digest"
CACHED_MANIFEST = "ostree-ext.cached.manifest"
CACHED_CONFIG = "ostree-ext.cached.config"

# Nothing reads it back: it tells a person which program made the commit. It is part of the commit's
# checksum, which no one compares between programs; what is compared is the manifest digest.
IMPORTER = f"bootcd {__version__}"

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
_MAX_DOCUMENT = 8 << 20
_MAX_SAFE_INTEGER = 2**53 - 1


@dataclass(frozen=True, slots=True)
class ImageMetadata:
    """An image as its commit, or a note of a newer version, describes it.

    The JSON texts are as they were stored, not validated beyond their size.
    """

    manifest_digest: str
    manifest_json: str
    config_json: str
    "`null` if the commit has no config, which bootc tolerates."


def merge_commit_metadata(manifest_digest: str, manifest_json: str, config_json: str) -> dict[str, str]:
    """Return the metadata of an image's merge commit.

    `manifest_json` is the manifest in its OCI form; bootc writes it canonically and accepts any JSON.
    """
    return {
        MANIFEST_DIGEST: manifest_digest,
        MANIFEST: manifest_json,
        CONFIG: config_json,
        IMPORTER_VERSION: IMPORTER,
    }


def parse_merge_metadata(metadata: Mapping[str, str]) -> ImageMetadata | None:
    """Return the image a commit holds, None if it is no image's commit.

    Raises BackendFailed if the image is named but not described.
    """
    return _parse(metadata, MANIFEST_DIGEST, MANIFEST, CONFIG, needs_config=False)


def layer_commit_metadata() -> dict[str, str]:
    """Return the metadata of the commit of a derived layer."""
    return {IMPORTER_VERSION: IMPORTER}


def cached_update_metadata(manifest_digest: str, manifest_json: str, config_json: str) -> dict[str, str]:
    """Return the keys that note a newer version on the commit of the tracked image.

    They are detached metadata, which is written whole: merge them over what is there.
    """
    return {
        CACHED_MANIFEST_DIGEST: manifest_digest,
        CACHED_MANIFEST: manifest_json,
        CACHED_CONFIG: config_json,
    }


def parse_cached_update(metadata: Mapping[str, str]) -> ImageMetadata | None:
    """Return the newer version detached metadata notes, None if there is no note.

    Raises BackendFailed if the note is incomplete.
    """
    return _parse(metadata, CACHED_MANIFEST_DIGEST, CACHED_MANIFEST, CACHED_CONFIG, needs_config=True)


def canonical_json(document: object) -> str:
    """Return parsed JSON in the form of RFC 8785: sorted keys, no spaces, UTF-8 unescaped.

    Raises InvalidManifest for what has no such form, or one this function does not know: numbers with a
    fraction or an exponent, whole numbers beyond 2**53, text that is not Unicode, nesting beyond the
    interpreter's limit. No field of a manifest or a config needs them.
    """
    try:
        text = json.dumps(_canonical(document), separators=(",", ":"), ensure_ascii=False)
        text.encode()
    except RecursionError:
        raise InvalidManifest("a JSON document is nested too deeply") from None
    except UnicodeEncodeError:
        raise InvalidManifest("a JSON document holds text that is not Unicode") from None
    return text


def _canonical(node: object) -> object:
    match node:
        case dict():
            # UTF-16 order, as RFC 8785 §3.2.3 has it: it differs from Python's above U+FFFF.
            keys = sorted(node, key=lambda key: key.encode("utf-16-be", "surrogatepass"))
            return {key: _canonical(node[key]) for key in keys}
        case list() | tuple():
            return [_canonical(item) for item in node]
        case None | bool() | str():
            return node
        case int() if abs(node) <= _MAX_SAFE_INTEGER:
            return node
    raise InvalidManifest(f"a JSON document holds the number {node!r:.40}, which has no canonical form")


def _parse(
    metadata: Mapping[str, str], digest_key: str, manifest_key: str, config_key: str, *, needs_config: bool
) -> ImageMetadata | None:
    digest = metadata.get(digest_key)
    if digest is None:
        return None
    if not _DIGEST.fullmatch(digest):
        raise BackendFailed(f"the commit metadata {digest_key} is no digest")
    manifest = metadata.get(manifest_key)
    config = metadata.get(config_key)
    if manifest is None:
        raise BackendFailed(f"the commit metadata of {digest} lacks {manifest_key}")
    if config is None:
        if needs_config:
            raise BackendFailed(f"the commit metadata of {digest} lacks {config_key}")
        config = "null"
    if len(manifest) > _MAX_DOCUMENT or len(config) > _MAX_DOCUMENT:
        raise BackendFailed(f"the commit metadata of {digest} is larger than {_MAX_DOCUMENT >> 20} MiB")
    return ImageMetadata(digest, manifest, config)
