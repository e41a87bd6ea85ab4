"""Which policy a configuration means, and labels among attributes."""

from __future__ import annotations

import pytest

from bootcd.model.errors import NotBootable
from bootcd.ostreefmt.selinux import label_of, parse_selinux_config, with_label, without_label

LABEL = (b"security.selinux", b"a:b:c:s0\0")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("SELINUX=enforcing\nSELINUXTYPE=targeted\n", "targeted"),
        ("# c\nSELINUXTYPE= mls \nSELINUX=Permissive\n", "mls"),
        ("SELINUX=disabled\nSELINUXTYPE=targeted\n", None),
        ("SELINUXTYPE=targeted\n", None),
        ("", None),
        ("#SELINUX=enforcing\n", None),
    ],
    ids=["enforcing", "permissive", "disabled", "not-said", "empty", "comment"],
)
def test_config_names_the_policy_in_use(text: str, name: str | None) -> None:
    assert parse_selinux_config(text) == name


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "x" * 200, "a\0b"])
def test_config_that_names_no_directory_is_refused(name: str) -> None:
    with pytest.raises(NotBootable, match="names the policy"):
        parse_selinux_config(f"SELINUX=enforcing\nSELINUXTYPE={name}\n")


def test_label_replaces_the_one_there_and_order_is_by_name() -> None:
    xattrs = ((b"user.x", b"1"), (b"security.capability", b"2"), LABEL)
    changed = with_label(xattrs, b"new\0")
    assert changed == ((b"security.capability", b"2"), (b"security.selinux", b"new\0"), (b"user.x", b"1"))
    assert label_of(changed) == b"new\0"
    assert with_label(xattrs, None) == xattrs
    assert label_of(without_label(xattrs)) is None
