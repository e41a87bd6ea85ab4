"""A guard that makes a test fail if product code blocks the event loop.

The daemon must answer while it works, so whatever may wait for a disk, a process or a peer runs in
a thread or is awaited. The guard covers code below `bootcd` that is run by a loop, and whatever
that code calls; the loop's and the test's own calls are not looked at.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import blockbuster.blockbuster
import pytest
from blockbuster import BlockingError, blockbuster_ctx


@contextmanager
def recorded_blocking_calls() -> Iterator[list[str]]:
    """Refuse blocking calls, and list them with where they were made.

    They are listed because the refusal alone could be caught on its way, as any failure is.
    """
    calls: list[str] = []

    class Recorded(BlockingError):
        def __init__(self, func: str) -> None:
            super().__init__(func)
            calls.append(f"{self}\n{''.join(traceback.format_stack(limit=12))}")

    with blockbuster_ctx("bootcd") as guard, patch.object(blockbuster.blockbuster, "BlockingError", Recorded):
        for function in guard.functions.values():
            # pytest's handlers write files; the daemon's own only queues (bootcd.host.journal).
            function.can_block_in("logging/__init__.py", "callHandlers")
        yield calls


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    with recorded_blocking_calls() as calls:
        yield
    if calls:
        pytest.fail(f"the event loop was blocked\n{calls[0]}", pytrace=False)
