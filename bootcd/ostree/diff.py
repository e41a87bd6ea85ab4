"""What differs between two deployments: packages, files with their sizes, kernel arguments.

The trees of both commits are compared object by object, and a directory that is the same object in both
is passed over with all it holds: that takes as long as the change is large, not the system.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bootcd.model.comparison import (
    ENTRIES_LIMIT,
    DeploymentDiff,
    DeploymentSummary,
    FileChange,
    FileChanges,
    KernelArguments,
    PackageChange,
    PackageChanges,
    Totals,
)
from bootcd.model.errors import BackendFailed, BootcdError, WrongState
from bootcd.model.host import BootEntry
from bootcd.ostree.repository import Repository
from bootcd.ostree.status import read_host
from bootcd.ostree.view import SysrootView, deployment_id, kernel_arguments
from bootcd.ostreefmt.objects import ObjectKind, object_path, parse_dirtree
from bootcd.ostreefmt.packages import (
    APK_PATHS,
    DPKG_PATHS,
    RPM_DIRECTORIES,
    RPM_QUERY,
    Packages,
    parse_apk_installed,
    parse_dpkg_status,
    parse_rpm_query,
)

log = logging.getLogger(__name__)

_DATABASE_LIMIT = 64 << 20
_RPM_SECS = 10.0
_DEPTH_LIMIT = 255
"Of directories in each other, far below what Python's stack holds."

_Change = tuple[str, bytes | None, bytes | None]
"Path, and the file's object before and after."


def diff_deployments(sysroot: SysrootView, before: str, after: str) -> DeploymentDiff:
    """Compare two deployments, named by `BootEntry.id`.

    Raises:
        WrongState: there is no such deployment.
    """
    first, second = _find(sysroot, before), _find(sysroot, after)
    entries = {entry.id: entry for entry in read_host(sysroot).status.deployments}
    files, totals = _files(sysroot.repository, first.get_csum(), second.get_csum())
    old, new = kernel_arguments(first), kernel_arguments(second)
    return DeploymentDiff(
        before=_summary(before, entries.get(before)),
        after=_summary(after, entries.get(after)),
        kernel_arguments=KernelArguments(added=_without(new, old), removed=_without(old, new)),
        packages=_packages(sysroot, first, second),
        files=files,
        totals=totals,
    )


def _find(sysroot: SysrootView, id: str) -> Any:
    for deployment in sysroot.deployments:
        if deployment_id(deployment) == id:
            return deployment
    raise WrongState(f"there is no deployment {id[:80]}", hint="see: bootcctl status --verbose")


def _summary(id: str, entry: BootEntry | None) -> DeploymentSummary:
    image = entry.image if entry else None
    if image is None:
        return DeploymentSummary(id=id)
    return DeploymentSummary(
        id=id, image=image.image.image, digest=image.image_digest, version=image.version or ""
    )


def _without(arguments: list[str], others: list[str]) -> tuple[str, ...]:
    """Return what is in the first list more often than in the second."""
    left = list(others)
    found = []
    for argument in arguments:
        if argument in left:
            left.remove(argument)
        else:
            found.append(argument)
    return tuple(found)


# files


def _files(repository: Repository, before: str, after: str) -> tuple[FileChanges, Totals]:
    lists: dict[str, list[FileChange]] = {"added": [], "removed": [], "changed": []}
    counts = dict.fromkeys(lists, 0)
    bytes_added = bytes_removed = listed = 0
    for path, old, new in _changes(repository, before, after):
        change = FileChange(
            path=_shown(path), size_before=_size(repository, old), size_after=_size(repository, new)
        )
        kind = "added" if old is None else "removed" if new is None else "changed"
        counts[kind] += 1
        bytes_added += change.size_after
        bytes_removed += change.size_before
        if listed < ENTRIES_LIMIT:
            listed += 1
            lists[kind].append(change)
    totals = Totals(
        files_added=counts["added"],
        files_removed=counts["removed"],
        files_changed=counts["changed"],
        bytes_added=bytes_added,
        bytes_removed=bytes_removed,
    )
    ordered = {kind: tuple(sorted(items, key=lambda item: item.path)) for kind, items in lists.items()}
    return FileChanges(**ordered, truncated=sum(counts.values()) > listed), totals


def _changes(repository: Repository, before: str, after: str) -> Iterator[_Change]:
    """Yield the files that differ."""
    (old, _, _), (new, _, _) = repository.commit_root(before), repository.commit_root(after)
    waiting: list[tuple[str, bytes | None, bytes | None, int]] = [("", old, new, 0)]
    while waiting:
        prefix, old_tree, new_tree, depth = waiting.pop()
        if old_tree == new_tree:
            continue
        if depth > _DEPTH_LIMIT:
            raise BackendFailed("the tree of a deployment is too deep")
        old_files, old_dirs = _directory(repository, old_tree)
        new_files, new_dirs = _directory(repository, new_tree)
        for name in old_files.keys() | new_files.keys():
            if old_files.get(name) != new_files.get(name):
                yield f"{prefix}/{name}", old_files.get(name), new_files.get(name)
        for name in old_dirs.keys() | new_dirs.keys():
            waiting.append((f"{prefix}/{name}", old_dirs.get(name), new_dirs.get(name), depth + 1))


def _directory(repository: Repository, tree: bytes | None) -> tuple[dict[str, bytes], dict[str, bytes]]:
    if tree is None:
        return {}, {}
    files, dirs = parse_dirtree(repository.read_dirtree(tree))
    return dict(files), {name: contents for name, contents, _ in dirs}


def _size(repository: Repository, file: bytes | None) -> int:
    if file is None:
        return 0
    try:
        return (repository.path / "objects" / object_path(file.hex(), ObjectKind.FILE)).lstat().st_size
    except OSError:
        # Not of a bare repository, or another program has removed the deployment meanwhile.
        return 0


def _shown(path: str) -> str:
    return path.encode(errors="replace").decode()


# packages


def _packages(sysroot: SysrootView, first: Any, second: Any) -> PackageChanges:
    for database, read in _READERS.items():
        before, after = read(sysroot, first), read(sysroot, second)
        if before is not None and after is not None:
            return compare_packages(database, before, after)
    return PackageChanges()


def compare_packages(database: Any, before: Packages, after: Packages) -> PackageChanges:
    """Return what is in one of two package databases, and in both with another version; by name."""
    return PackageChanges(
        database=database,
        added=tuple(PackageChange(name=name, after=after[name]) for name in sorted(after.keys() - before)),
        removed=tuple(
            PackageChange(name=name, before=before[name]) for name in sorted(before.keys() - after)
        ),
        changed=tuple(
            PackageChange(name=name, before=before[name], after=after[name])
            for name in sorted(before.keys() & after)
            if before[name] != after[name]
        ),
    )


def _dpkg(sysroot: SysrootView, deployment: Any) -> Packages | None:
    text = _database(sysroot, deployment, DPKG_PATHS)
    return None if text is None else parse_dpkg_status(text)


def _apk(sysroot: SysrootView, deployment: Any) -> Packages | None:
    text = _database(sysroot, deployment, APK_PATHS)
    return None if text is None else parse_apk_installed(text)


def _database(sysroot: SysrootView, deployment: Any, paths: tuple[str, ...]) -> str | None:
    """Return the first of these files in a commit; what is too large or no file is not there."""
    for path in paths:
        file = _lookup(sysroot.repository, deployment.get_csum(), path)
        if file is None:
            continue
        try:
            content = sysroot.repository.read_file(file, _DATABASE_LIMIT)
        except BootcdError as error:
            log.warning("/%s of %s, ignoring it: %s", path, deployment.get_csum(), error.message)
            continue
        if content is not None:
            return content.decode(errors="replace")
    return None


def _lookup(repository: Repository, commit: str, path: str) -> bytes | None:
    """Return the file object at a path of a commit; links are not followed."""
    *parents, name = path.split("/")
    tree: bytes | None
    tree, _, _ = repository.commit_root(commit)
    for parent in parents:
        _, dirs = _directory(repository, tree)
        tree = dirs.get(parent)
        if tree is None:
            return None
    return _directory(repository, tree)[0].get(name)


def _rpm(sysroot: SysrootView, deployment: Any) -> Packages | None:
    root = sysroot.path / sysroot.sysroot.get_deployment_dirpath(deployment)
    for directory in RPM_DIRECTORIES:
        database = root / directory
        if database.is_dir() and not database.is_symlink():
            return _query_rpm(database)
    return None


def _query_rpm(database: Path) -> Packages | None:
    command = ["rpm", "--dbpath", str(database), "-qa", "--qf", RPM_QUERY]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_RPM_SECS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("the rpm database in %s cannot be read: %s", database, type(error).__name__)
        return None
    return parse_rpm_query(done.stdout.decode(errors="replace"))


_READERS: Mapping[str, Callable[[SysrootView, Any], Packages | None]] = {
    "rpm": _rpm,
    "dpkg": _dpkg,
    "apk": _apk,
}
