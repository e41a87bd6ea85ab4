"""Names of boot entries that count, and which entries systemd-boot counts."""

from __future__ import annotations

import pytest

from bootcd.ostreefmt.bootentries import EntryName, counted_image, parse_entry_name

IMAGE = "0a" * 64
ENTRY = (
    f"title OS\nversion 2\nsort-key bootc-os-0\nlinux /EFI/Linux/x/vmlinuz\noptions rw composefs=?{IMAGE}\n"
)


@pytest.mark.parametrize(
    ("name", "stem", "left"),
    [
        ("bootc_os-2-1.conf", "bootc_os-2-1", None),
        ("bootc_os-2-1+3.conf", "bootc_os-2-1", 3),
        ("bootc_os-2-1+0-3.conf", "bootc_os-2-1", 0),
        ("bootc_os-2+deb12u1-1+2-1.conf", "bootc_os-2+deb12u1-1", 2),
        ("bootc_os-2+1-1.0.conf", "bootc_os-2+1-1.0", None),
    ],
)
def test_counter_is_what_comes_last_before_the_suffix(name: str, stem: str, left: int | None) -> None:
    parsed = parse_entry_name(name)
    assert parsed == EntryName(stem, left)
    assert parse_entry_name(str(EntryName(stem, 3))) == EntryName(stem, 3)


@pytest.mark.parametrize("name", ["", ".conf", "x.conf.new", "x+3.efi"])
def test_other_files_are_no_entries(name: str) -> None:
    assert parse_entry_name(name) is None


def test_image_of_an_entry_is_told_if_it_is_counted() -> None:
    assert counted_image(ENTRY) == IMAGE
    assert counted_image(ENTRY.replace("linux /", "efi /")) == ""
    assert counted_image(ENTRY.replace("composefs=", "ostree=")) == ""
    assert counted_image("") == ""
