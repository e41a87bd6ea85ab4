"""The system root's lock, taken without blocking the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import TypeVar

from bootcd.ostree.sysroot import Sysroot

T = TypeVar("T")


@asynccontextmanager
async def lock(sysroot: Sysroot) -> AsyncGenerator[None, None]:
    """Hold the lock while the block runs; for errors see `Sysroot.locked`."""
    with ExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, sysroot.locked())
        yield


async def locked(sysroot: Sysroot, action: Callable[[], T]) -> T:
    """Call the action in a thread, under the lock."""
    async with lock(sysroot):
        return await asyncio.to_thread(action)
