"""Mounts nobody else sees, and that are gone when this process is, however it ends.

They live in a mount namespace of this process (mount_namespaces(7)): the kernel takes them down with the
last process in it, so that after a kill nothing of them is left either.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from bootcd.install.tools import run_tool
from bootcd.model.errors import BackendFailed

log = logging.getLogger(__name__)

_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
WORK = Path("/run/bootcd-install")
"Where an installation keeps what is for itself; always empty to others."
_libc = ctypes.CDLL(None, use_errno=True)


def own_mounts() -> None:
    """Move this process to a mount namespace of its own, with its own `WORK`; before it has a second thread.

    Raises BackendFailed where that is not allowed.
    """
    if _libc.unshare(_CLONE_NEWNS) != 0 or _libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise BackendFailed(f"no mount namespace can be made: {reason}", hint="run it as root")
    try:
        WORK.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise BackendFailed(f"{WORK} cannot be made: {error.strerror}") from error
    if _libc.mount(b"bootcd-install", bytes(WORK), b"tmpfs", 0, b"mode=0700") != 0:
        raise BackendFailed(f"nothing can be mounted at {WORK}: {os.strerror(ctypes.get_errno())}")


@asynccontextmanager
async def mounted(source: Path | str, target: Path, *options: str) -> AsyncGenerator[None, None]:
    """Have something mounted for the length of a block; `options` are those of mount(8)."""
    await run_tool(["mount", *options, str(source), str(target)], f"mount {source}")
    try:
        yield
    finally:
        await asyncio.shield(_unmount(target))


@asynccontextmanager
async def bound(source: Path, target: Path) -> AsyncGenerator[None, None]:
    """Have a directory, with what is mounted below it, at another place too."""
    async with mounted(source, target, "--rbind"):
        yield


async def _unmount(target: Path) -> None:
    try:
        await run_tool(["umount", "--recursive", str(target)], f"unmount {target}")
    except BackendFailed as error:
        # After a failure something may still hold it; it leaves with this process at the latest.
        log.debug("%s", error.message)
        await run_tool(["umount", "--lazy", str(target)], f"unmount {target}")
