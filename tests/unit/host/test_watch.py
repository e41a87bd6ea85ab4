from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bootcd.host.watch import DirectoryWatch


class Watched:
    def __init__(self, root: Path) -> None:
        self.there, self.later = root / "there", root / "parent" / "later"
        self.there.mkdir()
        self.later.parent.mkdir()
        self.calls: asyncio.Queue[None] = asyncio.Queue()
        paths = (self.there, self.later, root / "no" / "parent")
        self.watch = DirectoryWatch(paths, lambda: self.calls.put_nowait(None), settle_secs=0.02)
        self.watch.start()

    async def told(self) -> None:
        async with asyncio.timeout(5):
            await self.calls.get()


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    made = Watched(tmp_path)
    yield made
    made.watch.stop()


async def test_file_made_in_a_directory_is_told(watched: Watched) -> None:
    (watched.there / "file").touch()
    await watched.told()


async def test_time_set_on_a_directory_is_told(watched: Watched) -> None:
    watched.there.touch()
    await watched.told()


async def test_rename_in_a_directory_is_told(watched: Watched) -> None:
    (watched.there / "a").touch()
    await watched.told()
    (watched.there / "a").rename(watched.there / "b")
    await watched.told()


async def test_directory_made_later_is_told_and_then_watched(watched: Watched) -> None:
    watched.later.mkdir()
    await watched.told()
    (watched.later / "file").touch()
    await watched.told()


async def test_directory_made_again_is_watched_again(watched: Watched) -> None:
    watched.there.rmdir()
    await watched.told()
    watched.there.mkdir()
    await watched.told()
    (watched.there / "file").touch()
    await watched.told()


async def test_burst_is_one_call(watched: Watched) -> None:
    for number in range(100):
        (watched.there / str(number)).touch()
    await watched.told()
    (watched.there / "last").touch()
    await watched.told()
    assert watched.calls.empty()


async def test_neighbour_of_an_awaited_directory_is_not_told(watched: Watched) -> None:
    (watched.later.parent / "neighbour").mkdir()
    (watched.later.parent / "neighbour").rmdir()
    watched.later.mkdir()  # told later, and alone
    await watched.told()
    assert watched.calls.empty()


async def test_stopped_watch_tells_nothing(watched: Watched) -> None:
    watched.watch.stop()
    (watched.there / "file").touch()
    await asyncio.sleep(0.05)  # there is nothing to wait for
    assert watched.calls.empty()
