"""Release notes: which artifact they are, and what of their text is shown."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.model.errors import InvalidManifest
from bootcd.oci.notes import (
    ARTIFACT_TYPE,
    EMPTY_TYPE,
    LAYER_TYPE,
    MAX_CANDIDATES,
    MAX_NOTES_BYTES,
    clean_notes,
    notes_among,
    notes_layer,
)
from bootcd.oci.trust.attachment import referrers_tag

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
SUBJECT = "sha256:" + "a" * 64


def descriptor(number: int = 1, media_type: str = MANIFEST, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{number:064x}", "size": 7} | more


def referrer(number: int, created: str = "", **more: Any) -> dict[str, Any]:
    annotations = {"org.opencontainers.image.created": created} if created else None
    return descriptor(number, artifactType=ARTIFACT_TYPE, annotations=annotations) | more


def index(*entries: object) -> bytes:
    return json.dumps({"schemaVersion": 2, "manifests": entries}).encode()


def artifact(**changes: object) -> bytes:
    document = {
        "artifactType": ARTIFACT_TYPE,
        "config": descriptor(media_type=EMPTY_TYPE),
        "layers": [descriptor(5, LAYER_TYPE)],
        "subject": descriptor() | {"digest": SUBJECT},
    }
    return json.dumps(document | changes).encode()


def test_referrers_tag_is_that_of_the_specification() -> None:
    assert referrers_tag(SUBJECT) == "sha256-" + "a" * 64


def test_notes_among_referrers_come_newest_first_and_others_not_at_all() -> None:
    found = notes_among(
        index(
            referrer(1),
            referrer(2, "2026-01-01T00:00:00Z"),
            referrer(3, "2026-03-01T00:00:00Z"),
            referrer(4, "2026-02-01T00:00:00Z"),
            referrer(5, "yesterday"),
            descriptor(6, artifactType="application/vnd.example.sbom"),
            descriptor(7),
            referrer(8, mediaType="text/plain"),
            referrer(9, size=1 << 30),
        )
    )
    assert [int(entry.digest[-1]) for entry in found] == [3, 4, 2, 5, 1]


def test_notes_among_very_many_referrers_are_a_few() -> None:
    assert len(notes_among(index(*(referrer(number) for number in range(100))))) == MAX_CANDIDATES


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"manifests": 1}', index(1), index({"digest": "x"}), index(referrer(1, size=-1))],
)
def test_index_out_of_order_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidManifest):
        notes_among(data)


def test_notes_layer_is_the_one_text() -> None:
    assert notes_layer(artifact(), SUBJECT).digest == f"sha256:{5:064x}"
    by_config = artifact(artifactType="", config=descriptor(media_type=ARTIFACT_TYPE))
    assert notes_layer(by_config, SUBJECT).media_type == LAYER_TYPE


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        artifact(artifactType="application/vnd.example"),
        artifact(subject=descriptor()),
        artifact(subject=None),
        artifact(layers=[]),
        artifact(layers=[descriptor(5, LAYER_TYPE)] * 2),
        artifact(layers=[descriptor(5, "text/html")]),
        artifact(layers=[descriptor(5, LAYER_TYPE, size=MAX_NOTES_BYTES + 1)]),
    ],
    ids=["empty", "kind", "subject", "no-subject", "no-text", "two-texts", "html", "large"],
)
def test_artifact_out_of_order_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidManifest):
        notes_layer(data, SUBJECT)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"# New\r\n\r\n- a\tb  \r\n", "# New\n\n- a\tb"),
        (b"\x1b[31mred\x1b[0m \x07\x00", "[31mred[0m"),
        ("\ufeffa\u202eb\u2066c\u200b\u2028d\u0085".encode(), "abc\nd"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        ("Größe 🎉".encode(), "Größe 🎉"),
        (b"\n\n \n", ""),
        (b"", ""),
    ],
)
def test_notes_are_shown_as_text_only(data: bytes, text: str) -> None:
    assert clean_notes(data) == text


@given(st.binary(max_size=400))
def test_any_bytes_are_shown_without_a_control_character(data: bytes) -> None:
    text = clean_notes(data)
    assert all(char.isprintable() or char in "\n\t" or char.isspace() for char in text)
    assert "\x1b" not in text
    assert clean_notes(text.encode()) == text


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text(max_size=5) | st.integers(), st.lists).map(
        lambda value: json.dumps({"manifests": value, "layers": value, "config": value}).encode()
    )
)
def test_any_document_is_read_or_refused_by_type(data: bytes) -> None:
    for parse in (notes_among, lambda data: notes_layer(data, SUBJECT)):
        with suppress(InvalidManifest):
            parse(data)
