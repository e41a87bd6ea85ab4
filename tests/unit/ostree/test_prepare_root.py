"""What an image's initramfs makes of the root directory."""

import pytest

from bootcd.model.errors import NotBootable
from bootcd.ostree.prepare_root import Composefs, composefs_of


@pytest.mark.parametrize(
    ("enabled", "expected"),
    [
        ("yes", Composefs.NEEDED),
        ("true", Composefs.NEEDED),
        ("1", Composefs.NEEDED),
        ("maybe", Composefs.OPTIONAL),
        ("no", Composefs.OFF),
        ("signed", Composefs.SEALED),
        ("verity", Composefs.SEALED),
    ],
)
def test_composefs_is_wanted_as_the_file_says(enabled: str, expected: Composefs) -> None:
    assert composefs_of(f"[composefs]\nenabled = {enabled}\n".encode()) is expected


def test_file_without_the_key_wants_no_composefs() -> None:
    assert composefs_of(b"") is Composefs.OFF
    assert composefs_of(b"[sysroot]\nreadonly=true\n") is Composefs.OFF


def test_file_that_is_none_is_refused() -> None:
    with pytest.raises(NotBootable):
        composefs_of(b"no group")
