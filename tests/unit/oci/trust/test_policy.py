from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.model.errors import InvalidConfig
from bootcd.oci.reference import ImageReference, parse_reference
from bootcd.oci.trust.policy import AcceptAnything, parse_policy
from bootcd.oci.trust.scopes import registry_scopes

ACCEPT = [{"type": "insecureAcceptAnything"}]
REJECT = [{"type": "reject"}]
SIGNED = [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/etc/pki/key"}]
DIGEST = "sha256:" + "0" * 64


def accepts_unsigned(document: bytes, reference: ImageReference) -> bool:
    matched = parse_policy(document, "policy.json").match("docker", registry_scopes(reference))
    return all(isinstance(requirement, AcceptAnything) for requirement in matched.requirements)


def policy(default: Any = ACCEPT, transports: Any = None) -> bytes:
    document = {"default": default}
    if transports is not None:
        document["transports"] = transports
    return json.dumps(document).encode()


def scoped(scopes: dict[str, Any], default: Any = REJECT) -> bytes:
    return policy(default, {"docker": scopes})


@pytest.mark.parametrize(
    ("requirements", "accepted"),
    [
        (ACCEPT, True),
        (REJECT, False),
        (SIGNED, False),
        ([{"type": "sigstoreSigned", "keyPath": "/k"}], False),
        (ACCEPT + SIGNED, False),
        (SIGNED + ACCEPT, False),
    ],
    ids=["accept", "reject", "gpg", "sigstore", "accept-and-gpg", "gpg-and-accept"],
)
def test_image_may_come_unsigned_only_if_every_requirement_says_so(
    requirements: list[Any], accepted: bool
) -> None:
    assert accepts_unsigned(policy(requirements), parse_reference("quay.io/x/y:1")) is accepted


@pytest.mark.parametrize(
    ("scope", "reference"),
    [
        ("quay.io/a/b/c:1", "quay.io/a/b/c:1"),
        (f"quay.io/a/b/c@{DIGEST}", f"quay.io/a/b/c@{DIGEST}"),
        (f"quay.io/a/b/c@{DIGEST}", f"quay.io/a/b/c:1@{DIGEST}"),
        ("quay.io/a/b/c:latest", "quay.io/a/b/c"),
        ("quay.io/a/b/c", "quay.io/a/b/c:1"),
        ("quay.io/a/b", "quay.io/a/b/c:1"),
        ("quay.io/a", "quay.io/a/b/c:1"),
        ("quay.io", "quay.io/a/b/c:1"),
        ("quay.io:5000", "quay.io:5000/a:1"),
        ("*.io", "quay.io/a:1"),
        ("*.example.org", "registry.example.org/a:1"),
        ("*.example.org", "a.b.example.org/a:1"),
        ("*.example.org", "a.example.org:5000/a:1"),
        ("docker.io/library/busybox", "docker.io/busybox:1"),
        ("", "quay.io/a:1"),
    ],
)
def test_scope_of_the_policy_covers_an_image_below_it(scope: str, reference: str) -> None:
    image = parse_reference(reference)
    assert accepts_unsigned(scoped({scope: ACCEPT}), image)
    assert not accepts_unsigned(scoped({scope: REJECT}, default=ACCEPT), image)


@pytest.mark.parametrize(
    ("scope", "reference"),
    [
        ("quay.io/a/b", "quay.io/a/bc:1"),
        ("quay.io/a:2", "quay.io/a:1"),
        ("quay.io", "quay.io:5000/a:1"),
        ("quay.io:5000", "quay.io/a:1"),
        ("*.quay.io", "quay.io/a:1"),
        ("*.io:5000", "quay.io:5000/a:1"),
        ("quay.io/*", "quay.io/a:1"),
        ("*", "quay.io/a:1"),
        ("docker.io/busybox", "docker.io/busybox:1"),
        ("quay.io/a/", "quay.io/a/b:1"),
        (f"quay.io/a:1@{DIGEST}", f"quay.io/a:1@{DIGEST}"),
    ],
)
def test_scope_beside_the_image_says_nothing_about_it(scope: str, reference: str) -> None:
    assert not accepts_unsigned(scoped({scope: ACCEPT}), parse_reference(reference))


ORDERED = [
    "r.example.org:5000/a/b:1",
    "r.example.org:5000/a/b",
    "r.example.org:5000/a",
    "r.example.org:5000",
    "*.example.org",
    "*.org",
    "",
]


@given(st.dictionaries(st.sampled_from(ORDERED), st.booleans()), st.booleans())
def test_most_specific_scope_decides(scopes: dict[str, bool], default: bool) -> None:
    decides = next((scopes[scope] for scope in ORDERED if scope in scopes), default)
    document = scoped(
        {scope: ACCEPT if accepted else SIGNED for scope, accepted in scopes.items()},
        default=ACCEPT if default else SIGNED,
    )
    assert accepts_unsigned(document, parse_reference("r.example.org:5000/a/b:1")) is decides


def test_scopes_of_another_transport_say_nothing() -> None:
    document = policy(REJECT, {"docker-daemon": {"": ACCEPT}, "dir": {"": ACCEPT}})
    assert not accepts_unsigned(document, parse_reference("quay.io/a:1"))


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"{}",
        b'{"default": null}',
        b'{"default": {}}',
        b'{"default": "insecureAcceptAnything"}',
        b'{"default": ["insecureAcceptAnything"]}',
        b'{"default": [{}]}',
        policy([]),
        policy([{"type": "from-the-future"}]),
        policy([{"type": "reject", "extra": 1}]),
        policy([{"type": ["reject"]}]),
        policy(transports=[]),
        policy(transports={"docker": []}),
        policy(transports={"docker": "quay.io"}),
        policy(transports={"docker": {"quay.io": None}}),
        policy(transports={"docker": {"quay.io": {}}}),
        policy(transports={"docker": {"quay.io": {"type": "insecureAcceptAnything"}}}),
        b'{"default": [{"type": "reject"}], "default": [{"type": "insecureAcceptAnything"}]}',
        b'{"default": [{"type": "insecureAcceptAnything"}], "transport": {}}',
    ],
)
def test_policy_that_cannot_be_understood_is_refused(document: bytes) -> None:
    """An empty object of requirements must not pass for none."""
    with pytest.raises(InvalidConfig):
        accepts_unsigned(document, parse_reference("quay.io/a:1"))
