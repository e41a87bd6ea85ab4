"""What of a layer has to be fetched, when the repository has files of the same content already.

    table of contents, by range -> what is here -> ranges of the rest -> the archive, rebuilt
                                                                   or -> the files, as the table lists them

A plan is no promise: where anything does not fit together, the layer is fetched whole, as any other. So is
one of which too little is here, and everything from a server that gives no parts of blobs.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import IO, Literal, TypeVar, cast

import zstandard

from bootcd.model.errors import DigestMismatch, InvalidLayer
from bootcd.oci.chunked import (
    FILE,
    FRAME_HEADER_BYTES,
    Layout,
    Part,
    Table,
    TableEntry,
    layer_layout,
)
from bootcd.oci.manifest import Descriptor
from bootcd.oci.ranges import Span, coalesce, cost, pieces
from bootcd.oci.tarsplit import read_tar_split
from bootcd.ostree.contents import ContentIndex
from bootcd.ostree.layer import most_plain_bytes, require_diff_id
from bootcd.ostree.listed import Item, Listed, entry_of
from bootcd.ostree.parts import MAX_WINDOW_BYTES, Content, Fetched, Parts
from bootcd.ostree.rebuild import Digester, Rebuilt
from bootcd.ostree.stream import BytePipe, Turn

T = TypeVar("T")

log = logging.getLogger(__name__)

ReadRange = Callable[[Descriptor, int, int], Awaitable[bytes | None]]
"Returns a number of a blob's bytes from a place on, unverified; None if there are no parts to be had."

When = Literal["auto", "always"]

Proof = Literal["archive", "table"]
"""What a layer of which parts were fetched is held to: the config's digest of its archive, or the manifest's
digest of its table of contents."""

MAX_TABLES_BYTES = 32 << 20
"Of table and tar-split, compressed, which stay in memory."
MAX_ENTRIES = 150_000
"In one layer; each takes up to 700 bytes of memory, and its name."
MAX_NAMES_BYTES = 32 << 20
MIN_LAYER_BYTES = 256 << 10
"A smaller layer costs less than the requests."
WORTH = 0.8
"A layer is fetched in parts if they cost at most this share of it."

_SIDE_BY_SIDE_BYTES = 2 << 20
"Tables up to this size are fetched beside each other; of a layer of 5,000 files they have half a megabyte."
_PIECE_BYTES = 1 << 20
_FLYING = 8
"Ranges of one layer that are asked for at once, at most."


@dataclass(frozen=True, slots=True)
class PartialLayer(ABC):
    """A layer of which parts are fetched."""

    size: int
    "Of what is fetched."
    spans: list[Span]
    path_of: Callable[[bytes], str]

    @abstractmethod
    def read(
        self, pipe: BytePipe, read: Callable[[Rebuilt | Listed], T], *, diff_id: str, what: str, turn: Turn
    ) -> T:
        """Have the layer read, as `layer.unpack` does; its parts come through the pipe. Blocks.

        The caller holds the turn; others have it while this waits.
        """

    def _parts(self, pipe: BytePipe) -> Parts:
        return Parts(self.path_of, Fetched(pipe, self.spans))


@dataclass(frozen=True, slots=True)
class ProvedByArchive(PartialLayer):
    """One whose archive is put together and has to be what the config names."""

    contents: dict[str, Content]
    tar_split: bytes
    tar_split_bytes: int

    def read(
        self, pipe: BytePipe, read: Callable[[Rebuilt | Listed], T], *, diff_id: str, what: str, turn: Turn
    ) -> T:
        blocks = decompressed(self.tar_split, self.tar_split_bytes)
        digester = Digester(diff_id.partition(":")[0], turn)
        archive = Rebuilt(read_tar_split(blocks), self.contents, self._parts(pipe), digester)
        try:
            result = read(archive)
            require_diff_id(digester.hexdigest(), diff_id, what)
        except BaseException as error:
            # The network side would wait for room that nobody makes.
            pipe.abort(error)
            raise
        finally:
            archive.close()
            digester.close()
        return result


@dataclass(frozen=True, slots=True)
class ProvedByTable(PartialLayer):
    """One whose files are those of the table, for which the manifest vouches."""

    items: list[Item]
    "Used up."

    def read(
        self, pipe: BytePipe, read: Callable[[Rebuilt | Listed], T], *, diff_id: str, what: str, turn: Turn
    ) -> T:
        listed = Listed(self.items, self._parts(pipe))
        try:
            return read(listed)
        except BaseException as error:
            pipe.abort(error)
            raise
        finally:
            listed.close()


class PartialFetch:
    """Plans for the layers of one import.

    Args:
        when: "auto" if it saves enough, "always" where it is possible.
        proof: what layers are held to.
        ahead_bytes: may be in memory of one layer, fetched and not handed on.
    """

    def __init__(
        self, read_range: ReadRange, index: ContentIndex, when: When, proof: Proof, ahead_bytes: int
    ) -> None:
        self._read_range = read_range
        self._index = index
        self._when = when
        self._proof = proof
        self._ahead_bytes = ahead_bytes
        self._planning = asyncio.Lock()
        "One plan is made at a time."
        self._large = asyncio.Lock()
        "One large table is in memory at a time."
        self._no_ranges = False

    async def plan(self, layer: Descriptor, *, what: str, turn: Turn) -> tuple[PartialLayer | None, int]:
        """Return how to fetch parts of a layer, and how many bytes were fetched in vain to find out.

        None if all of it is to be fetched. Takes turns with readers. Raises what `read_range` raises.
        """
        spent = 0
        try:
            layout = layer_layout(layer.annotations, layer.size)
            if layout is None or self._no_ranges or layer.compression != "zstd":
                return None, 0
            if layout.tar_split is None and self._proof == "archive":
                raise InvalidLayer("its archive cannot be rebuilt and so not be verified")
            if self._when == "auto" and layer.size < MIN_LAYER_BYTES:
                return None, 0
            wanted = self._wanted(layout)
            spans = _table_spans(wanted)
            table_bytes = sum(span.size for span in spans)
            # Those of many layers may be on their way at a time, and only one that is large.
            async with nullcontext() if table_bytes <= _SIDE_BY_SIDE_BYTES else self._large:
                tables = await self._tables(layer, wanted, spans)
                if tables is None:
                    return None, 0
                spent = table_bytes
                _require_digest(tables[layout.table], layout.table_digest, "table of contents")
                async with self._planning:
                    plan = await self._planned(layout, tables, layer.size, turn)
            if self._when == "auto" and spent + cost(plan.spans) > layer.size * WORTH:
                log.info("%s is fetched whole: too little of it is here", what)
                return None, spent
        except (InvalidLayer, DigestMismatch) as error:
            log.warning("%s is fetched whole: %s", what, error.message)
            return None, spent
        plan = replace(plan, size=spent + plan.size)
        log.info("%s: %d of %d bytes are fetched, in %d ranges", what, plan.size, layer.size, len(plan.spans))
        return plan, 0

    async def blocks(self, layer: Descriptor, plan: PartialLayer) -> AsyncGenerator[bytes, None]:
        """Yield what is fetched, in order; several ranges are in flight."""
        todo = pieces(plan.spans, _PIECE_BYTES)
        flying: deque[tuple[asyncio.Task[bytes], int]] = deque()
        ahead = 0
        try:
            while True:
                while len(flying) < _FLYING and (not flying or ahead < self._ahead_bytes):
                    span = next(todo, None)
                    if span is None:
                        break
                    flying.append((asyncio.create_task(self._part(layer, span)), span.size))
                    ahead += span.size
                if not flying:
                    return
                task, size = flying[0]
                data = await task
                flying.popleft()
                ahead -= size
                yield data
        finally:
            for task, _ in flying:
                task.cancel()
            await asyncio.gather(*(task for task, _ in flying), return_exceptions=True)

    async def _part(self, layer: Descriptor, span: Span) -> bytes:
        data = await self._read_range(layer, span.start, span.size)
        if data is None:
            raise InvalidLayer("the server gives no parts of blobs any more")
        return data

    def _wanted(self, layout: Layout) -> list[Part]:
        """Return what is needed of table and tar-split."""
        wanted = [layout.table]
        if layout.tar_split is not None and self._proof == "archive":
            wanted.append(layout.tar_split)
        if sum(part.size for part in wanted) > MAX_TABLES_BYTES:
            raise InvalidLayer("its tables are too large")
        return wanted

    async def _tables(
        self, layer: Descriptor, wanted: list[Part], spans: list[Span]
    ) -> dict[Part, bytes] | None:
        """Return parts of a layer, compressed and unverified."""
        found: dict[Part, bytes] = {}
        for span in spans:
            data = await self._read_range(layer, span.start, span.size)
            if data is None:
                self._no_ranges = True
                log.info("the server gives no parts of blobs: layers are fetched whole")
                return None
            for part in wanted:
                if span.start <= part.offset < span.end:
                    found[part] = data[part.offset - span.start : part.end - span.start]
        return found

    async def _planned(
        self, layout: Layout, tables: dict[Part, bytes], layer_bytes: int, turn: Turn
    ) -> PartialLayer:
        def in_turn() -> PartialLayer:
            with turn:
                make = _by_table if self._proof == "table" else _by_archive
                return make(self._index, layout, tables, layer_bytes)

        thread = asyncio.get_running_loop().run_in_executor(None, in_turn)
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:
            self._index.stop()
            await asyncio.wait([thread])
            raise


def _table_spans(parts: Iterable[Part]) -> list[Span]:
    """Return where the tables are: one place, as everybody writes them, or two."""
    spans = [Span(part.offset, part.end) for part in sorted(parts, key=lambda part: part.offset)]
    if len(spans) == 2 and spans[1].start - spans[0].end == FRAME_HEADER_BYTES:
        return [Span(spans[0].start, spans[1].end)]
    return spans


def _by_archive(
    index: ContentIndex, layout: Layout, tables: dict[Part, bytes], layer_bytes: int
) -> ProvedByArchive:
    """Plan by table and tar-split. Blocks."""
    assert layout.tar_split is not None
    table = _table(layout, tables)
    contents: dict[str, Content] = {}
    for entry in _bounded(table, layer_bytes):
        if entry.type == FILE and entry.size:
            if entry.name in contents:
                raise InvalidLayer(f"its table of contents has {entry.name[-80:]!r} twice")
            contents[entry.name] = _content(entry)
    _require_digest(tables[layout.tar_split], table.tar_split_digest, "tar-split")
    here = index.find([(content.digest, content.size) for content in contents.values()])
    for content in contents.values():
        content.held = here.get(content.digest, ())
    spans = _needed(contents.values())
    return ProvedByArchive(
        sum(span.size for span in spans),
        spans,
        index.path_of,
        contents,
        tables[layout.tar_split],
        layout.tar_split.plain_size,
    )


def _by_table(
    index: ContentIndex, layout: Layout, tables: dict[Part, bytes], layer_bytes: int
) -> ProvedByTable:
    """Plan by the table alone. Blocks."""
    items: list[Item] = []
    for listed in _bounded(_table(layout, tables), layer_bytes):
        entry = entry_of(listed)
        if entry is not None:
            items.append(Item(entry, _content(listed) if entry.size else None))
    here = index.find([(item.content.digest, item.content.size) for item in items if item.content])
    for item in items:
        if item.content:
            item.content.held = here.get(item.content.digest, ())
    spans = _needed(item.content for item in items if item.content)
    return ProvedByTable(sum(span.size for span in spans), spans, index.path_of, items)


def _table(layout: Layout, tables: dict[Part, bytes]) -> Table:
    plain = decompressed(tables[layout.table], layout.table.plain_size)
    return Table(plain, data_end=layout.data_end)


def _bounded(table: Table, layer_bytes: int) -> Iterator[TableEntry]:
    """Yield entries as long as they are what a plan can be made for."""
    left = most_plain_bytes(layer_bytes)
    names_bytes = 0
    for count, entry in enumerate(table):
        names_bytes += sys.getsizeof(entry.name)
        if count >= MAX_ENTRIES or names_bytes > MAX_NAMES_BYTES:
            raise InvalidLayer("it has more files than a plan can be made for")
        left -= entry.size if entry.type == FILE else 0
        if left < 0:
            raise InvalidLayer("it unpacks beyond all proportion")
        yield entry


def _content(entry: TableEntry) -> Content:
    return Content(entry.size, bytes.fromhex(entry.digest[-64:]), Span(entry.offset, entry.end_offset))


def _needed(contents: Iterable[Content]) -> list[Span]:
    """Return what has to be fetched."""
    return coalesce([content.span for content in contents if not content.held])


def decompressed(data: bytes, plain_bytes: int) -> Iterator[bytes]:
    """Yield a table in blocks; raises InvalidLayer unless it is as long as was announced."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    reader = decompressor.stream_reader(cast("IO[bytes]", io.BytesIO(data)), read_across_frames=True)
    left = plain_bytes
    while True:
        try:
            block = reader.read(1 << 18)
        except zstandard.ZstdError as error:
            raise InvalidLayer("its tables cannot be decompressed") from error
        left -= len(block)
        if left < 0 or (left and not block):
            raise InvalidLayer("its tables are not as long as was announced")
        if not block:
            return
        yield block


def _require_digest(data: bytes, expected: str, what: str) -> None:
    actual = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if actual != expected:
        raise DigestMismatch(
            f"its {what} has another digest than announced", expected=expected, actual=actual
        )
