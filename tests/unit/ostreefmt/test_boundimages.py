"""Which image a quadlet file binds, and which files are refused."""

from __future__ import annotations

import pytest

from bootcd.model.errors import NotBootable
from bootcd.ostreefmt.boundimages import parse_bound_image


@pytest.mark.parametrize(
    ("name", "text", "image"),
    [
        ("a.image", "[Image]\nImage=quay.io/foo/foo:latest", "quay.io/foo/foo:latest"),
        ("a.container", "[Container]\nImage=quay.io/foo/foo:latest\n", "quay.io/foo/foo:latest"),
        (
            "a.b.image",
            "# c\n; d\n[Unit]\nImage=other\n[Image]\n Image = q.io/x@sha256:ab \n",
            "q.io/x@sha256:ab",
        ),
        ("a.image", "[Image]\nImage=old\nImage=new\n", "new"),
        ("a.container", "[Container]\nImage=q.io/%%x%%\nAuthFile=/x\n", "q.io/%x%"),
        ("a.image", "[Image]\nImage=\\\nq.io/x\n", "q.io/x"),
        ("a.image", "[Image]\nImage=q.io/x\n[Container]\nImage=q.io/y\n", "q.io/x"),
    ],
    ids=["image", "container", "other-sections", "last-counts", "percent", "continued", "by-extension"],
)
def test_quadlet_file_names_its_image(name: str, text: str, image: str) -> None:
    assert parse_bound_image(name, text.encode()) == image


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.volume", b"[Volume]\n", "neither"),
        ("image", b"[Image]\nImage=x\n", "neither"),
        ("a.image", b"[Image]\n", "no Image="),
        ("a.container", b"[Image]\nImage=x\n", "no Image="),
        ("a.image", b"[Image]\nImage=x\nAuthFile=/etc/x\n", "AuthFile"),
        ("a.image", b"[Image]\nImage=q.io/%i\n", "specifier"),
        ("a.image", b"[Image]\nImage=q.io/x%\n", "specifier"),
        ("a.image", b"[Image]\nImage=q.io/%%%x\n", "specifier"),
        ("a.image", b"[Image]\nImage=--authfile=/etc/shadow\n", "cannot be one"),
        ("a.image", b"[Image]\nImage=q.io/x y\n", "cannot be one"),
        ("a.image", b"[Image]\nImage=" + b"x" * 5000, "cannot be one"),
        ("a.image", b"\xff\xfe", "UTF-8"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else str(value)[:20],
)
def test_quadlet_file_that_cannot_be_obeyed_is_refused(name: str, data: bytes, words: str) -> None:
    with pytest.raises(NotBootable, match=words):
        parse_bound_image(name, data)
