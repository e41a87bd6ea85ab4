"""Gives the figures to whoever collects them: over HTTP on a local socket, and as a file.

Nothing is rendered, read or written before somebody asks or something happens, so a daemon at rest
stays at rest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from bootcd.agent.snapshot import Change, JobChanged, Snapshot
from bootcd.host.clock import Clock
from bootcd.host.files import write_atomic
from bootcd.host.sockets import listen_unix
from bootcd.metrics import http
from bootcd.metrics.exposition import render
from bootcd.metrics.figures import samples
from bootcd.metrics.tally import Tally
from bootcd.model.job import JobRecord

log = logging.getLogger(__name__)

SOCKET_NAME = "metrics.sock"
FILE_NAME = "bootcd.prom"
"As node_exporter wants it: its textfile collector reads what ends in .prom."

_RECALLED = 100
"Ended jobs that are looked through for the last ones that succeeded."
_CONNECTIONS = 16
_SECS = 5.0
"For a request to come and for its answer to go."
_SPACING_SECS = 1.0
"Between two writes of the file."


class Observed(Protocol):
    """The service, as far as it is observed; `bootcd.agent.service.Service` is the real one."""

    @property
    def snapshot(self) -> Snapshot: ...
    async def history(self, limit: int) -> list[JobRecord]: ...
    def subscribe(self, observer: Callable[[Change], None]) -> Callable[[], None]: ...


class Figures:
    """Counts from now on; `text` is what there is to say at the moment."""

    def __init__(self, service: Observed, clock: Clock) -> None:
        self._service = service
        self._clock = clock
        self._tally = Tally(clock.now(), service.snapshot)
        self._recalled = False
        self.changed = asyncio.Event()
        self.close = service.subscribe(self._observe)

    async def text(self) -> bytes:
        if not self._recalled:
            self._recalled = True
            await self._recall()
        return render(samples(self._service.snapshot, self._tally))

    async def _recall(self) -> None:
        try:
            records = await self._service.history(_RECALLED)
        except OSError as error:
            log.warning("figures begin without the history: %s", error)
            return
        self._tally.recall(records, self._service.snapshot)

    def _observe(self, change: Change) -> None:
        self._tally.observe(change, self._clock.now())
        # No figure tells of progress.
        if not (isinstance(change, JobChanged) and not change.record.state.ended):
            self.changed.set()


class MetricsSocket:
    """Answers GET /metrics at a local socket, for every user of the host."""

    def __init__(self, path: Path, text: Callable[[], Awaitable[bytes]]) -> None:
        self._path = path
        self._text = text
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to listen. Raises BackendFailed."""
        sock = await asyncio.to_thread(listen_unix, self._path, mode=0o666)
        self._server = await asyncio.start_unix_server(self._accept, sock=sock, limit=http.HEAD_LIMIT)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await asyncio.to_thread(self._path.unlink, missing_ok=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= _CONNECTIONS:
            writer.write(http.answer(503))
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_SECS):
                writer.write(await self._answer(reader))
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, EOFError):
            pass  # who asked has gone, or is too slow
        except Exception:
            log.exception("figures could not be given")
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return http.answer(400)
        status, with_body = http.judge(head)
        body = await self._text() if status == 200 else b""
        return http.answer(status, body, with_body=with_body)


async def keep_file(path: Path, figures: Figures) -> None:
    """Write the figures to a file whenever something happens, until cancelled."""
    written, failing = b"", False
    while True:
        figures.changed.clear()
        text = await figures.text()
        if text != written:
            try:
                await asyncio.to_thread(write_atomic, path, text, mode=0o644, durable=False)
            except OSError as error:
                if not failing:
                    log.warning("cannot write %s, proceeding: %s", path, error.strerror)
                failing = True
            else:
                written, failing = text, False
        await asyncio.sleep(_SPACING_SECS)
        await figures.changed.wait()
