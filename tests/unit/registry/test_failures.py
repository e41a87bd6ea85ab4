from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.model.errors import (
    BootcdError,
    NotFound,
    RegistryAuthRequired,
    RegistryDenied,
    RegistryProtocolError,
    RegistryRateLimited,
    RegistryUnavailable,
)
from bootcd.oci.reference import parse_reference
from bootcd.registry.failures import Target, error_words
from bootcd.registry.transport import basic_authorization

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
TARGET = Target(parse_reference("quay.example/os/base:44"))


def document(message: object, code: object = "DENIED") -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        pytest.param(401, RegistryAuthRequired, id="401"),
        pytest.param(403, RegistryDenied, id="403"),
        pytest.param(404, NotFound, id="404"),
        pytest.param(429, RegistryRateLimited, id="429"),
        pytest.param(500, RegistryUnavailable, id="500"),
        pytest.param(503, RegistryUnavailable, id="503"),
        pytest.param(400, RegistryProtocolError, id="400"),
        pytest.param(302, RegistryProtocolError, id="redirect-to-nowhere"),
    ],
)
def test_answered_status_gives_its_own_error_naming_the_image(status: int, kind: type[BootcdError]) -> None:
    error = TARGET.answered(status, {}, document("no\x1b[31m way"), now=NOW)
    assert type(error) is kind
    assert error.fields == {
        "registry": "quay.example",
        "repository": "os/base",
        "reference": "quay.example/os/base:44",
    }
    assert "quay.example/os/base:44" in error.message
    assert error.message.endswith("(DENIED: no?[31m way)")


@pytest.mark.parametrize(
    ("secret", "echo"),
    [
        ("Bearer abcdefgh", "bad token abcdefgh"),
        ("Bearer " + "t" * 400, "bad token " + "t" * 400),
        (basic_authorization("puller", "correct horse"), "no user puller with password 'correct horse'"),
        (basic_authorization("puller", "correct horse"), "got cHVsbGVyOmNvcnJlY3QgaG9yc2U="),
        ("refreshing", "unknown token refreshing"),
    ],
    ids=["token", "cut off", "decoded", "encoded", "bare"],
)
def test_answered_secret_repeated_by_the_server_is_not_quoted(secret: str, echo: str) -> None:
    error = TARGET.answered(401, {}, document(echo), now=NOW, secret=secret)
    assert error.message.endswith("quay.example/os/base:44")


def test_answered_retry_after_is_a_field() -> None:
    assert TARGET.answered(429, {"Retry-After": "17"}, b"", now=NOW).fields["retry_after_secs"] == 17


def test_answered_blob_is_named_in_message_and_fields() -> None:
    digest = "sha256:" + "a" * 64
    error = Target(TARGET.reference, blob=digest).answered(404, {}, b"", now=NOW)
    assert digest in error.message
    assert error.fields["blob"] == digest


def test_answered_server_that_repeats_the_credential_is_not_quoted() -> None:
    body = document("token c2VjcmV0 is bad")
    assert "c2VjcmV0" not in TARGET.answered(401, {}, body, now=NOW, secret="Bearer c2VjcmV0").message


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>log in</html>", id="web-page"),
        pytest.param(b"[]", id="list"),
        pytest.param(b'{"errors": {}}', id="errors-no-list"),
        pytest.param(b'{"errors": []}', id="errors-empty"),
        pytest.param(b'{"errors": ["x"]}', id="error-no-object"),
        pytest.param(document(5, None), id="members-no-text"),
        pytest.param(b'{"errors":' * 20_000, id="deep"),
        pytest.param(b"\xff\xfe", id="no-text"),
    ],
)
def test_error_words_of_other_content_are_none(body: bytes) -> None:
    assert error_words(body) == ""


@given(st.text())
def test_error_words_are_short_and_printable(message: str) -> None:
    words = error_words(document(message))
    assert len(words) <= 203
    assert words.isprintable()
