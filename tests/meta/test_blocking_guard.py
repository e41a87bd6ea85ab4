"""The guard of `tests/support/blocking.py` itself."""

import asyncio
from pathlib import Path

import pytest
from blockbuster import BlockingError

from bootcd.host.clock import SystemClock
from bootcd.host.files import read_bounded, write_atomic
from tests.support.blocking import recorded_blocking_calls


async def test_guard_refuses_and_records_product_code_that_reads_on_the_loop(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with recorded_blocking_calls() as calls, pytest.raises(BlockingError):
        read_bounded(path, 10)
    assert len(calls) == 1
    assert "BufferedReader.read" in calls[0]
    assert "files.py" in calls[0]


async def test_guard_records_a_refusal_that_is_swallowed(tmp_path: Path) -> None:
    with recorded_blocking_calls() as calls:
        try:
            write_atomic(tmp_path / "file", b"x")
        except Exception:  # as a careless caller does
            pass
    assert calls


async def test_guard_allows_what_runs_in_a_thread_or_does_not_block(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with recorded_blocking_calls() as calls:
        await asyncio.to_thread(write_atomic, path, b"x")
        assert await asyncio.to_thread(read_bounded, path, 10) == b"x"
        SystemClock().boottime()
        path.read_bytes()
    assert calls == []


def test_guard_allows_blocking_without_a_loop(tmp_path: Path) -> None:
    with recorded_blocking_calls() as calls:
        write_atomic(tmp_path / "file", b"x")
    assert calls == []
