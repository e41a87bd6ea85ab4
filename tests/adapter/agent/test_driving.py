"""Files of drivers, and the processes they are of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bootcd.agent.driving import Driving
from tests.support.blocking import no_blocking_calls as no_blocking_calls
from tests.support.jobs import Changes


class Watched:
    def __init__(self, directory: Path) -> None:
        changes = Changes()
        self.until = changes.until
        self.driving = Driving(directory, changes)

    @property
    def names(self) -> list[str]:
        return [driver.name for driver in self.driving.drivers]


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    made = Watched(tmp_path / "driver.d")
    await made.driving.start()
    yield made
    await made.driving.stop()


def write(directory: Path, name: str, text: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(text)


async def test_driver_counts_while_its_file_is_there(watched: Watched, tmp_path: Path) -> None:
    directory = tmp_path / "driver.d"
    assert watched.names == []
    write(directory, "b.toml", 'name = "b"')
    await watched.until(lambda: watched.names == ["b"])
    write(directory, "note.txt", 'name = "c"')
    write(directory, "a.toml", "x" * 5000)
    await watched.until(lambda: watched.names == ["a.toml", "b"])
    (directory / "a.toml").unlink()
    (directory / "b.toml").unlink()
    await watched.until(lambda: watched.names == [])


async def test_driver_counts_no_more_once_its_process_has_ended(watched: Watched, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec("sleep", "600")
    write(tmp_path / "driver.d", "a.toml", f'name = "a"\npid = {process.pid}')
    await watched.until(lambda: watched.names == ["a"])
    process.kill()
    await watched.until(lambda: watched.names == [])
    await process.wait()
    # Left behind: one that starts anew takes no notice of it.
    again = Watched(tmp_path / "driver.d")
    await again.driving.start()
    assert again.names == []
    await again.driving.stop()
