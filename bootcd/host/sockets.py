"""Stream sockets with a name in the file system, for programs of this host (unix(7))."""

from __future__ import annotations

import socket
from pathlib import Path

from bootcd.model.errors import BackendFailed

_BACKLOG = 64


def listen_unix(path: Path, *, mode: int) -> socket.socket:
    """Return a socket that listens at `path`, taken over from whoever had it.

    Blocks; raises BackendFailed.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        path.unlink(missing_ok=True)
        sock.bind(str(path))
        path.chmod(mode)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise BackendFailed(f"the socket {path} cannot be made: {error.strerror or error}") from error
    return sock
