from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.model.errors import SignatureRejected
from bootcd.oci.trust.payload import Payload, parse_payload

DIGEST = "sha256:" + "0" * 64
ATOMIC = "atomic container signature"


def document(**changes: Any) -> dict[str, Any]:
    critical = {
        "type": ATOMIC,
        "image": {"docker-manifest-digest": DIGEST},
        "identity": {"docker-reference": "quay.io/a:1"},
    }
    return {"critical": critical, "optional": {"creator": "me", "timestamp": 7, "else": [1]}} | changes


def encoded(node: Any) -> bytes:
    return json.dumps(node).encode()


def test_payload_says_digest_name_and_time() -> None:
    assert parse_payload(encoded(document()), "atomic") == Payload(DIGEST, "quay.io/a:1", "me", 7)


def test_payload_of_cosign_may_have_no_optional_part() -> None:
    node = document(optional=None)
    node["critical"]["type"] = "cosign container image signature"
    assert parse_payload(encoded(node), "cosign").timestamp is None
    with pytest.raises(SignatureRejected):
        parse_payload(encoded(node | {"critical": document()["critical"]}), "atomic")


def _without(*path: str) -> bytes:
    node = document()
    inner = node
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return encoded(node)


def _with(value: Any, *path: str) -> bytes:
    node = document()
    inner = node
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return encoded(node)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff",
        _without("optional"),
        _without("critical", "type"),
        _without("critical", "image", "docker-manifest-digest"),
        _with(1, "more"),
        _with(1, "critical", "more"),
        _with(1, "critical", "identity", "more"),
        _with("cosign container image signature", "critical", "type"),
        _with("sha256:00", "critical", "image", "docker-manifest-digest"),
        _with(None, "critical", "identity", "docker-reference"),
        _with(0.5, "optional", "timestamp"),
        _with(True, "optional", "timestamp"),
        _with(1e300, "optional", "timestamp"),
        _with(["me"], "optional", "creator"),
        encoded(document())[:-1] + b', "critical": {}}',
    ],
)
def test_payload_that_is_not_exactly_one_is_refused(data: bytes) -> None:
    with pytest.raises(SignatureRejected):
        parse_payload(data, "atomic")


@given(st.binary(max_size=200))
def test_no_bytes_make_the_parser_fail_otherwise(data: bytes) -> None:
    with pytest.raises(SignatureRejected):
        parse_payload(data, "atomic")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["critical", "optional", "type", "image", "identity", "timestamp", "docker-reference"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_JSON, st.sampled_from(["critical", "optional"]))
def test_no_document_makes_the_parser_fail_otherwise(node: Any, place: str) -> None:
    try:
        parse_payload(encoded(document(**{place: node})), "atomic")
    except SignatureRejected:
        pass
