"""A network of its own for a host under test: nothing in it but loopback, and what the test serves there.

The namespace lives as long as somebody is in it or `close` was not called; nothing has to be taken down.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_CLONE_NEWNET = 0x40000000


class Network:
    """`path` is for nsenter(1); `listener` is a socket at `port` of 127.0.0.1, for who serves there."""

    def __init__(self) -> None:
        # Namespaces are a thread's: the one that enters the new one ends, and all others stay where they are.
        with ThreadPoolExecutor(1) as thread:
            self._namespace, self.listener = thread.submit(_make).result()
        self.path = Path(f"/proc/{os.getpid()}/fd/{self._namespace}")
        self.port: int = self.listener.getsockname()[1]

    def close(self) -> None:
        os.close(self._namespace)


def _make() -> tuple[int, socket.socket]:
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "no network namespace can be made")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    listener = socket.create_server(("127.0.0.1", 0))
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC), listener
