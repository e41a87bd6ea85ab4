"""Figures as a collector gets them: with curl from the socket, and from the file."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bootcd.host import process
from bootcd.metrics import exporter
from bootcd.metrics.exporter import Figures, MetricsSocket, keep_file
from bootcd.model.errors import BackendFailed
from bootcd.model.job import JobKind
from tests.support.blocking import no_blocking_calls as no_blocking_calls
from tests.support.jobs import SetClock, eventually
from tests.support.scripted_agent import ScriptedService, done


@pytest.fixture
def service() -> ScriptedService:
    return ScriptedService()


@pytest.fixture
def figures(service: ScriptedService) -> Figures:
    return Figures(service, SetClock())


@pytest.fixture
async def path(tmp_path: Path, figures: Figures) -> AsyncIterator[Path]:
    path = tmp_path / "metrics.sock"
    path.touch()  # what a daemon that was killed has left
    socket = MetricsSocket(path, figures.text)
    await socket.start()
    yield path
    await socket.stop()
    assert not path.exists()


async def curl(path: Path, *arguments: str) -> str:
    command = ("curl", "-sS", "-i", "--max-time", "20", "--unix-socket", str(path), *arguments)
    return (await process.run(command, deadline_secs=30, limit=1 << 20)).stdout.decode()


async def exchange(path: Path, data: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(data)
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


async def test_curl_reads_the_figures(path: Path, service: ScriptedService) -> None:
    record = service.add(JobKind.CHECK)
    service.end(record, done())
    head, _, text = (await curl(path, "http://localhost/metrics")).partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 OK\r\n")
    assert "Content-Type: text/plain; version=0.0.4; charset=utf-8" in head
    assert '\nbootcd_jobs_ended_total{kind="check",result="done"} 1\n' in text
    assert text.endswith("\n")


async def test_every_user_may_read_and_nobody_may_change(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert "405 Method Not Allowed" in await curl(path, "-X", "DELETE", "http://localhost/metrics")
    assert "404 Not Found" in await curl(path, "http://localhost/other")


async def test_request_that_is_none_is_answered_and_closed(path: Path) -> None:
    assert (await exchange(path, b"hello\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
    assert (await exchange(path, b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 40_000)).startswith(
        b"HTTP/1.1 400 "
    )


async def test_silent_callers_are_few_and_lose_their_turn(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "_SECS", 1.0)
    silent = [await asyncio.open_unix_connection(str(path)) for _ in range(exporter._CONNECTIONS)]
    assert (await exchange(path, b"")).startswith(b"HTTP/1.1 503 ")
    async with asyncio.timeout(20):
        for reader, writer in silent:
            assert await reader.read() == b""
            writer.close()
    assert "200 OK" in await curl(path, "http://localhost/metrics")


async def test_history_that_cannot_be_read_costs_no_figure(
    path: Path, service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def history(limit: int) -> list[object]:
        raise OSError("the job history cannot be used")

    monkeypatch.setattr(service, "history", history)
    assert "200 OK" in await curl(path, "http://localhost/metrics")


async def test_socket_that_cannot_be_made_is_one_clear_error(tmp_path: Path, figures: Figures) -> None:
    with pytest.raises(BackendFailed, match=r"socket .*/none/metrics\.sock cannot be made"):
        await MetricsSocket(tmp_path / "none/metrics.sock", figures.text).start()


async def test_file_follows_what_happens(
    tmp_path: Path, service: ScriptedService, figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "_SPACING_SECS", 0.01)
    path = tmp_path / "bootcd.prom"
    task = asyncio.create_task(keep_file(path, figures))
    await eventually(path.exists)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    service.add(JobKind.UPGRADE)
    await eventually(lambda: 'bootcd_job_running{kind="upgrade"} 1' in path.read_text())
    assert path.read_bytes() == await figures.text()
    task.cancel()
    assert [entry.name for entry in tmp_path.iterdir()] == ["bootcd.prom"]


async def test_file_that_cannot_be_written_is_tried_again_at_the_next_event(
    tmp_path: Path, service: ScriptedService, figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "_SPACING_SECS", 0.01)
    path = tmp_path / "none/bootcd.prom"
    task = asyncio.create_task(keep_file(path, figures))
    await eventually(lambda: figures._recalled)
    path.parent.mkdir()
    service.update(generation=5)
    await eventually(path.exists)
    assert "bootcd_generation 5" in path.read_text()
    task.cancel()
