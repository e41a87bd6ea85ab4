"""What is fetched of a blob, as few requests for few bytes. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

MAX_GAP_BYTES = 64 << 10
"What lies between two parts is fetched with them up to here: about what a request costs in waiting."
_WASTE = 10
"All gaps together are at most one part in so many of what is needed."


class Span(NamedTuple):
    """Bytes of a blob from `start`, without `end`."""

    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


def coalesce(needed: Sequence[Span]) -> list[Span]:
    """Return spans that hold all that is needed, the smallest gaps closed; both ascend."""
    gaps = sorted((needed[i + 1].start - needed[i].end, i) for i in range(len(needed) - 1))
    budget = sum(span.size for span in needed) // _WASTE
    closed: set[int] = set()
    for gap, index in gaps:
        budget -= gap
        if gap > MAX_GAP_BYTES or budget < 0:
            break
        closed.add(index)
    spans: list[Span] = []
    for index, span in enumerate(needed):
        if index - 1 in closed:
            spans[-1] = Span(spans[-1].start, span.end)
        else:
            spans.append(span)
    return spans


def cost(spans: Sequence[Span]) -> int:
    """Return what it costs to fetch spans, in bytes: the wait for each counts as the gap that avoids it."""
    return sum(span.size + MAX_GAP_BYTES for span in spans)


def pieces(spans: Sequence[Span], limit: int) -> Iterator[Span]:
    """Yield the spans in order, in pieces of at most `limit` bytes."""
    for span in spans:
        for start in range(span.start, span.end, limit):
            yield Span(start, min(start + limit, span.end))
