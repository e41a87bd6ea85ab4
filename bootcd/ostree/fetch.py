"""Layers of one import in flight: received, checked, written side by side, published when verified.

    receive (event loop) -> decompress, hash (thread) -> parse, write objects (thread)   for each layer

Of the last step the layers take turns, and only while there is something to do.

What is finished is published every few seconds, or once if all of it takes no longer, so that after a crash
at any moment little is fetched again. The commit a chunked image was made from is written when all that it
reaches was seen.
"""

from __future__ import annotations

import asyncio
import logging
import stat
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bootcd.model.errors import (
    BootcdError,
    DigestMismatch,
    InvalidLayer,
    InvalidManifest,
    NotBootable,
    Unsupported,
)
from bootcd.model.trust import Verdict
from bootcd.oci.chunked import POSITION
from bootcd.oci.manifest import Descriptor
from bootcd.ostree.chunk import InnerCommit, ObjectSet, import_objects, read_complete_tree, write_chunk_commit
from bootcd.ostree.contents import ContentIndex
from bootcd.ostree.derived import is_labelled_by, write_layer_commit
from bootcd.ostree.image import Image, Role, cached_commit, layer_roles
from bootcd.ostree.layer import ImportedLayer, import_layer, unpack
from bootcd.ostree.libostree import host_errors
from bootcd.ostree.listed import Listed
from bootcd.ostree.partial import PartialFetch, PartialLayer
from bootcd.ostree.prepare_root import CONFIG_PATHS, MAX_CONFIG_BYTES, root_is_of_image
from bootcd.ostree.rebuild import Rebuilt
from bootcd.ostree.repository import Repository, Transaction
from bootcd.ostree.sepolicy import Policy, read_policy, read_policy_of
from bootcd.ostree.signature import verify_commit
from bootcd.ostree.store import ObjectStore, publish, require_space
from bootcd.ostree.stream import BytePipe, ByteSource, Turn, cancelled
from bootcd.ostree.tree import Directory
from bootcd.ostreefmt.refs import blob_ref

T = TypeVar("T")

log = logging.getLogger(__name__)

CHECKPOINT_SECS = 20
CHECKPOINT_BYTES = 1 << 30
"""Layers that begin within this time, or so many compressed bytes, are written together, and published when
all of them are verified. Only the first to be published can move into a new repository as whole directories,
those after them move file by file; so a fast import has one publication, and a slow one loses little to a
crash."""

OpenBlob = Callable[[Descriptor], AsyncGenerator[bytes, None]]
"Streams a blob; an error comes before the end of the iteration if the bytes are not the blob's."


@dataclass(slots=True)
class LayerCount:
    """Of one layer, that begins to be fetched; complete when all bytes are done."""

    digest: str
    is_chunk: bool
    bytes_total: int
    bytes_done: int = 0


@dataclass(slots=True)
class ImportProgress:
    """Counted up while an import runs; read by whoever shows it."""

    bytes_total: int = 0
    bytes_cached: int = 0
    bytes_done: int = 0
    layers_total: int = 0
    layers_done: int = 0
    layers_cached: int = 0
    layers: list[LayerCount] = field(default_factory=list)
    "In the order of their start; one that failed is gone."
    merging: bool = False


@dataclass(frozen=True, slots=True)
class Base:
    """The ostree commit a chunked image was made from, with nothing missing."""

    commit: str
    tree: Directory
    verdict: Verdict | None
    "Whose signature it has, where one was asked for."


@dataclass(frozen=True, slots=True)
class _Written:
    """What became of a layer. The commit of the first layer of a chunked image has to wait."""

    commit: str | None
    tree: Directory | None = None
    objects: ObjectSet | None = None
    labelled_by: Policy | None = None
    dropped: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Batch:
    """Layers that share a store, so that its directories move into the repository as a whole."""

    store: ObjectStore
    vouched: bool = False
    "Of layers in parts, whose files are verified one by one; the others are verified as a whole."
    begun: float = field(default_factory=time.monotonic)
    bytes_started: int = 0
    unfinished: int = 0
    refs: dict[str, str] = field(default_factory=dict)
    "To commits of verified layers in the store: they must not be set before it is published."

    @property
    def full(self) -> bool:
        return self.bytes_started >= CHECKPOINT_BYTES or time.monotonic() - self.begun >= CHECKPOINT_SECS


class Fetch:
    """The layers of one import in flight, and what is written and not yet published."""

    def __init__(
        self,
        repository: Repository,
        image: Image,
        transaction: Transaction,
        label_commit: str,
        progress: ImportProgress,
        pipe_bytes: int,
        threads: ThreadPoolExecutor,
        index: ContentIndex,
        partial: PartialFetch | None,
    ) -> None:
        """`partial` plans what is fetched of layers of which something may be here."""
        self._repository = repository
        self._image = image
        self._transaction = transaction
        self._label_commit = label_commit
        self._progress = progress
        self._pipe_bytes = pipe_bytes
        self._threads = threads
        self._index = index
        self._partial = partial
        self._batches: list[_Batch] = []
        "Not published yet; layers that start now go to the last one unless it is full."
        self._commits: dict[str, str] = {}
        self._turn = Turn()
        self._publishing = asyncio.Lock()
        self._chunks: dict[str, frozenset[bytes]] = {}
        "File objects by layer."
        self._inner: InnerCommit | None = None
        self._allow_nonusr = True
        self._policy: Policy | None = None
        "Labels what is imported; most of it as the image's own policy will have it in the end."
        self._labelled: dict[str, Policy] = {}
        "The policy all of a layer is labelled by, if there is one; for layers of this import."
        self.roles = layer_roles(image.manifest, image.config)
        self.base: Base | None = None
        self.trees: dict[str, Directory] = {}
        self.dropped: Counter[str] = Counter()

    async def run(self, layers: list[Descriptor], open_blob: OpenBlob, parallel: int) -> None:
        """Fetch layers; all that is missing of the ostree commit the image was made from, if any, first."""
        if Role.COMMIT in self.roles.values():
            objects = [layer for layer in layers if self.roles[layer.digest] is not Role.DERIVED]
            await self._side_by_side(objects, open_blob, parallel)
            self.base = await to_its_end(self._complete_base)
            # It is for the commit to say what of the layers on top of it is taken.
            self._allow_nonusr = await to_its_end(self._root_is_of_image, self.base.tree)
        derived = [layer for layer in layers if self.roles[layer.digest] is Role.DERIVED]
        if derived:
            self._policy = await to_its_end(self._import_policy)
        await self._side_by_side(derived, open_blob, parallel)

    async def _side_by_side(self, layers: list[Descriptor], open_blob: OpenBlob, parallel: int) -> None:
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
        what = f"layer {layer.digest[:19]} of {self._image.reference}"
        plan = await self._plan(layer, what)
        if self._partial is not None and plan is not None:
            saved = layer.size - plan.size
            self._progress.bytes_total -= saved
            self._progress.bytes_cached += saved
            try:
                await self._bring(layer, diff_id, self._partial.blocks(layer, plan), plan, what)
            except (InvalidLayer, DigestMismatch) as error:
                # Whether the layer or its table is at fault, the layer itself will tell.
                log.warning("%s is fetched whole: %s", what, error.message)
                self._progress.bytes_total += saved
                self._progress.bytes_cached -= saved
            else:
                return
        if self._partial is not None:
            require_space(self._repository.path, layer.size, self._repository.reserve_bytes())
        await self._bring(layer, diff_id, open_blob(layer), None, what)

    async def _plan(self, layer: Descriptor, what: str) -> PartialLayer | None:
        """Return how to fetch parts of a layer, None if it is to be fetched whole."""
        if self._partial is None:
            return None
        plan, vain = await self._partial.plan(layer, what=what, turn=self._turn)
        self._progress.bytes_done += vain
        self._progress.bytes_total += vain
        return plan

    async def _bring(
        self,
        layer: Descriptor,
        diff_id: str,
        blocks: AsyncGenerator[bytes, None],
        plan: PartialLayer | None,
        what: str,
    ) -> None:
        """Write a layer that comes in whole, or in the parts of a plan."""
        loop = asyncio.get_running_loop()
        size = plan.size if plan else layer.size
        # A whole layer is waited for behind its decoder.
        pipe = BytePipe(loop, limit_bytes=self._pipe_bytes, turn=self._turn if plan else None)
        batch = self.open_batch(vouched=plan is not None)
        batch.bytes_started += size
        batch.unfinished += 1
        store = batch.store

        def read(source: ByteSource | Listed) -> ImportedLayer | ObjectSet:
            role = self.roles[layer.digest]
            reuse = source.reuse if isinstance(source, Rebuilt | Listed) else None
            if role is Role.DERIVED:
                return import_layer(
                    source,
                    store,
                    allow_nonusr=self._allow_nonusr,
                    policy=self._policy,
                    # The next version of a layer with a table is likely to have one.
                    note_contents=POSITION in layer.annotations,
                    reuse=reuse,
                    what=what,
                )
            return import_objects(source, store, commit=role is Role.COMMIT, reuse=reuse, what=what)

        def write_or_abort() -> _Written:
            try:
                with self._turn, host_errors(f"write {what}", path=str(self._repository.path)):
                    return self._written(self._read(layer, diff_id, pipe, read, plan, what), store)
            except BaseException as error:
                # Else the network side would wait for room that nobody makes.
                pipe.abort(error)
                raise

        writer = loop.run_in_executor(self._threads, write_or_abort)
        # Its tables came with the plan.
        fetched = size - sum(span.size for span in plan.spans) if plan else 0
        self._progress.bytes_done += fetched
        count = LayerCount(layer.digest, self.roles[layer.digest] is not Role.DERIVED, size, fetched)
        self._progress.layers.append(count)
        try:
            async with aclosing(blocks) as chunks:
                async for chunk in chunks:
                    if not await pipe.feed(chunk):
                        break
                    fetched += len(chunk)
                    count.bytes_done = max(0, min(fetched, size - 1))
                    self._progress.bytes_done += len(chunk)
                else:
                    pipe.end()
            written = await asyncio.shield(writer)
        except BaseException as error:
            pipe.abort(cancelled() if isinstance(error, asyncio.CancelledError) else error)
            # The thread ends as soon as it sees the pipe's end; the store must not go before it. The layer
            # stays unfinished, so that what it wrote is never published.
            await _settled(writer)
            self._progress.layers.remove(count)
            if plan is not None and isinstance(error, InvalidLayer | DigestMismatch):
                # It will be tried again. What was written meanwhile is what the manifest vouches for.
                batch.unfinished -= 1
                self._progress.bytes_total += fetched
            else:
                self._progress.bytes_done -= fetched
            raise
        if written.tree is not None:
            self.trees[layer.digest] = written.tree
        if written.labelled_by is not None:
            self._labelled[layer.digest] = written.labelled_by
        if written.objects is not None:
            self._chunks[layer.digest] = written.objects.files
            self._inner = written.objects.commit or self._inner
        if written.commit is not None:
            self._commits[layer.digest] = written.commit
            batch.refs[blob_ref(layer.digest)] = written.commit
        self.dropped.update(written.dropped)
        self._progress.layers_done += 1
        count.bytes_done = count.bytes_total
        batch.unfinished -= 1
        await self._checkpoint()

    def _read(
        self,
        layer: Descriptor,
        diff_id: str,
        pipe: BytePipe,
        read: Callable[[ByteSource | Listed], ImportedLayer | ObjectSet],
        plan: PartialLayer | None,
        what: str,
    ) -> ImportedLayer | ObjectSet:
        """Have the archive of a layer read, wherever its bytes come from. Blocks."""
        if plan is None:
            return unpack(
                pipe,
                read,
                compression=layer.compression,
                compressed_bytes=layer.size,
                diff_id=diff_id,
                what=what,
                turn=self._turn,
            )
        return plan.read(pipe, read, diff_id=diff_id, what=what, turn=self._turn)

    def _written(self, layer: ImportedLayer | ObjectSet, store: ObjectStore) -> _Written:
        if isinstance(layer, ObjectSet):
            is_chunk = layer.commit is None
            commit = write_chunk_commit(layer.files, store, self._repository) if is_chunk else None
            return _Written(commit, objects=layer)
        commit = write_layer_commit(self._repository, store, layer.tree, layer.labelled_by)
        if layer.contents:
            self._index.note(layer.contents)
        return _Written(commit, tree=layer.tree, labelled_by=layer.labelled_by, dropped=layer.dropped)

    def _import_policy(self) -> Policy | None:
        """Return the policy by which layers are labelled until that of the whole image is known. Blocks."""
        try:
            if self.base is not None:
                return read_policy(self.base.tree, self.read_file, self._repository.scratch)
            return read_policy_of(self._repository, self._label_commit) if self._label_commit else None
        except (NotBootable, Unsupported) as error:
            # The layers may bring another one, and it is that one which counts.
            log.warning("the layers are imported without labels: %s", error.message)
            return None

    def _complete_base(self) -> Base:
        """Return the commit a chunked image was made from, once all it reaches was seen. Blocks.

        Only now is the commit written and may the layer's ref lead to it.
        """
        layer = next(digest for digest, role in self.roles.items() if role is Role.COMMIT)
        inner = self._inner
        if inner is None:
            checksum = self.commit_of(layer)
            contents, meta, _ = self._repository.commit_root(checksum)
        else:
            checksum, contents, meta = inner.checksum.hex(), inner.contents, inner.meta
        what = f"the ostree commit of {self._image.reference}"
        verdict = None
        if self._image.remote:
            # One from the layer cache as well: it may have come for an image that nobody had to sign.
            signed = (inner.data, inner.detached) if inner else self._repository.read_commit(checksum)
            verdict = verify_commit(self._repository.repo, self._image.remote, *signed, what=what)
        with host_errors(f"read {what}", path=str(self._repository.path)):
            tree = read_complete_tree(
                contents,
                meta,
                read_dirtree=self._read_dirtree,
                has_object=self._object_finder(),
                what=what,
            )
        if inner is not None:
            batch = self.open_batch()
            with host_errors(f"write {what}", path=str(self._repository.path)):
                batch.store.write_metadata("commit", inner.data)
            if inner.detached is not None:
                self._repository.write_detached_metadata(checksum, inner.detached)
            self._commits[layer] = checksum
            batch.refs[blob_ref(layer)] = checksum
        return Base(checksum, tree, verdict)

    def _object_finder(self) -> Callable[[bytes, str], bool]:
        files = set().union(*self._chunks.values())
        for digest, role in self.roles.items():
            if role is Role.CHUNK and digest not in self._chunks:
                listed, _ = self._repository.list_root(self.commit_of(digest))
                files.update(checksum for _, checksum in listed)

        def has_object(checksum: bytes, kind: str) -> bool:
            return (
                (kind == "file" and checksum in files)
                or self.find_object(checksum, kind) is not None
                or self._repository.has_object(checksum, kind)
            )

        return has_object

    def _read_dirtree(self, checksum: bytes) -> bytes:
        path = self.find_object(checksum, "dirtree")
        return path.read_bytes() if path else self._repository.read_dirtree(checksum)

    def _root_is_of_image(self, tree: Directory) -> bool:
        """Whether what a layer has beside /usr, /etc and /var is part of the system. Blocks."""
        for path in CONFIG_PATHS:
            if checksum := tree.file(path):
                config = self.read_file(checksum, MAX_CONFIG_BYTES)
                if config is None:
                    raise NotBootable(f"{self._image.reference} has a /{path} that is too large or no file")
                return root_is_of_image(config)
        return False

    def read_file(self, checksum: bytes, limit: int) -> bytes | None:
        """Return a file's content, None if it is not a regular file or larger than `limit` bytes."""
        path = self.find_object(checksum, "file")
        if path is None:
            return self._repository.read_file(checksum, limit)
        status = path.lstat()
        return path.read_bytes() if stat.S_ISREG(status.st_mode) and status.st_size <= limit else None

    def find_object(self, checksum: bytes, kind: str) -> Path | None:
        """Return where an object lies that is not published yet."""
        return next((path for b in self._batches if (path := b.store.find(checksum, kind))), None)

    def open_batch(self, *, vouched: bool = False) -> _Batch:
        """Return the batch for what is written next."""
        # libostree's transaction holds all layers alike, so there can only be one for it.
        vouched = vouched and self._repository.stages_objects
        last = next((batch for batch in reversed(self._batches) if batch.vouched == vouched), None)
        if last is None or (last.full and self._repository.stages_objects):
            last = _Batch(self._repository.new_store(vouched=vouched, damaged=self._index.damaged), vouched)
            self._batches.append(last)
        return last

    async def _checkpoint(self) -> None:
        """Publish the full batches whose layers are all verified."""
        async with self._publishing:
            for batch in [batch for batch in self._batches if batch.full and not batch.unfinished]:
                if self._repository.stages_objects:
                    self._batches.remove(batch)
                    await to_its_end(self._transaction.checkpoint, [batch.store], batch.refs)

    async def finish(self, refs: dict[str, str]) -> None:
        """Publish what is left, and refs to it."""
        async with self._publishing:
            batches, self._batches = self._batches, []
            for batch in batches:
                refs = batch.refs | refs
            await to_its_end(self._transaction.finish, [batch.store for batch in batches], refs)
        if self._inner is not None:
            # Another program may have begun to pull this commit and never come to the end.
            await to_its_end(self._repository.mark_complete, self._inner.checksum.hex())

    def abandon(self, *, keep: bool) -> None:
        """Forget what is not published. No thread may be at work any more. Blocks.

        Args:
            keep: publish files of layers in parts, so that they are not fetched again.
        """
        for batch in self._batches:
            if batch.vouched and keep:
                try:
                    publish([batch.store])
                except OSError as error:
                    log.warning("what was fetched is not kept: %s", error)
            else:
                batch.store.discard()
        try:
            self._transaction.abort()
        except BootcdError as error:
            # What made the import end is what the caller has to know.
            log.warning("%s", error.message)

    def commit_of(self, layer: str) -> str:
        return self._commits.get(layer) or cached_commit(self._repository, layer, self.roles[layer]) or ""

    def is_labelled(self, layer: str, policy: Policy) -> bool:
        """Whether all files of a derived layer are known to be labelled by a policy."""
        if layer in self.trees:
            labelled_by = self._labelled.get(layer)
            return labelled_by is not None and labelled_by.identity == policy.identity
        return is_labelled_by(self._repository, self.commit_of(layer), policy)

    def is_empty_file(self, checksum: bytes) -> bool:
        """Whether it is a regular file of size 0, published or not."""
        return self.read_file(checksum, 0) is not None


def _diff_ids(image: Image) -> dict[str, str]:
    """Return the digest of each layer's archive by that of its blob."""
    found: dict[str, str] = {}
    for layer, diff_id in zip(image.manifest.layers, image.config.diff_ids, strict=True):
        if found.setdefault(layer.digest, diff_id) != diff_id:
            raise InvalidManifest(f"layer {layer.digest} has two different diff_ids in the image config")
    return found


async def to_its_end(action: Callable[..., T], *arguments: Any) -> T:
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
