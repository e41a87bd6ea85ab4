"""Blocking reads beside the event loop, with a deadline for each.

A read from a share whose server is gone may never return, so nobody waits for the thread: it is a
daemon thread, ends at its next step, and does not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing
from typing import TypeVar

from bootcd.model.errors import BootcdError

T = TypeVar("T")

_AHEAD = 2
"Items made and not taken yet."


async def stream(
    produce: Callable[[], Generator[T, None, None]], *, deadline: float, stalled: Callable[[], BootcdError]
) -> AsyncGenerator[T, None]:
    """Run a generator in a thread of its own; raise `stalled()` if an item takes longer than `deadline`."""
    loop = asyncio.get_running_loop()
    items: asyncio.Queue[tuple[T] | BaseException | None] = asyncio.Queue()
    room = threading.Semaphore(_AHEAD)
    stopped = threading.Event()

    def put(item: tuple[T] | BaseException | None) -> None:
        try:
            loop.call_soon_threadsafe(items.put_nowait, item)
        except RuntimeError:
            pass  # The loop has ended, and with it whoever asked.

    def work() -> None:
        try:
            with closing(produce()) as generator:
                for item in generator:
                    put((item,))
                    room.acquire()
                    if stopped.is_set():
                        return
        except BaseException as error:  # handed to the reader, whatever it is
            put(error)
        else:
            put(None)

    threading.Thread(target=work, name="transport", daemon=True).start()
    try:
        while True:
            try:
                async with asyncio.timeout(deadline):
                    item = await items.get()
            except TimeoutError:
                raise stalled() from None
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item[0]
            room.release()
    finally:
        stopped.set()
        room.release()


async def call(action: Callable[[], T], *, deadline: float, stalled: Callable[[], BootcdError]) -> T:
    """Run one blocking call likewise."""

    def produce() -> Generator[T, None, None]:
        yield action()

    async with aclosing(stream(produce, deadline=deadline, stalled=stalled)) as results:
        return await anext(results)
