"""Commit metadata built, read back and refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.model.errors import BackendFailed, InvalidManifest
from bootcd.ostreefmt import metadata as m

DIGEST = "sha256:" + "ab" * 32
MANIFEST = '{"schemaVersion":2}'
CONFIG = '{"architecture":"amd64"}'


def test_merge_metadata_has_bootcs_keys_and_reads_back() -> None:
    built = m.merge_commit_metadata(DIGEST, MANIFEST, CONFIG)
    assert set(built) == {
        "ostree.manifest-digest",
        "ostree.manifest",
        "ostree.container.image-config",
        "ostree.importer.version",
    }
    assert m.parse_merge_metadata(built) == m.ImageMetadata(DIGEST, MANIFEST, CONFIG)


def test_cached_update_has_bootcs_keys_and_reads_back() -> None:
    built = m.cached_update_metadata(DIGEST, MANIFEST, CONFIG)
    assert set(built) == {
        "ostree-ext.cached.manifest-digest",
        "ostree-ext.cached.manifest",
        "ostree-ext.cached.config",
    }
    assert m.parse_cached_update(built) == m.ImageMetadata(DIGEST, MANIFEST, CONFIG)


def test_layer_metadata_names_the_importer_alone() -> None:
    assert m.layer_commit_metadata() == {"ostree.importer.version": m.IMPORTER}


def test_merge_and_cached_metadata_do_not_read_each_other() -> None:
    assert m.parse_merge_metadata(m.cached_update_metadata(DIGEST, MANIFEST, CONFIG)) is None
    assert m.parse_cached_update(m.merge_commit_metadata(DIGEST, MANIFEST, CONFIG)) is None


def test_merge_metadata_without_config_reads_as_null() -> None:
    parsed = m.parse_merge_metadata({m.MANIFEST_DIGEST: DIGEST, m.MANIFEST: MANIFEST})
    assert parsed == m.ImageMetadata(DIGEST, MANIFEST, "null")


@pytest.mark.parametrize("missing", [m.CACHED_MANIFEST, m.CACHED_CONFIG])
def test_cached_update_with_missing_key_raises(missing: str) -> None:
    built = m.cached_update_metadata(DIGEST, MANIFEST, CONFIG)
    del built[missing]
    with pytest.raises(BackendFailed, match=missing):
        m.parse_cached_update(built)


def test_merge_metadata_without_manifest_raises() -> None:
    with pytest.raises(BackendFailed, match=m.MANIFEST):
        m.parse_merge_metadata({m.MANIFEST_DIGEST: DIGEST, m.CONFIG: CONFIG})


@pytest.mark.parametrize("digest", ["", "abc", "sha256:AB" + "ab" * 31, DIGEST + "0", "md5:" + "a" * 32])
def test_merge_metadata_with_malformed_digest_raises(digest: str) -> None:
    with pytest.raises(BackendFailed, match="no digest"):
        m.parse_merge_metadata(m.merge_commit_metadata(digest, MANIFEST, CONFIG))


def test_merge_metadata_of_absurd_size_raises() -> None:
    with pytest.raises(BackendFailed, match="larger"):
        m.parse_merge_metadata(m.merge_commit_metadata(DIGEST, " " * (9 << 20), CONFIG))


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"b": [1, None, True], "a": {}}, '{"a":{},"b":[1,null,true]}'),
        ({"é": 'ü\n\x1f/"\\'}, '{"é":"ü\\n\\u001f/\\"\\\\"}'),
        # The example of RFC 8785 §3.2.3, whose order is that of UTF-16.
        (
            dict.fromkeys(["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\x80", "\u00f6"], ""),
            '{"\\r":"","1":"","\x80":"","ö":"","€":"","\U0001f600":"","\ufb33":""}',
        ),
        (-(2**53) + 1, "-9007199254740991"),
    ],
    ids=["order", "escapes", "rfc-8785", "integer"],
)
def test_canonical_json_gives_rfc_8785_form(document: object, text: str) -> None:
    assert m.canonical_json(document) == text


@pytest.mark.parametrize(
    "document",
    [1.0, float("nan"), 2**53, {"a": "\ud800"}, {"\udfff": 1}, [[0.5]]],
    ids=["float", "nan", "big", "surrogate", "surrogate-key", "nested"],
)
def test_canonical_json_of_what_has_no_such_form_raises(document: object) -> None:
    with pytest.raises(InvalidManifest):
        m.canonical_json(document)


def test_canonical_json_too_deep_raises() -> None:
    document: list[object] = []
    for _ in range(5000):
        document = [document]
    with pytest.raises(InvalidManifest, match="deeply"):
        m.canonical_json(document)


json_documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=8),
    lambda child: (
        st.lists(child, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",)), max_size=4), child, max_size=4)
    ),
    max_leaves=12,
)


@given(json_documents)
def test_canonical_json_parses_back_and_is_stable(document: object) -> None:
    text = m.canonical_json(document)
    assert json.loads(text) == document
    assert m.canonical_json(json.loads(text)) == text
