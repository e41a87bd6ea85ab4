"""Import of an image: its missing layers fetched and written side by side, merged, committed.

One commit a layer (`ostree/container/blob/<digest>`) makes the layer cache, one merge commit
(`ostree/container/image/<reference>`) is what gets deployed; both exactly where bootc looks for them.

    fetch the layers -> merge in memory -> publish -> refs

Nothing becomes visible before its digests were checked. The commit of a chunked image is the lowest layer
of the merge, and its parent.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from bootcd.model.errors import NotBootable, OutOfSpace
from bootcd.model.trust import Verdict
from bootcd.oci.chunked import POSITION
from bootcd.ostree.content import Contents
from bootcd.ostree.contents import ContentIndex
from bootcd.ostree.derived import read_layer_tree, write_layer_commit
from bootcd.ostree.fetch import Base, Fetch, ImportProgress, OpenBlob, to_its_end
from bootcd.ostree.image import Image, Role, check_bootable, missing_layers
from bootcd.ostree.libostree import host_errors
from bootcd.ostree.partial import PartialFetch, Proof, ReadRange, When
from bootcd.ostree.relabel import Relabeller
from bootcd.ostree.repository import Repository
from bootcd.ostree.sepolicy import Policy, read_policy
from bootcd.ostree.store import ObjectStore, require_space
from bootcd.ostree.tree import Directory, merge, write_tree
from bootcd.ostreefmt.metadata import INDEX_DIGEST, TRUST, merge_commit_metadata
from bootcd.ostreefmt.refs import blob_ref, image_ref

_EMPTIED_BY_HOST = ("usr/etc/hostname", "usr/etc/resolv.conf")
"Container builds leave them empty; an empty one would keep the host from making its own."


@dataclass(frozen=True, slots=True)
class ImportResult:
    commit: str
    verdict: Verdict | None
    bytes_fetched: int
    dropped: Counter[str] = field(default_factory=Counter)
    "Archive entries left out, by top-level directory or kind."


class Importer:
    """Imports images into one repository."""

    def __init__(
        self,
        repository: Repository,
        *,
        parallel: int,
        memory_bytes: int,
        now: datetime,
        label_commit: str = "",
    ) -> None:
        """`label_commit` is of a system, the booted one, whose SELinux policy labels images without one."""
        self._repository = repository
        self._label_commit = label_commit
        self._parallel = parallel
        # Each layer in flight holds its pipe and a ring of as many decompressed bytes again.
        self._pipe_bytes = max(1 << 20, memory_bytes // (2 * parallel))
        self._now = now

    async def run(
        self,
        image: Image,
        open_blob: OpenBlob,
        progress: ImportProgress,
        *,
        read_range: ReadRange | None = None,
        partial: When = "auto",
        proof: Proof = "archive",
    ) -> ImportResult:
        """Import what is missing of an image and make its merge commit.

        With `read_range`, only parts are fetched of layers whose other parts are here: `partial` says when,
        `proof` what proves that such layers are those of the image.

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
        # What of the others is here already is known when their tables are.
        whole = [layer.size for layer in missing if read_range is None or POSITION not in layer.annotations]
        require_space(self._repository.path, sum(whole), self._repository.reserve_bytes())

        with ThreadPoolExecutor(self._parallel, thread_name_prefix="layer") as threads:
            transaction = await asyncio.to_thread(self._repository.begin)
            index = ContentIndex(self._repository.path)
            fetch = Fetch(
                self._repository,
                image,
                transaction,
                self._label_commit,
                progress,
                self._pipe_bytes,
                threads,
                index,
                PartialFetch(read_range, index, partial, proof, self._pipe_bytes // 2)
                if read_range and self._repository.is_bare
                else None,
            )
            try:
                await fetch.run(missing, open_blob, self._parallel)
                progress.merging = True
                refs = await to_its_end(self._merge, image, fetch)
                await fetch.finish(refs)
            except BaseException as error:
                await to_its_end(functools.partial(fetch.abandon, keep=not isinstance(error, OutOfSpace)))
                raise
            finally:
                await asyncio.to_thread(index.close)
        return ImportResult(
            commit=refs[image_ref(image.reference)],
            verdict=_verdict(image, fetch.base),
            bytes_fetched=progress.bytes_done,
            dropped=fetch.dropped,
        )

    def _merge(self, image: Image, fetch: Fetch) -> dict[str, str]:
        """Write the commit of the whole image; returns the refs to set, that to the image among them."""
        repository, base = self._repository, fetch.base
        layers = [
            layer.digest for layer in image.manifest.layers if fetch.roles[layer.digest] is Role.DERIVED
        ]
        trees = {
            layer: fetch.trees.get(layer) or read_layer_tree(repository, fetch.commit_of(layer))
            for layer in layers
        }
        store = fetch.open_batch().store
        refs: dict[str, str] = {}
        merged = _overlaid(base, [trees[layer] for layer in layers])
        if merged is None:
            raise NotBootable(f"{image.reference} has no layers")
        # What is there without layers on top is labelled as its commit says.
        policy = read_policy(merged, fetch.read_file, repository.scratch) if layers else None
        if policy is not None:
            refs = self._label(fetch, policy, trees, store)
            merged = _overlaid(base, [trees[layer] for layer in layers]) or merged
        for path in _EMPTIED_BY_HOST:
            checksum = merged.file(path)
            if checksum is not None and fetch.is_empty_file(checksum):
                merged.remove(path)
        _check_tree(image, merged)
        with host_errors("write the image's tree", path=str(repository.path)):
            contents = write_tree(merged, store)
            metadata = merge_commit_metadata(image.digest, image.manifest_json, image.config_json)
            if image.index_digest:
                metadata[INDEX_DIGEST] = image.index_digest
            if verdict := _verdict(image, base):
                metadata[TRUST] = verdict.model_dump_json()
            refs[image_ref(image.reference)] = repository.write_commit(
                store,
                contents=contents,
                meta=merged.meta,
                metadata=metadata,
                timestamp=self._timestamp(image),
                parent=base.commit if base else "",
            )
        return refs

    def _label(
        self, fetch: Fetch, policy: Policy, trees: dict[str, Directory], store: ObjectStore
    ) -> dict[str, str]:
        """Label the trees of base and layers; returns refs to the commits of layers that changed."""
        relabeller = Relabeller(policy, Contents(self._repository, fetch.find_object), store)
        refs: dict[str, str] = {}
        with host_errors("label the image's files", path=str(self._repository.path)):
            if fetch.base:
                relabeller.relabel(fetch.base.tree)
            for layer, tree in trees.items():
                if not fetch.is_labelled(layer, policy):
                    relabeller.relabel(tree)
                    refs[blob_ref(layer)] = write_layer_commit(self._repository, store, tree, policy)
        return refs

    def _timestamp(self, image: Image) -> int:
        created = image.manifest.created or image.config.created_at or self._now
        return max(0, int(created.timestamp()))


def _verdict(image: Image, base: Base | None) -> Verdict | None:
    """Return why the image is let in: a signature of all of it counts for more than one of its commit."""
    if image.verdict and image.verdict.verified:
        return image.verdict
    return base.verdict if base and base.verdict else image.verdict


def _overlaid(base: Base | None, layers: list[Directory]) -> Directory | None:
    """Return the layers laid over each other and the base; None if there is nothing of both."""
    if base is None and not layers:
        return None
    merged = base.tree.copy() if base else Directory(layers[0].meta, layers[0].implied)
    for layer in layers:
        merge(merged, layer)
    return merged


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
