"""Which ranges of a blob are asked for."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bootcd.oci.ranges import MAX_GAP_BYTES, Span, coalesce, cost, pieces


@st.composite
def parts(draw: st.DrawFn) -> list[Span]:
    found, place = [], 0
    for gap, size in draw(st.lists(st.tuples(st.integers(0, 200_000), st.integers(1, 100_000)), max_size=40)):
        found.append(Span(place + gap, place + gap + size))
        place += gap + size
    return found


@given(parts())
def test_spans_hold_all_that_is_needed_and_little_else(needed: list[Span]) -> None:
    spans = coalesce(needed)

    assert all(any(span.start <= part.start and part.end <= span.end for span in spans) for part in needed)
    assert all(a.end < b.start or b.start - a.end == 0 for a, b in pairwise(spans))
    size = sum(part.size for part in needed)
    assert sum(span.size for span in spans) <= size + size // 10
    assert len(spans) <= len(needed)


def test_small_gaps_are_closed_and_large_ones_left() -> None:
    needed = [Span(0, 10**6), Span(10**6 + 500, 2 * 10**6), Span(2 * 10**6 + MAX_GAP_BYTES + 1, 3 * 10**6)]

    assert coalesce(needed) == [Span(0, 2 * 10**6), needed[2]]
    assert coalesce([]) == []


def test_smallest_gaps_are_closed_first() -> None:
    needed = [Span(0, 1000), Span(1280, 2000), Span(2020, 3000)]

    assert coalesce(needed) == [Span(0, 1000), Span(1280, 3000)]


def test_requests_cost_more_than_their_bytes() -> None:
    assert cost([Span(0, 10), Span(20, 30)]) == 20 + 2 * MAX_GAP_BYTES


@given(parts(), st.integers(1, 5000))
def test_pieces_are_the_spans_in_order(spans: list[Span], limit: int) -> None:
    spans = spans[:3]
    found = list(pieces(spans, limit * 50))

    assert sum(piece.size for piece in found) == sum(span.size for span in spans)
    assert all(0 < piece.size <= limit * 50 for piece in found)
    assert found == sorted(found)
