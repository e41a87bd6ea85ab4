"""What of a layer has to be fetched, when the repository has files of the same content already.

    table of contents and tar-split, by range -> what is here -> ranges of the rest -> the archive, rebuilt

A plan is no promise: where anything does not fit together, the layer is fetched whole, as any other. So is
one of which too little is here, and everything from a server that gives no parts of blobs.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import sys
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial as bound
from typing import IO, Literal, TypeVar, cast

import zstandard

from bootcd.model.errors import DigestMismatch, InvalidLayer
from bootcd.oci.chunked import FILE, FRAME_HEADER_BYTES, Layout, Part, Table, layer_layout
from bootcd.oci.manifest import Descriptor
from bootcd.oci.ranges import Span, coalesce, cost, pieces
from bootcd.oci.tarsplit import read_tar_split
from bootcd.ostree.contents import ContentIndex
from bootcd.ostree.layer import most_plain_bytes, require_diff_id
from bootcd.ostree.rebuild import MAX_WINDOW_BYTES, Content, Digester, Fetched, Rebuilt, needed_spans
from bootcd.ostree.stream import BytePipe

T = TypeVar("T")

log = logging.getLogger(__name__)

ReadRange = Callable[[Descriptor, int, int], Awaitable[bytes | None]]
"Returns a number of a blob's bytes from a place on, unverified; None if there are no parts to be had."

When = Literal["auto", "always"]

MAX_TABLES_BYTES = 32 << 20
"Of table and tar-split, compressed, which stay in memory."
MAX_FILES = 250_000
"In one layer; each takes about 300 bytes of memory, and its name."
MAX_NAMES_BYTES = 32 << 20
MIN_LAYER_BYTES = 256 << 10
"A smaller layer costs less than the requests."
WORTH = 0.8
"A layer is fetched in parts if they cost at most this share of it."

_PIECE_BYTES = 1 << 20
_FLYING = 8
"Ranges of one layer that are asked for at once, at most."


@dataclass(frozen=True, slots=True)
class PartialLayer:
    """A layer of which parts are fetched."""

    size: int
    "Of what is fetched."
    spans: list[Span]
    contents: dict[str, Content]
    tar_split: bytes
    tar_split_bytes: int
    path_of: Callable[[bytes], str]

    def read(self, pipe: BytePipe, read: Callable[[Rebuilt], T], *, diff_id: str, what: str) -> T:
        """Have the archive read, as `layer.unpack` does; its parts come through the pipe. Blocks."""
        blocks = decompressed(self.tar_split, self.tar_split_bytes)
        digester = Digester(diff_id.partition(":")[0])
        fetched = Fetched(pipe, self.spans)
        archive = Rebuilt(read_tar_split(blocks), self.contents, self.path_of, fetched, digester)
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


class PartialFetch:
    """Plans for the layers of one import.

    Args:
        when: "auto" if it saves enough, "always" where it is possible.
        ahead_bytes: may be in memory of one layer, fetched and not handed on.
    """

    def __init__(self, read_range: ReadRange, index: ContentIndex, when: When, ahead_bytes: int) -> None:
        self.bytes_in_vain = 0
        "Of tables that led to nothing."
        self._read_range = read_range
        self._index = index
        self._when = when
        self._ahead_bytes = ahead_bytes
        self._planning = asyncio.Lock()
        "One table in memory at a time."
        self._no_ranges = False

    async def plan(self, layer: Descriptor, *, what: str) -> PartialLayer | None:
        """Return how to fetch parts of a layer, None if all of it is to be fetched.

        Raises what `read_range` raises.
        """
        try:
            layout = layer_layout(layer.annotations, layer.size)
            if layout is None or self._no_ranges or layer.compression != "zstd":
                return None
            if layout.tar_split is None:
                raise InvalidLayer("its archive cannot be rebuilt and so not be verified")
            if self._when == "auto" and layer.size < MIN_LAYER_BYTES:
                return None
            async with self._planning:
                return await self._planned(layer, layout, what=what)
        except (InvalidLayer, DigestMismatch) as error:
            log.warning("%s is fetched whole: %s", what, error.message)
            return None

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

    async def _tables(self, layer: Descriptor, layout: Layout) -> tuple[bytes, bytes] | None:
        """Return table and tar-split, compressed; the table verified."""
        assert layout.tar_split is not None
        if layout.table.size + layout.tar_split.size > MAX_TABLES_BYTES:
            raise InvalidLayer("its tables are too large")
        found: dict[Part, bytes] = {}
        for span in _table_spans(layout):
            data = await self._read_range(layer, span.start, span.size)
            if data is None:
                return None
            self.bytes_in_vain += span.size
            for part in (layout.table, layout.tar_split):
                if span.start <= part.offset < span.end:
                    found[part] = data[part.offset - span.start : part.end - span.start]
        _require_digest(found[layout.table], layout.table_digest, "table of contents")
        return found[layout.table], found[layout.tar_split]

    async def _planned(self, layer: Descriptor, layout: Layout, *, what: str) -> PartialLayer | None:
        assert layout.tar_split is not None
        before = self.bytes_in_vain
        tables = await self._tables(layer, layout)
        if tables is None:
            self._no_ranges = True
            log.info("the server gives no parts of blobs: layers are fetched whole")
            return None
        table, tar_split = tables
        thread = asyncio.get_running_loop().run_in_executor(
            None, bound(_read_contents, self._index, layout, layer.size, table, tar_split)
        )
        try:
            contents = await asyncio.shield(thread)
        except asyncio.CancelledError:
            self._index.stop()
            await asyncio.wait([thread])
            raise
        spans = coalesce(needed_spans(contents))
        spent = self.bytes_in_vain - before
        if self._when == "auto" and spent + cost(spans) > layer.size * WORTH:
            log.info("%s is fetched whole: too little of it is here", what)
            return None
        self.bytes_in_vain = before
        size = spent + sum(span.size for span in spans)
        log.info("%s: %d of %d bytes are fetched, in %d ranges", what, size, layer.size, len(spans))
        return PartialLayer(
            size=size,
            spans=spans,
            contents=contents,
            tar_split=tar_split,
            tar_split_bytes=layout.tar_split.plain_size,
            path_of=self._index.path_of,
        )


def _table_spans(layout: Layout) -> list[Span]:
    """Return where the tables are: one place, as everybody writes them, or two."""
    parts = sorted(filter(None, (layout.table, layout.tar_split)), key=lambda part: part.offset)
    spans = [Span(part.offset, part.end) for part in parts]
    if len(spans) == 2 and spans[1].start - spans[0].end == FRAME_HEADER_BYTES:
        return [Span(spans[0].start, spans[1].end)]
    return spans


def _read_contents(
    index: ContentIndex, layout: Layout, layer_bytes: int, data: bytes, tar_split: bytes
) -> dict[str, Content]:
    """Return the contents of the layer's files by name, those that are here without a span. Blocks."""
    table = Table(decompressed(data, layout.table.plain_size), data_end=layout.data_end)
    contents: dict[str, Content] = {}
    left = most_plain_bytes(layer_bytes)
    names_bytes = 0
    for entry in table:
        if entry.type != FILE or not entry.size:
            continue
        if entry.name in contents:
            raise InvalidLayer(f"its table of contents has {entry.name[-80:]!r} twice")
        names_bytes += sys.getsizeof(entry.name)
        if len(contents) >= MAX_FILES or names_bytes > MAX_NAMES_BYTES:
            raise InvalidLayer("it has more files than a plan can be made for")
        left -= entry.size
        if left < 0:
            raise InvalidLayer("it unpacks beyond all proportion")
        digest = bytes.fromhex(entry.digest[-64:])
        contents[entry.name] = Content(entry.size, digest, Span(entry.offset, entry.end_offset))
    _require_digest(tar_split, table.tar_split_digest, "tar-split")
    here = index.find([(content.digest, content.size) for content in contents.values()])
    for name, content in contents.items():
        if checksum := here.get(content.digest):
            contents[name] = Content(content.size, checksum, None)
    return contents


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
