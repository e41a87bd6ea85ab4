from hypothesis import given
from hypothesis import strategies as st

from bootcd.ostreefmt.packages import parse_apk_installed, parse_dpkg_status, parse_rpm_query

DPKG = """\
Package: bash
Status: install ok installed
Architecture: amd64
Multi-Arch: foreign
Version: 5.2.15-2+b7
Description: GNU Bourne Again SHell
 Version: of no field but a line of text

Package: libc6
Status: hold ok installed
Architecture: amd64
Multi-Arch: same
Version: 2.36-9

Package: libc6
Status: install ok installed
Architecture: i386
Multi-Arch: same
Version: 2.36-8

Package: gone
Status: deinstall ok config-files
Version: 1

Package: broken
Status: install ok half-installed
Version: 1
"""

APK = """\
C:Q1abc=
P:musl
V:1.2.4-r2
F:lib
R:ld-musl-x86_64.so.1

P:busybox
V:1.36.1-r5
"""


def test_dpkg_status_gives_what_is_installed_by_name_and_architecture() -> None:
    assert parse_dpkg_status(DPKG) == {
        "bash": "5.2.15-2+b7",
        "libc6:amd64": "2.36-9",
        "libc6:i386": "2.36-8",
    }


def test_apk_database_gives_names_and_versions() -> None:
    assert parse_apk_installed(APK) == {"musl": "1.2.4-r2", "busybox": "1.36.1-r5"}


def test_rpm_query_gives_names_and_versions() -> None:
    text = "bash.x86_64\t5.2-1.fc40\ngpg-pubkey.(none)\t1:a-b\nno tab\n"
    assert parse_rpm_query(text) == {"bash.x86_64": "5.2-1.fc40", "gpg-pubkey.(none)": "1:a-b"}


@given(st.text("Package: Vrsion\n \tSatuPV", max_size=200))
def test_any_text_is_some_database(text: str) -> None:
    for parse in (parse_dpkg_status, parse_apk_installed, parse_rpm_query):
        assert all(name for name in parse(text))
