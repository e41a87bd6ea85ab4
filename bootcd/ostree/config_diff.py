"""What somebody changed in /etc since the image made it, by the rules of `ostree admin config-diff`.

/usr/etc of the booted deployment is what the image has. Owners, modes, types and contents count; extended
attributes do not, since labels differ by design.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from bootcd.model.comparison import ENTRIES_LIMIT, ConfigDiff
from bootcd.ostree.libostree import host_errors
from bootcd.ostree.view import SysrootView, deployment_id

_CHUNK = 256 << 10


def diff_config(sysroot: SysrootView) -> ConfigDiff:
    """Compare /etc of the booted deployment with its image's.

    Raises:
        NotBootcSystem: this system was not booted from a deployment.
    """
    booted = sysroot.require_booted()
    root = sysroot.path / sysroot.sysroot.get_deployment_dirpath(booted)
    with host_errors("compare /etc with the image's", path="/etc"):
        found = list(islice(compare_trees(root / "usr/etc", root / "etc"), ENTRIES_LIMIT + 1))
    lists: dict[str, list[str]] = {"A": [], "M": [], "D": [], "?": []}
    for kind, path in found[:ENTRIES_LIMIT]:
        lists[kind].append(os.fsencode(f"/etc/{path}").decode(errors="replace"))
    added, modified, removed, unreadable = (tuple(sorted(items)) for items in lists.values())
    return ConfigDiff(
        deployment=deployment_id(booted),
        added=added,
        modified=modified,
        removed=removed,
        unreadable=unreadable,
        truncated=len(found) > ENTRIES_LIMIT,
    )


def compare_trees(image: Path, host: Path, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield A(dded), M(odified), D(eleted) or ? (cannot be read) with a path below `prefix`.

    All that an added directory holds is added; a removed one is named alone.
    """
    before, after = _names(image), _names(host)
    for name in sorted(before | after):
        path, old, new = prefix + name, image / name, host / name
        if name not in after:
            yield "D", path
        elif name not in before:
            yield from _added(new, path)
        else:
            kind = _compare(old, new)
            if kind:
                yield kind, path
            if stat.S_ISDIR(old.lstat().st_mode) and stat.S_ISDIR(new.lstat().st_mode):
                yield from _below(old, new, path)


def _below(old: Path, new: Path, path: str) -> Iterator[tuple[str, str]]:
    if all(os.access(directory, os.R_OK | os.X_OK) for directory in (old, new)):
        yield from compare_trees(old, new, f"{path}/")
    else:
        yield "?", path


def _names(directory: Path) -> set[str]:
    return set(os.listdir(directory))  # noqa: PTH208 - names, of which there may be many


def _added(path: Path, name: str) -> Iterator[tuple[str, str]]:
    yield "A", name
    if stat.S_ISDIR(path.lstat().st_mode) and os.access(path, os.R_OK | os.X_OK):
        for below in sorted(_names(path)):
            yield from _added(path / below, f"{name}/{below}")


def _compare(old: Path, new: Path) -> str:
    before, after = old.lstat(), new.lstat()
    if (before.st_mode, before.st_uid, before.st_gid) != (after.st_mode, after.st_uid, after.st_gid):
        return "M"
    if stat.S_ISLNK(before.st_mode):
        return "M" if old.readlink() != new.readlink() else ""
    if not stat.S_ISREG(before.st_mode):
        return ""
    if before.st_size != after.st_size:
        return "M"
    try:
        return "" if _same_content(old, new) else "M"
    except PermissionError:
        return "?"


def _same_content(old: Path, new: Path) -> bool:
    with old.open("rb") as first, new.open("rb") as second:
        while chunk := first.read(_CHUNK):
            if chunk != second.read(_CHUNK):
                return False
        return not second.read(1)
