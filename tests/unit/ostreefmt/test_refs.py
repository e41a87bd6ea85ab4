"""Escaping against the examples bootc's own rule gives, and its inverse against everything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.model.errors import InvalidImage
from bootcd.ostreefmt import refs

DIGEST = "sha256:" + "0f" * 32

EXAMPLES = [
    ("sha256:abc", "sha256_3A_abc"),
    ("docker://quay.io/fedora/fedora-bootc:42", "docker_3A__2F__2F_quay_2E_io/fedora/fedora-bootc_3A_42"),
    ("containers-storage:localhost/my_img", "containers-storage_3A_localhost/my__img"),
    ("oci:/var/mnt/usb/os.oci", "oci_3A__2F_var/mnt/usb/os_2E_oci"),
    ("docker://q.io/x/y@sha256:ab", "docker_3A__2F__2F_q_2E_io/x/y_40_sha256_3A_ab"),
    ("-", "-"),
    ("_", "__"),
    ("a/", "a_2F_"),
    ("a/b", "a/b"),
    ("a-/b", "a-_2F_b"),
    ("é\U0001f600", "_E9__1F600_"),
    ("\x01", "_01_"),
]

names = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=60)


@pytest.mark.parametrize(("plain", "escaped"), EXAMPLES, ids=[e for _, e in EXAMPLES])
def test_escape_known_name_gives_bootcs_spelling(plain: str, escaped: str) -> None:
    assert refs.escape(plain) == escaped
    assert refs.unescape(escaped) == plain


@given(names)
def test_unescape_of_escape_returns_the_name(name: str) -> None:
    assert refs.unescape(refs.escape(name)) == name


@given(names)
def test_escape_any_name_gives_characters_of_a_ref(name: str) -> None:
    escaped = refs.escape(name)
    assert escaped.replace("/", "").replace("-", "").replace("_", "a").isalnum() or set(escaped) == {"-"}
    assert escaped.isascii()
    assert "" not in escaped.split("/")


@given(st.text(alphabet="_/-aF0G. ", max_size=12))
def test_unescape_any_text_is_refused_or_spelled_as_escape_does(text: str) -> None:
    try:
        plain = refs.unescape(text)
    except InvalidImage:
        return
    assert refs.escape(plain) == text


@pytest.mark.parametrize(
    "name", ["", "a\0b", "\ud800", "a" * 4097], ids=["empty", "nul", "surrogate", "too-long"]
)
def test_escape_impossible_name_raises(name: str) -> None:
    with pytest.raises(InvalidImage):
        refs.escape(name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.b",
        "_3a_",
        "_2E",
        "_",
        "_110000_",
        "_D800_",
        "_41_",
        "/a",
        "a//b",
        "a/",
        "_002E_",
        "_00_",
        "a_2F_b",
    ],
)
def test_unescape_text_escape_never_makes_raises(text: str) -> None:
    with pytest.raises(InvalidImage):
        refs.unescape(text)


def test_blob_ref_round_trips_a_digest() -> None:
    ref = refs.blob_ref(DIGEST)
    assert ref == "ostree/container/blob/sha256_3A_" + "0f" * 32
    assert refs.parse_blob_ref(ref) == DIGEST


def test_image_ref_round_trips_a_name() -> None:
    ref = refs.image_ref("docker://quay.io/x:1")
    assert ref == "ostree/container/image/docker_3A__2F__2F_quay_2E_io/x_3A_1"
    assert refs.parse_image_ref(ref) == "docker://quay.io/x:1"


@pytest.mark.parametrize(
    "ref",
    [
        "ostree/container/blob/sha256_3A_ab",
        "ostree/container/image",
        "ostree/container/image/",
        "ostree/container/images/a",
        "fedora/x86_64",
    ],
)
def test_parse_image_ref_of_other_ref_raises(ref: str) -> None:
    with pytest.raises(InvalidImage):
        refs.parse_image_ref(ref)


def test_image_ref_with_part_longer_than_a_file_name_raises() -> None:
    refs.image_ref("dir:/" + "a" * 240 + "/" + "b" * 255)
    with pytest.raises(InvalidImage, match="too long"):
        refs.image_ref("dir:/x/" + "b" * 256)


@pytest.mark.parametrize("name", ["-", "oci:/mnt/-x", "oci:/a/b/-"])
def test_image_ref_with_part_that_begins_with_dash_raises(name: str) -> None:
    with pytest.raises(InvalidImage, match="dash"):
        refs.image_ref(name)


def test_own_baseimage_prefix_is_not_the_one_bootc_wipes() -> None:
    assert refs.OWN_BASEIMAGE_PREFIX.startswith(refs.BASEIMAGE_PREFIX + "/")
    assert not f"{refs.OWN_BASEIMAGE_PREFIX}/0".startswith(f"{refs.BASEIMAGE_PREFIX}/bootc/")
