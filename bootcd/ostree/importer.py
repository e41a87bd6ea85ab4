"""Import of an image: its missing layers fetched and written side by side, merged, committed.

One commit a layer (`ostree/container/blob/<digest>`) makes the layer cache, one merge commit
(`ostree/container/image/<reference>`) is what gets deployed; both exactly where bootc looks for them.

    receive (event loop) -> decompress, hash (thread) -> parse, write objects (thread)   for each layer
    merge in memory -> publish -> refs

Nothing becomes visible before its digests were checked. What is finished is published every few
hundred megabytes, so that after a crash at any moment only unfinished layers are fetched again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import stat
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from bootcd.model.errors import BootcdError, InvalidManifest, NotBootable, Unsupported
from bootcd.oci.manifest import Descriptor, ImageConfig, ImageManifest
from bootcd.ostree.layer import ImportedLayer, import_layer
from bootcd.ostree.libostree import host_errors
from bootcd.ostree.repository import Repository, Transaction
from bootcd.ostree.store import ObjectStore, require_space
from bootcd.ostree.stream import BytePipe, cancelled
from bootcd.ostree.tree import DEFAULT_META, Directory, merge, read_tree, write_tree
from bootcd.ostreefmt.metadata import layer_commit_metadata, merge_commit_metadata
from bootcd.ostreefmt.objects import dirmeta
from bootcd.ostreefmt.refs import blob_ref, image_ref

T = TypeVar("T")

log = logging.getLogger(__name__)

CHECKPOINT_BYTES = 256 << 20
"Compressed bytes of layers that are written together and published when all of them are verified."

_EMPTIED_BY_HOST = ("usr/etc/hostname", "usr/etc/resolv.conf")
"Container builds leave them empty; an empty one would keep the host from making its own."

INDEX_DIGEST_KEY = "bootcd.index-digest"
"Of a merge commit's metadata: what a registry calls an image that is published for several platforms."

OpenBlob = Callable[[Descriptor], AsyncGenerator[bytes, None]]
"Streams a blob; an error comes before the end of the iteration if the bytes are not the blob's."


@dataclass(frozen=True, slots=True)
class Image:
    """An image whose manifest and config were fetched and checked."""

    reference: str
    "Transport and name, such as `docker://quay.io/example/os:1`."
    digest: str
    manifest: ImageManifest
    manifest_json: str
    config: ImageConfig
    config_json: str
    index_digest: str = ""
    "Digest of the index the manifest was chosen from, if it came from one."


@dataclass(slots=True)
class ImportProgress:
    """Counted up while an import runs; read by whoever shows it."""

    bytes_total: int = 0
    bytes_cached: int = 0
    bytes_done: int = 0
    layers_total: int = 0
    layers_done: int = 0
    merging: bool = False


@dataclass(frozen=True, slots=True)
class ImportResult:
    commit: str
    bytes_fetched: int
    dropped: Counter[str] = field(default_factory=Counter)
    "Archive entries left out, by top-level directory or kind."


def check_bootable(image: Image) -> None:
    """Refuse an image that does not say it is a host image, or is of a kind not handled yet."""
    labels = image.config.labels
    if "ostree.final-diffid" in labels:
        raise Unsupported(
            f"{image.reference} is a chunked ostree image, which this version cannot import",
            hint="use bootc for this image for now",
        )
    if not {"containers.bootc", "ostree.bootable"} & labels.keys():
        raise NotBootable(
            f"{image.reference} has neither label containers.bootc nor ostree.bootable",
            hint="it is an image of a container, not of a host",
        )


def missing_layers(repository: Repository, image: Image) -> list[Descriptor]:
    """Return the layers that are not in the repository, each once, in the manifest's order."""
    missing: dict[str, Descriptor] = {}
    for layer in image.manifest.layers:
        commit = repository.resolve(blob_ref(layer.digest))
        if commit is None or not repository.has_commit(commit):
            missing.setdefault(layer.digest, layer)
    return list(missing.values())


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
        require_space(self._repository.path, progress.bytes_total, self._repository.reserve_bytes())

        with ThreadPoolExecutor(self._parallel, thread_name_prefix="layer") as threads:
            transaction = await asyncio.to_thread(self._repository.begin)
            fetch = _Fetch(self._repository, image, transaction, progress, self._pipe_bytes, threads)
            try:
                await fetch.run(missing, open_blob, self._parallel)
                progress.merging = True
                commit = await _to_its_end(self._merge, image, fetch)
                await fetch.finish({image_ref(image.reference): commit})
            except BaseException:
                await _to_its_end(fetch.abandon)
                raise
        return ImportResult(commit, progress.bytes_done, fetch.dropped)

    def _merge(self, image: Image, fetch: _Fetch) -> str:
        repository = self._repository
        store = fetch.open_batch().store
        merged: Directory | None = None
        for layer in image.manifest.layers:
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
            )

    def _timestamp(self, image: Image) -> int:
        created = image.manifest.created or image.config.created_at or self._now
        return max(0, int(created.timestamp()))


@dataclass(slots=True)
class _Batch:
    """Layers that share a store, so that its directories move into the repository as a whole."""

    store: ObjectStore
    bytes_started: int = 0
    unfinished: int = 0
    refs: dict[str, str] = field(default_factory=dict)
    "To commits of verified layers in the store: they must not be set before it is published."

    @property
    def full(self) -> bool:
        return self.bytes_started >= CHECKPOINT_BYTES


class _Fetch:
    """The layers of one import in flight, and what is written and not yet published."""

    def __init__(
        self,
        repository: Repository,
        image: Image,
        transaction: Transaction,
        progress: ImportProgress,
        pipe_bytes: int,
        threads: ThreadPoolExecutor,
    ) -> None:
        self._repository = repository
        self._image = image
        self._transaction = transaction
        self._progress = progress
        self._pipe_bytes = pipe_bytes
        self._threads = threads
        self._batches: list[_Batch] = []
        "Not published yet; layers that start now go to the last one unless it is full."
        self._commits: dict[str, str] = {}
        self._publishing = asyncio.Lock()
        self.trees: dict[str, Directory] = {}
        self.dropped: Counter[str] = Counter()

    async def run(self, layers: list[Descriptor], open_blob: OpenBlob, parallel: int) -> None:
        # The largest first, so that no long one is left alone at the end.
        waiting = sorted(layers, key=lambda layer: layer.size)
        diff_ids = _diff_ids(self._image)

        async def work() -> None:
            while waiting:
                layer = waiting.pop()
                await self._one(layer, diff_ids[layer.digest], open_blob)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(parallel, len(waiting))):
                    group.create_task(work())
        except BaseExceptionGroup as failures:
            # The first failure is the reason; the others are layers stopped because of it.
            raise failures.exceptions[0] from None

    async def _one(self, layer: Descriptor, diff_id: str, open_blob: OpenBlob) -> None:
        loop = asyncio.get_running_loop()
        pipe = BytePipe(loop, limit_bytes=self._pipe_bytes)
        batch = self.open_batch()
        batch.bytes_started += layer.size
        batch.unfinished += 1
        store = batch.store
        what = f"layer {layer.digest[:19]} of {self._image.reference}"

        def write() -> tuple[ImportedLayer, str]:
            with host_errors(f"write {what}", path=str(self._repository.path)):
                imported = import_layer(
                    pipe,
                    store,
                    compression=layer.compression,
                    compressed_bytes=layer.size,
                    diff_id=diff_id,
                    allow_nonusr=True,
                    what=what,
                )
                return imported, self._write_layer_commit(imported, store)

        def write_or_abort() -> tuple[ImportedLayer, str]:
            try:
                return write()
            except BaseException as error:
                # Else the network side would wait for room that nobody makes.
                pipe.abort(error)
                raise

        writer = loop.run_in_executor(self._threads, write_or_abort)
        fetched = 0
        try:
            async with aclosing(open_blob(layer)) as chunks:
                async for chunk in chunks:
                    if not await pipe.feed(chunk):
                        break
                    fetched += len(chunk)
                    self._progress.bytes_done += len(chunk)
                else:
                    pipe.end()
            imported, commit = await asyncio.shield(writer)
        except BaseException as error:
            pipe.abort(cancelled() if isinstance(error, asyncio.CancelledError) else error)
            # The thread ends as soon as it sees the pipe's end; the store must not go before it. The layer
            # stays unfinished, so that what it wrote is never published.
            await _settled(writer)
            self._progress.bytes_done -= fetched
            raise
        self.trees[layer.digest] = imported.tree
        self.dropped.update(imported.dropped)
        self._commits[layer.digest] = commit
        self._progress.layers_done += 1
        batch.refs[blob_ref(layer.digest)] = commit
        batch.unfinished -= 1
        await self._checkpoint()

    def _write_layer_commit(self, layer: ImportedLayer, store: ObjectStore) -> str:
        return self._repository.write_commit(
            store,
            contents=write_tree(layer.tree, store),
            meta=layer.tree.meta,
            metadata=layer_commit_metadata(),
            timestamp=0,
            implied=sorted(path for path, node in layer.tree.walk() if node.implied),
        )

    def open_batch(self) -> _Batch:
        """Return the batch for what is written next."""
        # libostree's transaction holds all layers alike, so there can only be one for it.
        if not self._batches or (self._batches[-1].full and self._repository.stages_objects):
            self._batches.append(_Batch(self._repository.new_store()))
        return self._batches[-1]

    async def _checkpoint(self) -> None:
        """Publish the full batches whose layers are all verified."""
        async with self._publishing:
            for batch in [batch for batch in self._batches if batch.full and not batch.unfinished]:
                if self._repository.stages_objects:
                    self._batches.remove(batch)
                    await _to_its_end(self._transaction.checkpoint, [batch.store], batch.refs)

    async def finish(self, refs: dict[str, str]) -> None:
        """Publish what is left, and refs to it."""
        async with self._publishing:
            batches, self._batches = self._batches, []
            for batch in batches:
                refs = batch.refs | refs
            await _to_its_end(self._transaction.finish, [batch.store for batch in batches], refs)

    def abandon(self) -> None:
        """Forget what is not published. No thread may be at work any more. Blocks."""
        for batch in self._batches:
            batch.store.discard()
        try:
            self._transaction.abort()
        except BootcdError as error:
            # What made the import end is what the caller has to know.
            log.warning("%s", error.message)

    def commit_of(self, layer: str) -> str:
        return self._commits.get(layer) or self._repository.resolve(blob_ref(layer)) or ""

    def is_empty_file(self, checksum: bytes) -> bool:
        """Whether it is a regular file of size 0, published or not."""
        for batch in self._batches:
            if path := batch.store.find(checksum, "file"):
                status = path.lstat()
                return stat.S_ISREG(status.st_mode) and status.st_size == 0
        return self._repository.is_empty_file(checksum)


def _diff_ids(image: Image) -> dict[str, str]:
    """Return the digest of each layer's archive by that of its blob."""
    found: dict[str, str] = {}
    for layer, diff_id in zip(image.manifest.layers, image.config.diff_ids, strict=True):
        if found.setdefault(layer.digest, diff_id) != diff_id:
            raise InvalidManifest(f"layer {layer.digest} has two different diff_ids in the image config")
    return found


async def _to_its_end(action: Callable[..., T], *arguments: Any) -> T:
    """Run in a thread; a cancellation takes effect when the thread is done, never beside it."""
    thread = asyncio.get_running_loop().run_in_executor(None, action, *arguments)
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await _settled(thread)
        raise


async def _settled(future: asyncio.Future[Any]) -> None:
    """Wait until a thread is done, whatever came of it, and however often this task is cancelled."""
    while not future.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([future])
    if not future.cancelled():
        future.exception()


def read_tree_of(repository: Repository, commit: str) -> Directory:
    """Read the tree of a layer commit, ours or another program's."""
    contents, meta, listed = repository.commit_root(commit)
    default = hashlib.sha256(dirmeta(DEFAULT_META.uid, DEFAULT_META.gid, DEFAULT_META.mode, ())).digest()

    def implied(path: str, directory_meta: bytes) -> bool:
        # Another program does not record it: default attributes are what an implied one gets.
        return directory_meta == default if listed is None else path in listed

    return read_tree(
        contents, meta, implied, lambda checksum: repository.object_path(checksum, "dirtree").read_bytes()
    )


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
