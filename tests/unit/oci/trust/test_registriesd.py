from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.model.errors import InvalidConfig
from bootcd.oci.reference import parse_reference
from bootcd.oci.trust.registriesd import DEFAULT_LOOKASIDE, merge_files
from bootcd.oci.trust.scopes import registry_scopes

SCOPES = registry_scopes(parse_reference("quay.io/a/b:1"))

FILES = [
    (
        "one.yaml",
        b"default-docker:\n  lookaside: https://default\n  use-sigstore-attachments: true\n"
        b"docker:\n  quay.io/a:\n    sigstore: https://old\n    sigstore-staging: file:///staging\n",
    ),
    ("two.yaml", b"docker:\n  quay.io/a/b:\n    use-sigstore-attachments: false\n"),
]


def test_longest_namespace_that_says_something_decides() -> None:
    storage = merge_files(FILES)
    assert storage.lookaside(SCOPES) == "https://old"
    assert storage.attachments(SCOPES) is False
    elsewhere = registry_scopes(parse_reference("example.org/x:1"))
    assert (storage.lookaside(elsewhere), storage.attachments(elsewhere)) == ("https://default", True)


def test_nothing_said_means_the_default_place_and_no_attachments() -> None:
    storage = merge_files([("empty.yaml", b""), ("docker.yaml", b"docker:\n")])
    assert (storage.lookaside(SCOPES), storage.attachments(SCOPES)) == (DEFAULT_LOOKASIDE, False)


def test_new_name_of_a_member_counts_before_the_old() -> None:
    both = b"docker:\n  quay.io:\n    sigstore: https://old\n    lookaside: https://new\n"
    assert merge_files([("x.yaml", both)]).lookaside(SCOPES) == "https://new"


@pytest.mark.parametrize(
    "files",
    [
        [("x.yaml", b"- a")],
        [("x.yaml", b"docker: [a]")],
        [("x.yaml", b"docker:\n  quay.io: text")],
        [("x.yaml", b"docker:\n  quay.io:\n    lookaside: 1")],
        [("x.yaml", b"docker:\n  quay.io:\n    use-sigstore-attachments: perhaps")],
        [("x.yaml", b"a: b: c")],
        [("x.yaml", b"\x00")],
        [FILES[0], ("three.yaml", b"default-docker: {}\n")],
        [FILES[0], ("three.yaml", b"docker:\n  quay.io/a: {}\n")],
    ],
)
def test_file_that_cannot_be_understood_is_named(files: list[tuple[str, bytes]]) -> None:
    with pytest.raises(InvalidConfig) as caught:
        merge_files(files)
    assert caught.value.fields["path"] == files[-1][0]


@given(st.binary(max_size=80) | st.text(alphabet="ab:-{}[]'\"\n &*!", max_size=60).map(str.encode))
def test_no_file_makes_the_parser_fail_otherwise(data: bytes) -> None:
    try:
        merge_files([("x.yaml", data)])
    except InvalidConfig:
        pass
