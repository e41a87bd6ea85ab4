"""Import of an image: its missing layers fetched and written side by side, merged, committed.

One commit a layer (`ostree/container/blob/<digest>`) makes the layer cache, one merge commit
(`ostree/container/image/<reference>`) is what gets deployed; both exactly where bootc looks for them.

    fetch the layers -> merge in memory -> publish -> refs

Nothing becomes visible before its digests were checked. The commit of a chunked image is the lowest layer
of the merge, and its parent.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from bootcd.model.errors import NotBootable
from bootcd.ostree.fetch import Fetch, ImportProgress, OpenBlob, to_its_end
from bootcd.ostree.image import Image, Role, check_bootable, missing_layers
from bootcd.ostree.libostree import host_errors
from bootcd.ostree.repository import Repository
from bootcd.ostree.store import require_space
from bootcd.ostree.tree import DEFAULT_META, Directory, merge, read_tree, write_tree
from bootcd.ostreefmt.metadata import merge_commit_metadata
from bootcd.ostreefmt.objects import dirmeta
from bootcd.ostreefmt.refs import image_ref

_EMPTIED_BY_HOST = ("usr/etc/hostname", "usr/etc/resolv.conf")
"Container builds leave them empty; an empty one would keep the host from making its own."

INDEX_DIGEST_KEY = "bootcd.index-digest"
"Of a merge commit's metadata: what a registry calls an image that is published for several platforms."


@dataclass(frozen=True, slots=True)
class ImportResult:
    commit: str
    bytes_fetched: int
    dropped: Counter[str] = field(default_factory=Counter)
    "Archive entries left out, by top-level directory or kind."


class Importer:
    """Imports images into one repository."""

    def __init__(self, repository: Repository, *, parallel: int, memory_bytes: int, now: datetime) -> None:
        self._repository = repository
        self._parallel = parallel
        # Each layer in flight holds its pipe and a ring of as many decompressed bytes again.
        self._pipe_bytes = max(1 << 20, memory_bytes // (2 * parallel))
        self._now = now

    async def run(self, image: Image, open_blob: OpenBlob, progress: ImportProgress) -> ImportResult:
        """Import what is missing of an image and make its merge commit.

        Safe to repeat and to kill at any moment. The caller holds the sysroot lock.

        Raises: whatever `open_blob` raises, `InvalidLayer`, `DigestMismatch`, `OutOfSpace`,
            `NotBootable`, `BackendFailed`.
        """
        check_bootable(image)
        missing = missing_layers(self._repository, image)
        progress.layers_total = len(missing)
        progress.bytes_total = sum(layer.size for layer in missing)
        unique = {layer.digest: layer.size for layer in image.manifest.layers}
        progress.bytes_cached = sum(unique.values()) - progress.bytes_total
        progress.layers_cached = len(unique) - len(missing)
        require_space(self._repository.path, progress.bytes_total, self._repository.reserve_bytes())

        with ThreadPoolExecutor(self._parallel, thread_name_prefix="layer") as threads:
            transaction = await asyncio.to_thread(self._repository.begin)
            fetch = Fetch(self._repository, image, transaction, progress, self._pipe_bytes, threads)
            try:
                await fetch.run(missing, open_blob, self._parallel)
                progress.merging = True
                commit = await to_its_end(self._merge, image, fetch)
                await fetch.finish({image_ref(image.reference): commit})
            except BaseException:
                await to_its_end(fetch.abandon)
                raise
        return ImportResult(commit, progress.bytes_done, fetch.dropped)

    def _merge(self, image: Image, fetch: Fetch) -> str:
        repository, base = self._repository, fetch.base
        store = fetch.open_batch().store
        merged = base.tree if base else None
        for layer in image.manifest.layers:
            if fetch.roles[layer.digest] is not Role.DERIVED:
                continue
            tree = fetch.trees.get(layer.digest)
            if tree is None:
                tree = read_tree_of(repository, fetch.commit_of(layer.digest))
            if merged is None:
                merged = Directory(tree.meta, tree.implied)
            merge(merged, tree)
        if merged is None:
            raise NotBootable(f"{image.reference} has no layers")
        for path in _EMPTIED_BY_HOST:
            checksum = merged.file(path)
            if checksum is not None and fetch.is_empty_file(checksum):
                merged.remove(path)
        _check_tree(image, merged)
        with host_errors("write the image's tree", path=str(repository.path)):
            contents = write_tree(merged, store)
            metadata = merge_commit_metadata(image.digest, image.manifest_json, image.config_json)
            if image.index_digest:
                metadata[INDEX_DIGEST_KEY] = image.index_digest
            return repository.write_commit(
                store,
                contents=contents,
                meta=merged.meta,
                metadata=metadata,
                timestamp=self._timestamp(image),
                parent=base.commit if base else "",
            )

    def _timestamp(self, image: Image) -> int:
        created = image.manifest.created or image.config.created_at or self._now
        return max(0, int(created.timestamp()))


def read_tree_of(repository: Repository, commit: str) -> Directory:
    """Read the tree of a layer commit, ours or another program's."""
    contents, meta, listed = repository.commit_root(commit)
    default = hashlib.sha256(dirmeta(DEFAULT_META.uid, DEFAULT_META.gid, DEFAULT_META.mode, ())).digest()

    def implied(path: str, directory_meta: bytes) -> bool:
        # Another program does not record it: default attributes are what an implied one gets.
        return directory_meta == default if listed is None else path in listed

    return read_tree(contents, meta, implied, repository.read_dirtree)


def _check_tree(image: Image, tree: Directory) -> None:
    """Refuse a tree that would deploy and not boot."""
    modules = tree.find("usr/lib/modules")
    kernels = [n for n, d in modules.dirs.items() if "vmlinuz" in d.files] if modules else []
    if len(kernels) != 1:
        raise NotBootable(
            f"{image.reference} has {len(kernels) or 'no'} kernels in /usr/lib/modules, one is needed",
            hint="a host image holds one directory there with vmlinuz and initramfs.img",
        )
    if tree.find("usr/etc") is None:
        raise NotBootable(f"{image.reference} has no /etc")
    if tree.file("usr/lib/os-release") is None and tree.file("usr/etc/os-release") is None:
        raise NotBootable(f"{image.reference} has no os-release file")
