"""The daemon's ear: one datagram socket all workers send to.

One `WorkerMessage` as JSON per datagram (unix(7), SOCK_DGRAM). The socket has a name, not a connection,
so that a worker reaches the next daemon under the same name. Only root may send. What cannot be
understood is dropped: nothing but the display depends on a message.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from bootcd.model.errors import BackendFailed
from bootcd.model.job import WorkerMessage

log = logging.getLogger(__name__)

DATAGRAM_LIMIT = 8 << 10
"Bytes; a message is a few hundred."
_BATCH = 64
"Datagrams taken before the loop gets its turn again."


class WorkerChannel:
    def __init__(self, path: Path, received: Callable[[WorkerMessage], None]) -> None:
        self.path = path
        self._received = received
        self._socket: socket.socket | None = None

    async def open(self) -> None:
        """Take over the name, also from a daemon that was killed. Raises BackendFailed."""
        try:
            self._socket = await asyncio.to_thread(_bind, self.path)
        except OSError as error:
            raise BackendFailed(
                f"the worker socket {self.path} cannot be made: {error.strerror or error}",
                hint="a socket's path has at most 107 bytes; choose another runtime directory",
            ) from error
        asyncio.get_running_loop().add_reader(self._socket, self._read, _BATCH)

    def close(self) -> None:
        """Stop listening. The name stays, so that workers' messages fail quietly and not by ENOENT."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def drain(self) -> None:
        """Take everything that has arrived: after a worker's end, all it ever said."""
        # Bounded by the queue of a socket, net.unix.max_dgram_qlen, times the senders still at work.
        self._read(16 * _BATCH)

    def _read(self, most: int) -> None:
        for _ in range(most):
            if self._socket is None:
                return
            try:
                data = self._socket.recv(DATAGRAM_LIMIT + 1)
            except (BlockingIOError, InterruptedError):
                return
            if len(data) > DATAGRAM_LIMIT:
                log.debug("a message longer than %d bytes, ignoring it", DATAGRAM_LIMIT)
                continue
            try:
                message = WorkerMessage.model_validate_json(data)
            except ValidationError as error:
                log.debug("a message that cannot be understood, ignoring it: %s", error)
                continue
            self._received(message)


def _bind(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    # By umask, as a mode set after bind(2) comes too late for somebody who was waiting.
    previous = os.umask(0o177)
    try:
        sock.bind(str(path))
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(previous)
    return sock
