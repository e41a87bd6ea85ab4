from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.model.errors import InvalidManifest, SignatureRejected
from bootcd.oci.trust.attachment import parse_referrers, parse_signature_manifest
from bootcd.oci.trust.bundle import (
    Subject,
    parse_bundle,
    parse_log_annotation,
    parse_log_body,
    parse_statement,
)

DIGEST = "sha256:" + "0" * 64


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def bundle(**changes: Any) -> dict[str, Any]:
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": "x"}},
        "dsseEnvelope": {
            "payload": b64(b"payload"),
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": b64(b"signature")}],
        },
    } | changes


def encoded(node: Any) -> bytes:
    return json.dumps(node).encode()


ENTRY = {
    "logIndex": "7",
    "logId": {"keyId": b64(b"\x01\x02")},
    "integratedTime": "100",
    "inclusionPromise": {"signedEntryTimestamp": b64(b"promise")},
    "canonicalizedBody": b64(b"body"),
}


def test_bundle_gives_what_its_signer_signed() -> None:
    parsed = parse_bundle(encoded(bundle()))
    assert parsed.signed == b"DSSEv1 28 application/vnd.in-toto+json 7 payload"
    assert (parsed.signature, parsed.certificates, parsed.log_entry) == (b"signature", (), None)


def test_log_entry_gives_the_same_bytes_from_a_bundle_and_from_an_annotation() -> None:
    material = {"certificate": {"rawBytes": b64(b"der")}, "tlogEntries": [ENTRY]}
    from_bundle = parse_bundle(encoded(bundle(verificationMaterial=material)))
    payload = {"body": b64(b"body"), "integratedTime": 100, "logIndex": 7, "logID": "0102"}
    annotation = {"SignedEntryTimestamp": b64(b"promise"), "Payload": payload}
    assert from_bundle.log_entry == parse_log_annotation(encoded(annotation))
    assert from_bundle.certificates == (b"der",)
    assert from_bundle.log_entry is not None
    assert (
        from_bundle.log_entry.signed
        == b'{"body":"Ym9keQ==","integratedTime":100,"logID":"0102","logIndex":7}'
    )


def test_log_without_a_promise_is_as_good_as_none() -> None:
    entry = {name: value for name, value in ENTRY.items() if name != "inclusionPromise"}
    material = {"publicKey": {}, "tlogEntries": [entry]}
    assert parse_bundle(encoded(bundle(verificationMaterial=material))).log_entry is None


@pytest.mark.parametrize(
    "node",
    [
        bundle(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.1"),
        bundle(verificationMaterial=None),
        bundle(dsseEnvelope=None),
        bundle(dsseEnvelope=bundle()["dsseEnvelope"] | {"signatures": []}),
        bundle(dsseEnvelope=bundle()["dsseEnvelope"] | {"signatures": [{"sig": "YQ=="}] * 2}),
        bundle(dsseEnvelope=bundle()["dsseEnvelope"] | {"payload": "%"}),
        bundle(dsseEnvelope=bundle()["dsseEnvelope"] | {"payloadType": "text/plain"}),
        bundle(verificationMaterial={"certificate": {}}),
        bundle(verificationMaterial={"x509CertificateChain": {"certificates": [{"rawBytes": "YQ=="}] * 9}}),
        bundle(verificationMaterial={"tlogEntries": [ENTRY, ENTRY]}),
        bundle(verificationMaterial={"tlogEntries": [ENTRY | {"integratedTime": "1" * 20}]}),
        bundle(verificationMaterial={"tlogEntries": [ENTRY | {"integratedTime": -1}]}),
        bundle(verificationMaterial={"tlogEntries": [ENTRY | {"logId": None}]}),
    ],
)
def test_bundle_of_another_form_is_refused(node: dict[str, Any]) -> None:
    with pytest.raises(SignatureRejected):
        parse_bundle(encoded(node))


def test_statement_names_its_image_by_annotation_or_name() -> None:
    def of(subject: dict[str, Any]) -> Subject:
        statement = {
            "_type": "https://in-toto.io/Statement/v1",
            "predicateType": "https://sigstore.dev/cosign/sign/v1",
            "subject": [{"digest": {"sha256": "00"}} | subject],
        }
        return parse_statement(encoded(statement))[0]

    assert of({}) == Subject(("sha256:00",), "")
    assert of({"name": "quay.io/a"}).name == "quay.io/a"
    assert of({"annotations": {"docker-reference": "quay.io/a:1"}}).name == "quay.io/a:1"


MEMBERS = (
    *(
        "kind",
        "spec",
        "apiVersion",
        "signature",
        "content",
        "publicKey",
        "data",
        "hash",
        "value",
        "signatures",
    ),
    *("verifier", "payloadHash", "layers", "manifests", "digest", "mediaType", "size", "subject", "_type"),
    *("predicateType", "annotations", "Payload", "SignedEntryTimestamp", "body", "dsseEnvelope"),
    *("verificationMaterial", "tlogEntries", "certificate", "rawBytes"),
)

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["YQ==", "0.0.1", "dsse"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(MEMBERS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(_JSON)
def test_no_document_makes_a_parser_fail_otherwise(node: Any) -> None:
    for parse in (parse_log_body, parse_log_annotation, parse_statement, parse_bundle):
        try:
            parse(encoded(node))
        except SignatureRejected:
            pass
    for listing in (parse_signature_manifest, parse_referrers):
        try:
            listing(encoded(node))
        except InvalidManifest:
            pass


@given(
    st.sampled_from(["dsseEnvelope", "verificationMaterial", "mediaType"]),
    _JSON,
)
def test_no_part_of_a_bundle_makes_the_parser_fail_otherwise(place: str, node: Any) -> None:
    try:
        parse_bundle(encoded(bundle(**{place: node})))
    except SignatureRejected:
        pass


def test_referrers_of_the_kinds_known_are_listed_and_of_no_kind_too() -> None:
    def entry(digit: str, kind: str | None) -> dict[str, Any]:
        more = {} if kind is None else {"artifactType": kind}
        return {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": "sha256:" + digit * 64,
            "size": 1,
        } | more

    entries = [
        entry("1", "application/vnd.dev.sigstore.bundle.v0.3+json"),
        entry("2", "application/vnd.oci.empty.v1+json"),
        entry("3", "application/spdx+json"),
        entry("4", None),
    ]
    assert [digest[7] for digest in parse_referrers(encoded({"manifests": entries}))] == ["1", "2", "4"]
