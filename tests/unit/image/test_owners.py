"""Owners of files by the databases of dpkg, apk and rpm."""

from __future__ import annotations

import pytest

from bootcd.image.owners import (
    apk_owners,
    dpkg_owners,
    dpkg_status,
    is_database,
    owner_of,
    rpm_directory,
    rpm_owners,
)

STATUS = "var/lib/dpkg/status"
DPKG = {
    STATUS: (
        "Package: libsystemd0\nStatus: install ok installed\nSource: systemd (252.1-1)\nVersion: 252.1\n\n"
        "Package: systemd\nStatus: install ok installed\nVersion: 252.1-1\n\n"
        "Package: bash\nDescription: a shell\n Source: none\n"
    ),
    "var/lib/dpkg/info/libsystemd0:amd64.list": "/.\n/usr\n/usr/lib/libsystemd.so.0\n/lib/shared\n",
    "var/lib/dpkg/info/systemd.list": "/.\n/lib/systemd/systemd\n",
    "var/lib/dpkg/info/bash.list": "/.\n/bin/bash\n/lib/shared\n/lib/python3/mod.py\n",
}


def test_dpkg_component_is_the_source_package() -> None:
    owners = dpkg_owners(STATUS, DPKG)
    assert owners["usr/lib/libsystemd.so.0"] == "systemd"
    assert owners["lib/systemd/systemd"] == "systemd"
    assert owners["bin/bash"] == "bash"


def test_dpkg_file_in_two_lists_has_one_owner_whatever_the_order() -> None:
    assert dpkg_owners(STATUS, DPKG)["lib/shared"] == "bash"
    assert dpkg_owners(STATUS, dict(reversed(DPKG.items())))["lib/shared"] == "bash"


def test_dpkg_files_about_a_package_belong_to_it() -> None:
    owners = dpkg_owners(STATUS, DPKG)
    assert owners["var/lib/dpkg/info/libsystemd0:amd64.list"] == "systemd"
    assert owners["var/lib/dpkg/info/bash.md5sums"] == "bash"
    assert owner_of(STATUS, owners, {}) == ""


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        ("bin/bash", "bash"),
        ("usr/bin/bash", "bash"),
        ("usr/lib/systemd/systemd", "systemd"),
        ("usr/sbin/bash", ""),
        ("usr/binary/bash", ""),
        ("usr/lib/python3/__pycache__/mod.cpython-311.pyc", "bash"),
        ("usr/lib/python3/__pycache__/mod.cpython-311.opt-1.pyc", "bash"),
        ("usr/lib/python3/__pycache__/other.cpython-311.pyc", ""),
    ],
)
def test_owner_is_found_through_links_of_the_root(path: str, owner: str) -> None:
    owners = dpkg_owners(STATUS, DPKG)
    assert owner_of(path, owners, {"bin": "usr/bin", "lib": "usr/lib"}) == owner


def test_owner_of_configuration_is_found_where_ostree_moves_it() -> None:
    assert owner_of("usr/etc/passwd", {"etc/passwd": "base-passwd"}, {}) == "base-passwd"


def test_apk_component_is_the_origin() -> None:
    openssl = "P:libcrypto3\nV:3.1\no:openssl\nF:lib\nR:libcrypto.so.3\na:0:0:755\nF:\nR:top\n"
    text = f"{openssl}\nP:busybox\nF:bin\nR:sh\n"
    assert apk_owners(text) == {"lib/libcrypto.so.3": "openssl", "top": "openssl", "bin/sh": "busybox"}


def test_rpm_component_is_the_source_package() -> None:
    text = (
        "glibc-2.38-1.fc39.src.rpm\tglibc-common\t/usr/bin/ldd\n"
        "my-tool-1-2.src.rpm\tmy-tool\t/usr/bin/my tool\n"
        "(none)\tgpg-pubkey\t\n"
        "(none)\tlocal\t/usr/bin/local\n"
    )
    assert rpm_owners(text) == {
        "usr/bin/ldd": "glibc",
        "usr/bin/my tool": "my-tool",
        "usr/bin/local": "local",
    }


def test_databases_are_found_where_images_have_them() -> None:
    assert dpkg_status({"usr/lib/sysimage/dpkg/status"}) == "usr/lib/sysimage/dpkg/status"
    assert rpm_directory({"usr/share/rpm/rpmdb.sqlite"}) == "usr/share/rpm"
    assert rpm_directory({"usr/share/rpm/.keep"}) is None
    assert is_database("var/lib/dpkg/info/bash.list")
    assert is_database("usr/lib/sysimage/rpm/rpmdb.sqlite-wal")
    assert not is_database("var/lib/dpkg/info/bash.md5sums")
    assert not is_database("usr/share/doc/bash.list")
