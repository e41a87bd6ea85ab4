"""SELinux in a tree of files: which policy is meant, and the attribute that holds a label.

Formats: selinux_config(5); the attribute `security.selinux` holds a security context and a closing NUL.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from bootcd.model.errors import NotBootable
from bootcd.ostreefmt.objects import Xattr

POLICY_DIRECTORY = "usr/etc/selinux"
"In the tree of a commit."
LABEL = b"security.selinux"

_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def parse_selinux_config(text: str) -> str | None:
    """Return the name of the policy in use, None if SELinux is off; as libostree reads it.

    Raises NotBootable for a name that could lead out of the directory of policies, and for none.
    """
    enabled, name = False, ""
    for line in text.splitlines():
        if line.startswith("SELINUXTYPE="):
            name = line.partition("=")[2].strip()
        elif line.startswith("SELINUX="):
            enabled = line.partition("=")[2].lower().startswith(("enforcing", "permissive"))
    if not enabled:
        return None
    if not _TYPE.fullmatch(name):
        raise NotBootable(
            f"the image turns SELinux on and its /etc/selinux/config names the policy {name[:80]!r}",
            hint="SELINUXTYPE= is to name a directory in /etc/selinux",
        )
    return name


def label_of(xattrs: Iterable[Xattr]) -> bytes | None:
    """Return the label among extended attributes, its NUL included."""
    return next((value for name, value in xattrs if name == LABEL), None)


def without_label(xattrs: Iterable[Xattr]) -> tuple[Xattr, ...]:
    return tuple((name, value) for name, value in xattrs if name != LABEL)


def with_label(xattrs: Sequence[Xattr], label: bytes | None) -> tuple[Xattr, ...]:
    """Return the attributes with this label, sorted by name; None leaves the one they have."""
    if label is None:
        return tuple(xattrs)
    if not xattrs:
        return ((LABEL, label),)
    return tuple(sorted((*without_label(xattrs), (LABEL, label))))
