from __future__ import annotations

import asyncio
import io
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from bootcd.ostree.stream import BytePipe, ReadAhead, Turn

WAIT_SECS = 20


class Broken(Exception):
    pass


def read_all(source: BytePipe | ReadAhead, *, size: int = 1 << 16) -> bytes:
    data = bytearray()
    buffer = memoryview(bytearray(size))
    while count := source.readinto(buffer):
        data += buffer[:count]
    return bytes(data)


def pipe_of(limit_bytes: int) -> BytePipe:
    return BytePipe(asyncio.get_running_loop(), limit_bytes=limit_bytes)


# BytePipe


@pytest.mark.parametrize("limit", [1, 100, 1 << 20])
@pytest.mark.parametrize("read_size", [1, 7, 1 << 16])
async def test_pipe_gives_back_what_was_fed(limit: int, read_size: int) -> None:
    data = random.Random(limit).randbytes(3000)
    pipe = pipe_of(limit)
    reader = asyncio.create_task(asyncio.to_thread(read_all, pipe, size=read_size))
    for start in range(0, len(data), 50):
        assert await pipe.feed(data[start : start + 50])
    pipe.end()
    assert await reader == data


async def test_pipe_ended_without_a_byte_is_empty() -> None:
    pipe = pipe_of(10)
    pipe.end()
    assert await asyncio.to_thread(read_all, pipe) == b""


async def test_full_pipe_makes_the_feeder_wait_until_there_is_room() -> None:
    pipe = pipe_of(10)
    await pipe.feed(b"0123456789")
    waiting = asyncio.create_task(pipe.feed(b"more"))
    await turns(5)
    assert not waiting.done()
    pipe.readinto(memoryview(bytearray(4)))
    assert await waiting


async def turns(count: int) -> None:
    """Let everything run that can."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_pipe_holds_no_more_than_its_limit_and_one_chunk() -> None:
    """Room that many reads told of is there once."""
    pipe = pipe_of(100)
    buffer = memoryview(bytearray(10))
    most = 0
    for _ in range(20):
        while not (task := asyncio.create_task(pipe.feed(bytes(100)))).done():
            await turns(3)
            if not task.done():
                task.cancel()
                break
        for _ in range(11):
            if pipe._size:
                pipe.readinto(buffer)
        most = max(most, pipe._size)
        await turns(3)
        most = max(most, pipe._size)
    assert most <= 200


async def test_abort_while_the_feeder_waits_ends_it() -> None:
    pipe = pipe_of(1)
    await pipe.feed(b"x")
    waiting = asyncio.create_task(pipe.feed(b"y"))
    await turns(3)
    await asyncio.to_thread(pipe.abort, Broken())
    assert await waiting is False
    assert await pipe.feed(b"z") is False


async def test_abort_while_the_reader_waits_gives_it_the_error() -> None:
    pipe = pipe_of(1)
    reading = threading.Event()

    def read() -> bytes:
        reading.set()
        return read_all(pipe)

    reader = asyncio.create_task(asyncio.to_thread(read))
    await asyncio.to_thread(reading.wait, WAIT_SECS)
    pipe.abort(Broken("gone"))
    with pytest.raises(Broken, match="gone"):
        await reader


async def test_abort_drops_what_was_not_read() -> None:
    pipe = pipe_of(100)
    await pipe.feed(b"never verified")
    pipe.abort(Broken())
    with pytest.raises(Broken):
        pipe.readinto(memoryview(bytearray(5)))


async def test_first_error_of_an_aborted_pipe_counts() -> None:
    pipe = pipe_of(1)
    pipe.abort(Broken("first"))
    pipe.abort(Broken("second"))
    with pytest.raises(Broken, match="first"):
        pipe.readinto(memoryview(bytearray(1)))


async def test_abort_after_the_end_is_seen_by_the_reader() -> None:
    pipe = pipe_of(100)
    await pipe.feed(b"x")
    pipe.end()
    pipe.abort(Broken())
    with pytest.raises(Broken):
        read_all(pipe)


async def test_pipe_survives_abort_at_any_moment() -> None:
    chance = random.Random(1)
    with ThreadPoolExecutor(1) as thread:
        for _ in range(100):
            pipe = pipe_of(chance.randrange(1, 50))
            reader = asyncio.get_running_loop().run_in_executor(thread, read_all, pipe)
            left = chance.randrange(20)
            while left and await pipe.feed(b"0123456789"):
                left -= 1
            if chance.random() < 0.5:
                await asyncio.to_thread(pipe.abort, Broken())
                with pytest.raises(Broken):
                    await reader
            else:
                pipe.end()
                assert len(await reader) % 10 == 0


# ReadAhead


class Source:
    """Gives blocks of at most 1000 bytes and does something before each."""

    def __init__(self, data: bytes, before: Callable[[], object] = lambda: None) -> None:
        self._data = io.BytesIO(data)
        self._before = before

    def readinto(self, buffer: memoryview, /) -> int:
        self._before()
        return self._data.readinto(buffer[:1000])


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 50_000])
@pytest.mark.parametrize("read_size", [1, 700, 1 << 16])
def test_read_ahead_gives_what_its_source_has_and_shows_each_block(size: int, read_size: int) -> None:
    data = random.Random(size).randbytes(size)
    shown = bytearray()
    ahead = ReadAhead(Source(data), on_block=lambda block: shown.extend(block), blocks=2, block_bytes=1500)
    try:
        assert read_all(ahead, size=read_size) == data
        assert ahead.readinto(memoryview(bytearray(1))) == 0
    finally:
        ahead.close()
    assert bytes(shown) == data


def test_read_ahead_gives_its_blocks_themselves_and_what_is_left_of_one() -> None:
    data = random.Random(0).randbytes(2500)
    ahead = ReadAhead(Source(data), on_block=lambda block: None)
    head = bytearray(10)
    assert ahead.readinto(memoryview(head)) == 10
    blocks = [bytes(block) for block in iter(ahead.next_block, b"")]
    assert [len(block) for block in blocks] == [990, 1000, 500]
    assert bytes(head) + b"".join(blocks) == data
    ahead.close()


def test_read_ahead_gives_the_error_of_its_source_after_what_came_before() -> None:
    left = [3]

    def fail() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Broken

    ahead = ReadAhead(Source(bytes(10_000), fail), on_block=lambda block: None)
    buffer = memoryview(bytearray(1 << 16))
    assert [ahead.readinto(buffer) for _ in range(3)] == [1000, 1000, 1000]
    with pytest.raises(Broken):
        ahead.readinto(buffer)
    assert ahead.readinto(buffer) == 0
    ahead.close()


def test_error_in_what_sees_the_blocks_reaches_the_reader() -> None:
    def refuse(block: memoryview) -> None:
        raise Broken

    ahead = ReadAhead(Source(b"x"), on_block=refuse)
    with pytest.raises(Broken):
        ahead.readinto(memoryview(bytearray(1)))
    ahead.close()


def test_read_ahead_reads_no_further_than_its_blocks() -> None:
    reads: list[None] = []
    filled = threading.Semaphore(0)

    def count() -> None:
        reads.append(None)
        filled.release()

    ahead = ReadAhead(Source(bytes(100_000), count), on_block=lambda block: None, blocks=3)
    for _ in range(3):
        assert filled.acquire(timeout=WAIT_SECS)
    ahead.close()
    assert len(reads) == 3


async def test_closing_early_ends_the_thread_once_the_pipe_is_aborted() -> None:
    pipe = pipe_of(1000)
    await pipe.feed(b"x" * 10)
    ahead = ReadAhead(pipe, on_block=lambda block: None)
    await asyncio.to_thread(ahead.readinto, memoryview(bytearray(10)))
    pipe.abort(Broken())
    await asyncio.wait_for(asyncio.to_thread(ahead.close), WAIT_SECS)
    assert "decode" not in {thread.name for thread in threading.enumerate()}


def test_turn_is_with_others_while_a_reader_waits_for_its_source() -> None:
    turn, taken = Turn(), threading.Event()

    def take() -> None:
        with turn:
            taken.set()

    def require_taken() -> None:
        if not taken.wait(WAIT_SECS):
            raise Broken

    ahead = ReadAhead(Source(b"x", require_taken), on_block=lambda block: None, turn=turn)
    other = threading.Thread(target=take)
    with turn:
        other.start()
        assert ahead.readinto(memoryview(bytearray(10))) == 1
    other.join()
    ahead.close()
