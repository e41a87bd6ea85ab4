"""Container images made from an ostree commit, in the form most image-based distributions publish.

    chunked = encapsulate(repo, commit, {"kernel": ["usr/lib/modules/"], "tools": ["usr/bin/"]})
    image = chunked.image(derived=[make_layer([file("usr/bin/more")])])

The first layer carries the commit, its directories and the files nobody claimed, each further one the files
of a component. Every object stands under its name in a repository, its extended attributes before it, and
again as a hard link where container tools look for it. Reads through libostree alone.

Format: `tar/export.rs` and `container/encapsulate.rs` of crate ostree-ext,
https://github.com/bootc-dev/bootc.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gi

gi.require_version("OSTree", "1.0")

from gi.repository import Gio, OSTree  # noqa: E402  (the version has to be pinned first)

from tests.support.oci_image import (  # noqa: E402
    Compression,
    Entry,
    Image,
    Layer,
    directory,
    file,
    hardlink,
    make_image,
    make_layer,
)

REPO = "sysroot/ostree/repo"
COMPONENTS = "ostree.components"
_CONFIG = b"[core]\nrepo_version=1\nmode=bare-split-xattrs\n"
_SELINUX = "security.selinux"


@dataclass
class Chunked:
    """The archives of a chunked image before they are packed: a test may change any entry."""

    commit: str
    layers: list[list[Entry]]
    "The one with the commit first."
    components: list[str] = field(default_factory=list)
    "What each layer but the first holds."

    def pack(self, compression: Compression = "gzip") -> list[Layer]:
        annotations = [{}, *({COMPONENTS: name} for name in self.components)]
        return [
            make_layer(entries, compression=compression, annotations=annotation)
            for entries, annotation in zip(self.layers, annotations, strict=True)
        ]

    def image(
        self,
        *,
        derived: Sequence[Layer] = (),
        labels: Mapping[str, str] | None = None,
        compression: Compression = "gzip",
        **options: Any,
    ) -> Image:
        """Return the image, with layers of container builds on top; `options` go to `make_image`."""
        layers = self.pack(compression)
        own = {
            "ostree.commit": self.commit,
            "ostree.final-diffid": layers[-1].diff_id,
            "ostree.bootable": "true",
        }
        return make_image([*layers, *derived], labels={**own, **(labels or {})}, **options)


def encapsulate(
    repo: Path,
    commit: str,
    components: Mapping[str, Collection[str]] | None = None,
    *,
    share_xattrs: bool = False,
) -> Chunked:
    """Split a commit into layers.

    Args:
        components: prefixes of the paths in the commit that each layer takes; the first one to claim a
            path of an object gets it with all its paths.
        share_xattrs: write extended attributes once a layer and link to them, as older tools do.
    """
    components = components or {}
    reader = _Commit(repo, commit)
    claimed: dict[str, list[str]] = {name: [] for name in components}
    rest: list[str] = []
    for checksum, paths in reader.files.items():
        owner = next((name for name, prefixes in components.items() if _claims(prefixes, paths)), None)
        (rest if owner is None else claimed[owner]).append(checksum)
    layers = [[*reader.structure(), *reader.content(rest, share_xattrs=share_xattrs)]]
    # Two layers with nothing in them would be one, and could not tell where the commit ends.
    filled = {name: objects for name, objects in claimed.items() if objects}
    for objects in filled.values():
        layers.append([*_repo_structure(), *reader.content(objects, share_xattrs=share_xattrs)])
    return Chunked(commit, layers, list(filled))


def object_entry(checksum: str, kind: str, data: bytes) -> Entry:
    return file(object_path(checksum, kind), data, mtime=0)


def object_path(checksum: str, kind: str) -> str:
    return f"{REPO}/objects/{checksum[:2]}/{checksum[2:]}.{kind}"


def find_object(entries: Sequence[Entry], kind: str, nth: int = 0) -> int:
    """Return the index of the nth object of a kind."""
    return [index for index, entry in enumerate(entries) if entry.path.endswith(f".{kind}")][nth]


def change_object(entries: list[Entry], of_kind: str, **changes: Any) -> str:
    """Change the first object of a kind and return its path."""
    index = find_object(entries, of_kind)
    entries[index] = replace(entries[index], **changes)
    return entries[index].path


def _claims(prefixes: Collection[str], paths: Collection[str]) -> bool:
    return any(path.startswith(prefix) for prefix in prefixes for path in paths)


def _repo_structure() -> Iterator[Entry]:
    for name in ("sysroot", "sysroot/ostree", REPO, f"{REPO}/objects"):
        yield directory(name, mtime=0)
    for number in range(256):
        yield directory(f"{REPO}/objects/{number:02x}", mtime=0)
    for name in ("extensions", "refs", "refs/heads", "refs/mirrors", "refs/remotes", "state", "tmp"):
        yield directory(f"{REPO}/{name}", mtime=0)
    yield file(f"{REPO}/config", _CONFIG, mtime=0)


class _Commit:
    """A commit taken apart."""

    def __init__(self, path: Path, commit: str) -> None:
        self._repo = OSTree.Repo.new(Gio.File.new_for_path(str(path)))
        self._repo.open(None)
        self._checksum = commit
        self._dirs: list[tuple[str, str, str]] = []
        self.files: dict[str, list[str]] = {}
        "Paths of each file object."
        _, self._commit, _ = self._repo.load_commit(commit)
        self._walk("", _hex(self._commit.get_child_value(6)), _hex(self._commit.get_child_value(7)))

    def _walk(self, path: str, contents: str, meta: str) -> None:
        self._dirs.append((path, contents, meta))
        _, tree = self._repo.load_variant(OSTree.ObjectType.DIR_TREE, contents)
        files, dirs = tree.get_child_value(0), tree.get_child_value(1)
        for index in range(files.n_children()):
            item = files.get_child_value(index)
            name = item.get_child_value(0).get_string()
            self.files.setdefault(_hex(item.get_child_value(1)), []).append(_join(path, name))
        for index in range(dirs.n_children()):
            item = dirs.get_child_value(index)
            child = _join(path, item.get_child_value(0).get_string())
            self._walk(child, _hex(item.get_child_value(1)), _hex(item.get_child_value(2)))

    def structure(self) -> Iterator[Entry]:
        """Yield the commit, its detached metadata, every directory and its objects."""
        written = set()
        yield self._directory("./", self._dirs[0][2])
        yield from _repo_structure()
        yield object_entry(self._checksum, "commit", _data(self._commit))
        _, detached = self._repo.read_commit_detached_metadata(self._checksum, None)
        if detached is not None:
            yield object_entry(self._checksum, "commitmeta", _data(detached))
        for path, contents, meta in self._dirs:
            for kind, checksum in (("dirmeta", meta), ("dirtree", contents)):
                if (kind, checksum) not in written:
                    written.add((kind, checksum))
                    yield object_entry(checksum, kind, _data(self._metadata(kind, checksum)))
            if path not in ("", "sysroot"):
                yield self._directory(_in_container(path), meta)

    def _metadata(self, kind: str, checksum: str) -> Any:
        types = {"dirmeta": OSTree.ObjectType.DIR_META, "dirtree": OSTree.ObjectType.DIR_TREE}
        _, variant = self._repo.load_variant(types[kind], checksum)
        return variant

    def _directory(self, path: str, meta: str) -> Entry:
        uid, gid, mode, _ = self._metadata("dirmeta", meta).unpack()
        owner, group, bits = (int.from_bytes(int(n).to_bytes(4, "little"), "big") for n in (uid, gid, mode))
        return directory(path, mode=bits & 0o7777, uid=owner, gid=group, mtime=0)

    def content(self, objects: Collection[str], *, share_xattrs: bool) -> Iterator[Entry]:
        """Yield files, each after its extended attributes and before the links to it."""
        shared: set[str] = set()
        for checksum in objects:
            _, stream, info, xattrs = self._repo.load_file(checksum, None)
            data = _data(xattrs)
            if share_xattrs:
                name = hashlib.sha256(data).hexdigest()
                if name not in shared:
                    shared.add(name)
                    yield object_entry(name, "file-xattrs", data)
                link = object_path(checksum, "file-xattrs-link")
                yield hardlink(link, object_path(name, "file-xattrs"), mtime=0)
            else:
                yield object_entry(checksum, "file-xattrs-link", data)
            entry = self._file(checksum, stream, info, xattrs)
            yield entry
            for path in self.files[checksum]:
                if entry.kind == "file" and not entry.content:
                    yield replace(entry, path=_in_container(path))
                else:
                    yield hardlink(
                        _in_container(path),
                        entry.path,
                        mode=entry.mode,
                        uid=entry.uid,
                        gid=entry.gid,
                        mtime=0,
                    )

    def _file(self, checksum: str, stream: Any, info: Any, xattrs: Any) -> Entry:
        names = (bytes(xattrs.get_child_value(n).get_child_value(0)) for n in range(xattrs.n_children()))
        values = (bytes(xattrs.get_child_value(n).get_child_value(1)) for n in range(xattrs.n_children()))
        plain = {name.rstrip(b"\0").decode(): value for name, value in zip(names, values, strict=True)}
        plain.pop(_SELINUX, None)
        is_link = info.get_file_type() == Gio.FileType.SYMBOLIC_LINK
        return Entry(
            object_path(checksum, "file"),
            "symlink" if is_link else "file",
            content=b"" if is_link else _read(stream, info.get_size()),
            target=info.get_symlink_target() if is_link else "",
            mode=info.get_attribute_uint32("unix::mode") & 0o7777,
            uid=info.get_attribute_uint32("unix::uid"),
            gid=info.get_attribute_uint32("unix::gid"),
            mtime=0,
            xattrs={} if is_link else plain,
        )


def _read(stream: Any, size: int) -> bytes:
    content = b""
    while len(content) < size:
        content += stream.read_bytes(size - len(content), None).get_data()
    stream.close(None)
    return content


def _in_container(path: str) -> str:
    return path.removeprefix("usr/") if (path + "/").startswith("usr/etc/") else path


def _join(parent: str, name: str) -> str:
    return f"{parent}/{name}" if parent else name


def _hex(variant: Any) -> str:
    return bytes(variant).hex()


def _data(variant: Any) -> bytes:
    return bytes(variant.get_data_as_bytes().get_data() or b"")
