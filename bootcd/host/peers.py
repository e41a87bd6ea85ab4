"""Who is at the other end of a local socket: as the kernel says, at the time it connected.

A pid alone can be another process by the time it is asked about. The descriptor tells whether it
still is the one that connected: from SO_PEERPIDFD (Linux 6.5), else opened as soon as it is known.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from dataclasses import dataclass

from bootcd.host.process import parse_start_ticks

_SO_PEERPIDFD = 77
_CREDENTIALS = struct.Struct("iII")
"struct ucred of unix(7): pid, uid, gid."


@dataclass(frozen=True, slots=True)
class Peer:
    uid: int
    pid: int
    "0 where it is in another pid namespace."
    start_ticks: int = 0
    name: str = ""
    "Of the command, for people to read."
    descriptor: int = -1

    @property
    def alive(self) -> bool:
        """Whether the process that connected is still there, so that its pid means it and no other."""
        if self.descriptor < 0:
            return False
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


def peer_of(sock: socket.socket) -> Peer:
    """Return who connected; never waits. Raises OSError where the kernel does not say."""
    pid, uid, _ = _CREDENTIALS.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    descriptor = _descriptor(sock, pid)
    try:
        ticks = parse_start_ticks(_read(f"/proc/{pid}/stat")) if pid else 0
        name = _read(f"/proc/{pid}/comm").decode(errors="replace").rstrip("\n") if pid else ""
    except (OSError, ValueError):
        ticks, name = 0, ""
    return Peer(uid, pid, ticks, name, descriptor)


def _descriptor(sock: socket.socket, pid: int) -> int:
    try:
        descriptor = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        os.set_inheritable(descriptor, False)
    except OSError:
        try:
            return os.pidfd_open(pid) if pid else -1
        except OSError:
            return -1
    return descriptor


def _read(path: str) -> bytes:
    # Answered from memory.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)
