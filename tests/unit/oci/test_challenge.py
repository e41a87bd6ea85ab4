"""WWW-Authenticate headers, token requests and the answers of token servers."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootcd.model.errors import RegistryProtocolError
from bootcd.oci.challenge import (
    MAX_CHALLENGES,
    MAX_HEADER_CHARS,
    MAX_PARAMETERS,
    MAX_TOKEN_RESPONSE_BYTES,
    BearerToken,
    Challenge,
    parse_challenges,
    parse_token,
    token_request,
)

HUB = (
    'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
    'scope="repository:library/fedora:pull"'
)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []),
        (" , ,", []),
        ('Basic realm="x"', [Challenge("basic", {"realm": "x"})]),
        ('BASIC Realm = "x" , Charset=UTF-8', [Challenge("basic", {"realm": "x", "charset": "UTF-8"})]),
        ("Negotiate", [Challenge("negotiate")]),
        ("Basic realm==", [Challenge("basic", {}, "realm==")]),
        (
            "Negotiate , NTLM,Basic realm=x",
            [Challenge("negotiate"), Challenge("ntlm"), Challenge("basic", {"realm": "x"})],
        ),
        ("Negotiate YII+/a-._~==", [Challenge("negotiate", {}, "YII+/a-._~==")]),
        (
            'Negotiate abc=, Basic realm="x"',
            [Challenge("negotiate", {}, "abc="), Challenge("basic", {"realm": "x"})],
        ),
        (
            'Basic realm="a, Bearer realm=b", Bearer realm="https://h/t" , service="s"',
            [
                Challenge("basic", {"realm": "a, Bearer realm=b"}),
                Challenge("bearer", {"realm": "https://h/t", "service": "s"}),
            ],
        ),
        (r'Basic realm="a \"b\" \\ c"', [Challenge("basic", {"realm": r'a "b" \ c'})]),
        ('Basic realm=""', [Challenge("basic", {"realm": ""})]),
        ('Basic realm="ä"', [Challenge("basic", {"realm": "ä"})]),
        (
            "Bearer realm=https://h/t?x=1,service=s",
            [Challenge("bearer", {"realm": "https://h/t?x=1", "service": "s"})],
        ),
        ('Bearer realm="x",,error="y"', [Challenge("bearer", {"realm": "x", "error": "y"})]),
        (
            HUB,
            [
                Challenge(
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:library/fedora:pull",
                    },
                )
            ],
        ),
    ],
)
def test_header_is_taken_apart_into_challenges(header, expected):
    assert parse_challenges(header) == expected


@pytest.mark.parametrize(
    "header",
    [
        'Basic realm="x',
        'Basic realm="x" service',
        'Basic realm="x"service="y"',
        'Basic realm="x\\',
        '"Basic"',
        "Bearer realm=a b=c",
        'Basic realm="a\r\nb"',
        'Basic realm="a\0b"',
        "(x)",
        'Basic realm="a", realm="b"',
        'Basic realm="a", REALM="b"',
        "=x",
        "Basic a b",
        "Basic realm=" + "x" * MAX_HEADER_CHARS,
        ",".join(f"s{n}" for n in range(MAX_CHALLENGES + 1)),
        "Basic " + ",".join(f"p{n}=x" for n in range(MAX_PARAMETERS + 1)),
    ],
)
def test_malformed_header_is_refused(header):
    with pytest.raises(RegistryProtocolError):
        parse_challenges(header)


NAME = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,8}", fullmatch=True)
VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)


@settings(max_examples=50)
@given(st.lists(st.tuples(NAME, st.dictionaries(NAME.map(str.lower), VALUE, max_size=4)), max_size=5))
def test_any_challenges_survive_being_written_and_read(challenges):
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    header = ", ".join(
        f"{scheme} " + ", ".join(f"{name}={quoted(value)}" for name, value in params.items())
        for scheme, params in challenges
    )
    expected = [Challenge(scheme.lower(), params) for scheme, params in challenges]
    assert parse_challenges(header) == expected


@given(st.text(max_size=60) | st.text('Basic realm="x",= \\', max_size=60))
def test_any_header_is_parsed_or_refused(header):
    try:
        challenges = parse_challenges(header)
    except RegistryProtocolError:
        return
    assert all(challenge.scheme for challenge in challenges)


@pytest.mark.timeout(10)
def test_header_made_to_backtrack_ends_soon():
    with pytest.raises(RegistryProtocolError):
        parse_challenges('Basic realm="' + "\\a" * 8000)
    with pytest.raises(RegistryProtocolError):
        parse_challenges("Basic " + "a" * 16000 + '"')


# Token requests


def test_token_is_requested_with_service_and_scope_of_the_challenge():
    [challenge] = parse_challenges(HUB)
    assert token_request(challenge, "other") == (
        "https://auth.docker.io/token",
        [("service", "registry.docker.io"), ("scope", "repository:library/fedora:pull")],
    )


def test_token_is_requested_for_pulling_where_no_scope_is_given():
    challenge = Challenge("bearer", {"realm": "https://h:8443/auth/?client=a&x="})
    assert token_request(challenge, "a/b") == (
        "https://h:8443/auth/",
        [("client", "a"), ("x", ""), ("scope", "repository:a/b:pull")],
    )


def test_token_server_without_tls_is_for_insecure_registries_only():
    challenge = Challenge("bearer", {"realm": "http://127.0.0.1:5001/token"})
    with pytest.raises(RegistryProtocolError, match="without TLS"):
        token_request(challenge, "a")
    assert token_request(challenge, "a", allow_http=True)[0] == "http://127.0.0.1:5001/token"


@pytest.mark.parametrize(
    "realm",
    [
        "",
        "Registry",
        "/token",
        "//h/token",
        "ftp://h/t",
        "file:///etc/passwd",
        "https://",
        "https:///t",
        "https://user:pw@h/t",
        "https://h@evil/t",
        "https://h:port/t",
        "https://h:99999/t",
        "https://[::1/t",
        "https://h /t",
        "https://h/t\r\nX: y",
        "https://h\\@evil/t",
        "https://hä/t",
        "https://h/" + "t" * 2048,
    ],
)
def test_realm_that_is_no_web_address_is_refused(realm):
    with pytest.raises(RegistryProtocolError, match="no URL") as caught:
        token_request(Challenge("bearer", {"realm": realm}), "a", allow_http=True)
    assert "pw" not in caught.value.message


def test_other_scheme_gets_no_token_request():
    with pytest.raises(RegistryProtocolError, match="does not ask for a token"):
        token_request(Challenge("basic", {"realm": "https://h/t"}), "a")


# Answers


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"token": "abc"}, BearerToken("abc", 60, None)),
        ({"access_token": "abc", "expires_in": 300}, BearerToken("abc", 300, None)),
        ({"token": "a", "access_token": "b"}, BearerToken("a", 60, None)),
        ({"token": "", "access_token": "b"}, BearerToken("b", 60, None)),
        (
            {"token": "a", "issued_at": "2026-01-02T03:04:05.123456789Z"},
            BearerToken("a", 60, datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)),
        ),
        ({"token": "a", "issued_at": "now", "expires_in": 0}, BearerToken("a", 60, None)),
        ({"token": "a", "issued_at": 5, "expires_in": -1}, BearerToken("a", 60, None)),
        ({"token": "a", "expires_in": 10**12}, BearerToken("a", 86400, None)),
        ({"token": "a", "expires_in": "300"}, BearerToken("a", 60, None)),
        ({"token": "a", "expires_in": True}, BearerToken("a", 60, None)),
        ({"token": "a", "expires_in": None}, BearerToken("a", 60, None)),
    ],
)
def test_token_answer_is_parsed(document, expected):
    assert parse_token(json.dumps(document).encode()) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>login</html>",
        b"[]",
        b"{}",
        b'{"token": null}',
        b'{"token": 5}',
        b'{"token": ["a"]}',
        b'{"token": "a b"}',
        b'{"token": "a\\r\\nX: y"}',
        b'{"token": "\\u00e4"}',
        b'{"token":"a","token":"b"}',
        b'{"token": "' + b"a" * MAX_TOKEN_RESPONSE_BYTES + b'"}',
        b"[" * 10000,
    ],
    ids=lambda data: repr(data[:25]),
)
def test_answer_without_a_token_is_refused(data):
    with pytest.raises(RegistryProtocolError, match="token server"):
        parse_token(data)


def test_token_does_not_show_its_secret():
    assert "secret" not in repr(parse_token(b'{"token": "secret"}'))
