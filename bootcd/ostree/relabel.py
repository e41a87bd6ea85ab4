"""Trees whose files get the labels a policy has for them.

A label is an extended attribute and so part of an object: one file under two names that are labelled
differently is two objects. Most files have the right label from when they were imported; only the others
are written again, into the same store as all else of the import.

What bootc does of this: `container/store.rs` of crate ostree-ext, https://github.com/bootc-dev/bootc.
"""

from __future__ import annotations

import stat

from bootcd.ostree.content import Contents
from bootcd.ostree.sepolicy import Policy
from bootcd.ostree.store import SMALL_FILE_BYTES, ObjectStore
from bootcd.ostree.tree import Directory
from bootcd.ostreefmt.objects import dirmeta, parse_dirmeta
from bootcd.ostreefmt.selinux import label_of, with_label


class Relabeller:
    """Gives trees the labels of one policy. Not for several threads."""

    def __init__(self, policy: Policy, contents: Contents, store: ObjectStore) -> None:
        self.policy = policy
        self._contents = contents
        self._store = store
        self._metas: dict[tuple[bytes, bytes | None], bytes] = {}
        self._large: dict[tuple[bytes, bytes], bytes] = {}
        "Files that take long to write again, by what they were and the label they got."

    def relabel(self, tree: Directory) -> None:
        """Change a tree in place. Raises what reading objects and writing to the store raise."""
        for path, directory in tree.walk():
            directory.meta = self._meta(directory.meta, self.policy.label(path, stat.S_IFDIR))
            below = f"{path}/" if path else ""
            for name, checksum in directory.files.items():
                directory.files[name] = self._file(checksum, below + name)

    def _meta(self, checksum: bytes, label: bytes | None) -> bytes:
        key = checksum, label
        known = self._metas.get(key)
        if known is None:
            meta = parse_dirmeta(self._contents.read_dirmeta(checksum))
            known = checksum
            if label not in (None, label_of(meta.xattrs)):
                data = dirmeta(meta.uid, meta.gid, meta.mode, with_label(meta.xattrs, label))
                known = self._store.write_metadata("dirmeta", data)
            self._metas[key] = known
        return known

    def _file(self, checksum: bytes, path: str) -> bytes:
        mode, current = self._contents.mode_and_label(checksum)
        label = self.policy.label(path, mode)
        if label is None or label == current:
            return checksum
        known = self._large.get((checksum, label))
        return self._written(checksum, label) if known is None else known

    def _written(self, checksum: bytes, label: bytes) -> bytes:
        with self._contents.open(checksum) as content:
            owner = content.uid, content.gid
            xattrs = with_label(content.xattrs, label)
            if stat.S_ISLNK(content.mode):
                return self._store.write_symlink(*owner, content.target, xattrs)
            mode = stat.S_IMODE(content.mode)
            new = self._store.write_file(*owner, mode, xattrs, content.size, content.chunks())
            if content.size > SMALL_FILE_BYTES:
                self._large[checksum, label] = new
            return new
