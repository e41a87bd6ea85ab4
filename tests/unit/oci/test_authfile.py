"""Credentials of auth files: which entry fits, old docker forms, and that secrets stay hidden."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.model.errors import InvalidConfig
from bootcd.oci.authfile import MAX_AUTHFILE_BYTES, AuthFile, Credential, parse_authfile

WHERE = "/etc/ostree/auth.json"


def entry(user: str, password: str = "pw") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def authfile(auths: dict[str, Any], **more: Any) -> AuthFile:
    return parse_authfile(json.dumps({"auths": auths, **more}).encode(), WHERE)


LAYERED = authfile(
    {
        "quay.io": entry("registry"),
        "quay.io/fedora": entry("namespace"),
        "quay.io/fedora/os": entry("repository"),
        "quay.io/public": {},
        "localhost:5000": entry("port"),
        "[::1]:5000": entry("six"),
    }
)


@pytest.mark.parametrize(
    ("registry", "repository", "user"),
    [
        ("quay.io", "fedora/os", "repository"),
        ("quay.io", "fedora/os/deep", "repository"),
        ("quay.io", "fedora/os2", "namespace"),
        ("quay.io", "fedora", "namespace"),
        ("quay.io", "fedora2/os", "registry"),
        ("QUAY.io", "other", "registry"),
        ("quay.io", "public/os", None),
        ("localhost:5000", "os", "port"),
        ("localhost", "os", None),
        ("[::1]:5000", "os", "six"),
        ("evil.quay.io", "fedora/os", None),
        ("quay.io.evil", "fedora/os", None),
    ],
)
def test_longest_entry_that_fits_counts(registry, repository, user):
    expected = Credential(user, "pw") if user else None
    assert LAYERED.lookup(registry, repository) == expected


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        ("https://index.docker.io/v1/", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
        ("docker.io", "docker.io"),
        ("docker.io/library", "docker.io"),
        ("https://host.example/v1/", "host.example"),
        ("http://host.example:5000", "host.example:5000"),
        ("host.example/", "host.example"),
        ("HOST.example", "host.example"),
    ],
)
def test_key_of_docker_is_for_its_host(key, registry):
    assert authfile({key: entry("joe")}).lookup(registry, "library/os") == Credential("joe", "pw")


def test_present_form_of_a_key_counts_before_the_old_one():
    for keys in (["https://h.example/v1/", "h.example"], ["h.example", "https://h.example/v1/"]):
        found = authfile({key: entry("old" if "://" in key else "new") for key in keys})
        assert found.lookup("h.example", "os") == Credential("new", "pw")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (entry("joe", "a:b:c"), Credential("joe", "a:b:c")),
        (entry("joe", "pw\0\0"), Credential("joe", "pw")),
        (entry("joe", ""), Credential("joe", "")),
        (entry("jö", "pä"), Credential("jö", "pä")),
        ({"identitytoken": "tok"}, Credential(identity_token="tok")),
        ({**entry("<token>", "x"), "identitytoken": "tok"}, Credential("<token>", "x", "tok")),
        ({"auth": ""}, None),
        ({"auth": None, "email": "x"}, None),
    ],
)
def test_entry_is_decoded(fields, expected):
    assert authfile({"h.example": fields}).lookup("h.example", "os") == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"auth": "!!!"},
        {"auth": "am9l"},
        {"auth": "OnB3"},
        {"auth": "/////w=="},
        {"auth": 5},
        {"identitytoken": ["secret"]},
        {"auth": "secret pass"},
    ],
)
def test_broken_entry_is_reported_only_when_it_is_needed(fields):
    found = authfile({"h.example": fields, "ok.example": entry("joe")})
    assert found.lookup("ok.example", "os") == Credential("joe", "pw")
    with pytest.raises(InvalidConfig, match=r"h\.example in /etc/ostree/auth\.json") as caught:
        found.lookup("h.example", "os")
    assert "secret" not in caught.value.message
    assert caught.value.fields == {"path": WHERE}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b'{"auths": []}',
        b'{"auths": {"h": "x"}}',
        b'{"auths": {"h": {}, "h": {}}}',
        b'{"credHelpers": []}',
        b'{"credHelpers": {"h": "../evil"}}',
        b'{"credHelpers": {"h": "a b"}}',
        b'{"credHelpers": {"h": 5}}',
        b'{"credsStore": "/bin/sh"}',
        b'{"credsStore": {"a": 1}}',
        b" " * (MAX_AUTHFILE_BYTES + 1),
    ],
    ids=lambda data: repr(data[:40]),
)
def test_malformed_file_is_refused_by_name(data):
    with pytest.raises(InvalidConfig, match=WHERE):
        parse_authfile(data, WHERE)


@pytest.mark.parametrize("data", [b"{}", b'{"auths": null}', b'{"auths": {}}'])
def test_file_without_entries_has_no_credential(data):
    found = parse_authfile(data, WHERE)
    assert found.lookup("quay.io", "os") is None
    assert found.helper_for("quay.io") is None


def test_helper_is_named_by_registry_then_by_default():
    found = authfile({}, credHelpers={"gcr.io": "gcloud", "plain.example": ""}, credsStore="secretservice")
    assert found.helper_for("gcr.io") == "gcloud"
    assert found.helper_for("quay.io") == "secretservice"
    assert found.helper_for("plain.example") is None


def test_repr_hides_secrets():
    found = authfile({"h.example": {**entry("joe", "hunter2"), "identitytoken": "tok123"}})
    credential = found.lookup("h.example", "os")
    assert credential is not None
    for secret in ("hunter2", "tok123", entry("joe", "hunter2")["auth"]):
        assert secret not in repr(credential) + str(credential) + repr(found)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["auths", "credHelpers", "credsStore", "x"]), JSON))
def test_any_file_is_read_or_refused(document):
    try:
        found = parse_authfile(json.dumps(document).encode(), WHERE)
        found.lookup("h.example", "a/b")
        found.helper_for("h.example")
    except InvalidConfig:
        return


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_user_and_password_are_read_back(user, password):
    user = user.replace(":", "") or "u"
    found = authfile({"h.example": entry(user, password)}).lookup("h.example", "os")
    assert found == Credential(user, password.rstrip("\0"))
