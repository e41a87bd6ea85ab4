"""Trees of files compared entry by entry: what an image says, and what is on a disk.

An oracle independent of the product: the image is flattened here with Python's tarfile by the
rules of the OCI image specification
(https://github.com/opencontainers/image-spec/blob/main/layer.md#applying-changesets), then mapped
to what a bootc host deploys of it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import stat
import tarfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

_NOT_DEPLOYED_BELOW = ("run", "tmp", "proc", "sys", "dev")
_RUNTIME_LEFTOVERS = ("usr/etc/hostname", "usr/etc/resolv.conf")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file; `type` is `file`, `directory`, `symlink` or `other` (devices, pipes, sockets)."""

    type: str
    mode: int
    uid: int
    gid: int
    xattrs: tuple[tuple[str, bytes], ...] = ()
    sha256: str = ""
    target: str = ""
    inode: int = 0
    "Regular files: the same number for all names of one file; it means nothing across trees."


Tree = dict[str, Entry]
"From path (no slash at either end) to entry; the root directory itself is not in it."


def flatten(layout: Path, tag: str) -> Tree:
    """Apply the layers of `tag` of an OCI image layout over each other."""
    index = json.loads((layout / "index.json").read_text())
    name = "org.opencontainers.image.ref.name"
    (digest,) = {e["digest"] for e in index["manifests"] if e.get("annotations", {}).get(name) == tag}
    manifest = json.loads(_blob(layout, digest).read_text())
    tree: Tree = {}
    for layer in manifest["layers"]:
        with _opened(_blob(layout, layer["digest"]), layer["mediaType"]) as stream:
            apply_layer(tree, stream)
    return tree


def apply_layer(tree: Tree, stream: Any) -> None:
    """Apply one uncompressed layer. White-outs act on lower layers alone, wherever they stand."""
    added: Tree = {}
    hidden: list[str] = []
    emptied: list[str] = []
    inode = max((entry.inode for entry in tree.values()), default=0)
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            path = member.name.removeprefix("./").strip("/")
            parent, _, name = path.rpartition("/")
            if path in ("", "."):
                continue
            if name == ".wh..wh..opq":
                emptied.append(parent)
            elif name.startswith(".wh."):
                hidden.append(f"{parent}/{name[4:]}".strip("/"))
            elif member.islnk():
                target = member.linkname.removeprefix("./").strip("/")
                added[path] = added[target] if target in added else tree[target]
            else:
                inode += 1
                content = tar.extractfile(member) if member.isreg() else None
                added[path] = _entry(member, content, inode)
    for path in hidden:
        _remove(tree, path)
    for path in emptied:
        _remove_below(tree, path)
    for path, entry in added.items():
        old = tree.get(path)
        if old is not None and "directory" in (old.type, entry.type) and old.type != entry.type:
            _remove(tree, path)
        for parent in _parents(path):
            if (
                tree.setdefault(parent, added.get(parent, Entry("directory", 0o755, 0, 0))).type
                != "directory"
            ):
                if added.get(parent, tree[parent]).type != "directory":
                    raise AssertionError(f"{path} lies below {parent}, which is no directory")
                tree[parent] = added[parent]
        tree[path] = entry


def deployed(image: Mapping[str, Entry], *, factory_var: bool) -> Tree:
    """Map a flattened image to the tree bootc commits of it.

    `factory_var`: libostree before 2024.3 cannot hold /var, so its content becomes /usr/share/factory/var.
    """
    tree: Tree = {}
    for path, entry in image.items():
        top, _, rest = path.partition("/")
        new = path
        if top == "etc":
            new = f"usr/{path}"
        elif top == "var" and factory_var and rest:
            new = f"usr/share/factory/{path}"
        if entry.type == "other" or (rest and top in _NOT_DEPLOYED_BELOW):
            continue
        tree[new] = entry
    if factory_var and any(path.startswith("usr/share/factory/var/") for path in tree):
        tree["usr/share/factory/var"] = image["var"]
        tree.setdefault("usr/share/factory", Entry("directory", 0o755, 0, 0))
    empty = hashlib.sha256().hexdigest()
    for path in _RUNTIME_LEFTOVERS:
        if path in tree and tree[path].sha256 == empty:
            del tree[path]
    return tree


def scan_tree(root: Path, *, without: Collection[str] = ()) -> Tree:
    """Read the tree below `root`, leaving out the paths `without` and what lies below them."""
    tree: Tree = {}

    def visit(directory: Path, prefix: str) -> None:
        for found in os.scandir(directory):
            path = prefix + found.name
            if path in without:
                continue
            tree[path] = _scanned(found)
            if tree[path].type == "directory":
                visit(Path(found.path), f"{path}/")

    visit(root, "")
    return tree


def differences(expected: Mapping[str, Entry], actual: Mapping[str, Entry]) -> list[str]:
    """Describe every difference in one line each, sorted by path.

    Names that are one file in `expected` must be one file in `actual`; the reverse need not hold,
    since ostree makes equal files one. Empty files are left out of this: ostree copies them.
    """
    found = [f"{path}: missing" for path in expected.keys() - actual.keys()]
    found += [f"{path}: not expected" for path in actual.keys() - expected.keys()]
    first_name: dict[int, str] = {}
    empty = hashlib.sha256().hexdigest()
    for path in sorted(expected.keys() & actual.keys()):
        want, have = expected[path], actual[path]
        for name in ("type", "mode", "uid", "gid", "xattrs", "sha256", "target"):
            one, other = getattr(want, name), getattr(have, name)
            if one != other:
                shown = (oct(one), oct(other)) if name == "mode" else (one, other)
                found.append(f"{path}: {name} is {shown[1]}, not {shown[0]}")
        if want.type == "file" and want.sha256 != empty:
            leader = first_name.setdefault(want.inode, path)
            if actual[leader].inode != have.inode:
                found.append(f"{path}: is not the same file as {leader}")
    return sorted(found)


def _entry(member: tarfile.TarInfo, content: Any, inode: int) -> Entry:
    xattrs = {
        key.removeprefix("SCHILY.xattr."): value.encode("utf-8", "surrogateescape")
        for key, value in member.pax_headers.items()
        if key.startswith("SCHILY.xattr.")
    }
    kind = {tarfile.DIRTYPE: "directory", tarfile.SYMTYPE: "symlink"}.get(member.type, "other")
    entry = Entry(kind, member.mode & 0o7777, member.uid, member.gid, tuple(sorted(xattrs.items())))
    if member.isreg():
        checksum = hashlib.file_digest(content, "sha256").hexdigest()
        return replace(entry, type="file", sha256=checksum, inode=inode)
    if member.issym():
        return replace(entry, mode=0o777, target=member.linkname)
    return entry


def _scanned(found: os.DirEntry[str]) -> Entry:
    status = found.stat(follow_symlinks=False)
    names = os.listxattr(found.path, follow_symlinks=False)
    xattrs = tuple((name, os.getxattr(found.path, name, follow_symlinks=False)) for name in sorted(names))
    entry = Entry("other", stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, xattrs)
    if stat.S_ISDIR(status.st_mode):
        return replace(entry, type="directory")
    if stat.S_ISLNK(status.st_mode):
        # Path.readlink would normalise the target.
        return replace(entry, type="symlink", target=os.readlink(found.path))  # noqa: PTH115
    if stat.S_ISREG(status.st_mode):
        with open(found.path, "rb") as stream:  # noqa: PTH123 - a DirEntry is no Path
            checksum = hashlib.file_digest(stream, "sha256").hexdigest()
        return replace(entry, type="file", sha256=checksum, inode=status.st_ino)
    return entry


def _remove(tree: Tree, path: str) -> None:
    tree.pop(path, None)
    _remove_below(tree, path)


def _remove_below(tree: Tree, path: str) -> None:
    for below in [name for name in tree if name.startswith(f"{path}/")]:
        del tree[below]


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


@contextmanager
def _opened(path: Path, media_type: str) -> Iterator[Any]:
    with path.open("rb") as stream:
        if media_type.endswith("gzip"):
            with gzip.open(stream) as unpacked:
                yield unpacked
        elif media_type.endswith("zstd"):
            with zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True) as unpacked:
                yield unpacked
        else:
            yield _plain(stream)


def _plain(stream: BinaryIO) -> BinaryIO:
    return stream
