import pytest

from bootcd.ostreefmt.composefs import BootedComposefs, parse_booted_composefs

DIGEST = "0123456789abcdef" * 8


@pytest.mark.parametrize(
    ("cmdline", "booted"),
    [
        (f"root=UUID=1 composefs={DIGEST} rw\n", BootedComposefs(DIGEST)),
        (f"composefs=?{DIGEST}", BootedComposefs(DIGEST, missing_verity_allowed=True)),
        ("", None),
        ("ostree=/ostree/boot.1/default/x/0 rw", None),
        (f"composefs={DIGEST[:64]}", None),
        (f"composefs={DIGEST}0", None),
        (f"composefs={DIGEST.upper()}", None),
        (f"x.composefs={DIGEST}", None),
        ("ostree.prepare-root.composefs=signed", None),
    ],
)
def test_booted_composefs_is_found_by_its_argument(cmdline: str, booted: BootedComposefs | None) -> None:
    assert parse_booted_composefs(cmdline) == booted
