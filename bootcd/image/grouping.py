"""The files of a tree by component, and what each component is, to see what changed. Pure."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bootcd.image.flatten import Node, Tree, parents
from bootcd.image.owners import Owners, is_database, owner_of
from bootcd.oci.chunked import LATEST_TIME
from bootcd.oci.tar import EntryType

UNPACKAGED = ""
"The component of what no package owns."

INITRAMFS = "(initramfs)"
"""The component of the initial RAM disk beside a kernel, which is made at installation and owned by nobody.

It is the largest file of many images, and changes with the kernel and not with what else has no owner. No
package has such a name."""

_LARGE_BYTES = 1 << 20
"""From here on a file in `usr` that no package owns is a component of its own, called by its path.

Made from what several packages have, such as the database of hardware, it changes with few versions, and what
else has no owner changes with all. No package has such a name."""

_INITRAMFS_PATH = re.compile(r"usr/lib/modules/[^/]+/initramfs\.img")


@dataclass(slots=True)
class Member:
    """A file with all of its names, sorted."""

    node: Node
    names: list[str] = field(default_factory=list)


Grouping = dict[str, list[Member]]
"Files by component, sorted by their first names. Directories are in none."


def group_files(tree: Tree, owners: Owners) -> Grouping:
    """Give every file to the component that owns the first of its names that is owned at all."""
    links = {
        path: node.entry.linkname.strip("/")
        for path, node in sorted(tree.items())
        if "/" not in path and node.entry.type is EntryType.SYMLINK
    }
    members: dict[int, Member] = {}
    for path in sorted(tree):
        node = tree[path]
        if not node.is_directory:
            members.setdefault(id(node), Member(node)).names.append(path)
    found: Grouping = {}
    for member in members.values():
        components = (owner_of(name, owners, links) for name in member.names)
        component = next(filter(None, components), UNPACKAGED)
        if not component and owners and any(map(_INITRAMFS_PATH.fullmatch, member.names)):
            component = INITRAMFS
        elif not component and owners and _is_apart(member):
            component = f"/{member.names[0]}"
        found.setdefault(component, []).append(member)
    return found


def _is_apart(member: Member) -> bool:
    # The database of packages changes with every version.
    return member.node.entry.size >= _LARGE_BYTES and all(
        name.startswith("usr/") and not is_database(name) for name in member.names
    )


def is_package(component: str) -> bool:
    """Tell whether a component is files of packages."""
    return component not in (UNPACKAGED, INITRAMFS) and not component.startswith("/")


def size_of(members: list[Member]) -> int:
    """Return the size by which components are weighed: content, and a header for each name."""
    return sum(member.node.entry.size + 1024 * len(member.names) for member in members)


def fingerprint(members: list[Member]) -> bytes:
    """Return a digest that is the same as long as nothing but times has changed."""
    running = hashlib.sha256()
    for member in members:
        entry = member.node.entry
        facts = (
            member.names,
            entry.type.value,
            (entry.mode, entry.uid, entry.gid, entry.device),
            entry.linkname,
            sorted(entry.xattrs.items()),
            member.node.sha256,
        )
        running.update(repr(facts).encode())
    return running.digest()


def fingerprints(grouping: Grouping) -> dict[str, bytes]:
    return {name: fingerprint(members) for name, members in grouping.items()}


def count_changes(versions: Sequence[Mapping[str, bytes]]) -> dict[str, int]:
    """Count for each component of the last version in how many steps it changed; the oldest comes first."""
    return {
        name: sum(old.get(name) != new.get(name) for old, new in itertools.pairwise(versions))
        for name in (versions[-1] if versions else {})
    }


def keep_times(tree: Tree, previous: Tree) -> None:
    """Give files that are as they were the time they had, and directories none at all.

    A build that makes the same file again gives it another time, and a directory has the time of what was
    put into it last: neither is worth a download. Times that no table of contents can say become the nearest
    one: where it differs from the header, readers refuse the table.
    """
    for path, node in tree.items():
        node.entry.mtime = min(max(node.entry.mtime, 0), LATEST_TIME)
        if node.is_directory:
            node.entry.mtime = 0
        elif (old := previous.get(path)) is not None and node.same_but_for_time(old):
            node.entry.mtime = old.entry.mtime


def empty_directories(tree: Tree) -> list[str]:
    """Return the directories that no file is below."""
    above = {""}
    for path, node in tree.items():
        if not node.is_directory:
            above.update(parents(path))
    return sorted(path for path, node in tree.items() if node.is_directory and path not in above)


def directories_of(tree: Tree, names: Iterable[str]) -> list[str]:
    """Return the directories above files, so that no layer leaves it to its reader what they are like."""
    found = {parent for name in names for parent in parents(name)}
    return sorted(found | ({""} if "" in tree else set()))
