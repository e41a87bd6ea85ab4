from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.oci.reference import parse_reference
from bootcd.oci.trust.identity import KINDS, Named, SignedIdentity, operands_problem, parse_named

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("quay.io/a/b", Named("quay.io/a/b")),
        ("quay.io/a:1", Named("quay.io/a", "1")),
        (f"quay.io/a@{DIGEST}", Named("quay.io/a", None, DIGEST)),
        (f"quay.io/a:1@{DIGEST}", Named("quay.io/a", "1", DIGEST)),
        ("host:5000/a", Named("host:5000/a")),
        ("busybox", Named("docker.io/library/busybox")),
        ("", None),
        ("docker://quay.io/a", None),
        ("registry:quay.io/a", None),
        ("quay.io/A", None),
        ("0" * 64, None),
    ],
)
def test_named_is_written_out_and_keeps_what_was_not_said(text: str, named: Named | None) -> None:
    assert parse_named(text) == named


@pytest.mark.parametrize(
    ("identity", "image", "claimed", "accepted"),
    [
        (SignedIdentity("matchExact"), "quay.io/a:1", "quay.io/a:1", True),
        (SignedIdentity("matchExact"), "quay.io/a:1", "quay.io/a", False),
        (SignedIdentity("matchExact"), "quay.io/a:1", "quay.io/a:2", False),
        (SignedIdentity("matchRepoDigestOrExact"), f"quay.io/a@{DIGEST}", "quay.io/a:1", True),
        (SignedIdentity("matchRepoDigestOrExact"), f"quay.io/a@{DIGEST}", "quay.io/a", False),
        (SignedIdentity("matchRepoDigestOrExact"), f"quay.io/a@{DIGEST}", "quay.io/b:1", False),
        (SignedIdentity("matchRepository"), "quay.io/a:1", "quay.io/a", True),
        (SignedIdentity("matchRepository"), "quay.io/a:1", "quay.io/a/b:1", False),
        (SignedIdentity("exactRepository", "quay.io/v"), "quay.io/a:1", "quay.io/v:9", True),
        (
            SignedIdentity("remapIdentity", "mirror.io/x", "quay.io/v"),
            "mirror.io/x/a:1",
            "quay.io/v/a:1",
            True,
        ),
        (
            SignedIdentity("remapIdentity", "mirror.io", "quay.io"),
            "mirror.io:5000/a:1",
            "quay.io:5000/a:1",
            False,
        ),
        (
            SignedIdentity("remapIdentity", "mirror.io/x", "docker.io"),
            "mirror.io/x/a:1",
            "docker.io/a:1",
            False,
        ),
    ],
)
def test_identity_accepts_the_names_containers_image_accepts(
    identity: SignedIdentity, image: str, claimed: str, accepted: bool
) -> None:
    assert identity.accepts(Named.of(parse_reference(image)), claimed) is accepted


@pytest.mark.parametrize("kind", KINDS)
def test_image_without_a_name_meets_only_an_identity_that_needs_none(kind: str) -> None:
    identity = SignedIdentity(kind, "quay.io/a:1", "quay.io/a")
    assert identity.accepts(None, "quay.io/a:1") is kind.startswith("exact")


@given(st.sampled_from(sorted(KINDS)), st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_no_claim_makes_an_identity_fail(kind: str, first: str, second: str, claimed: str) -> None:
    identity = SignedIdentity(kind, first, second)
    if not operands_problem(identity):
        identity.accepts(Named("quay.io/a", "1"), claimed)
