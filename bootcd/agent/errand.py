"""A question about the host, answered by a worker process that lives for a moment.

libostree, its memory and its crashes stay out of the daemon that way. `<worker> <verb> ...` prints the answer
and exits 0, or prints an `ErrorInfo` and exits 1.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from pydantic import ValidationError

from bootcd.host import process
from bootcd.model.errors import BackendFailed, Busy, ErrorInfo, error_from_info

log = logging.getLogger(__name__)

COMPARISON_SECS = 20.0
"Below the 25 s after which D-Bus clients give up, for the turn and for the work."
COMPARISON_LIMIT = 8 << 20
"Bytes; lists in it are bounded, see `bootcd.model.comparison`."
COMPARISONS = 2
"At a time, whoever asks: each reads as much as has changed between two systems."


async def ask_worker(argv: Sequence[str], *, deadline_secs: float, limit: int, what: str) -> bytes:
    """Return what a worker prints.

    Args:
        what: is done to the host, to follow "could not be", such as "looked at".
    Raises: the error the worker reports, or BackendFailed.
    """
    try:
        done = await process.run(argv, deadline_secs=deadline_secs, limit=limit)
    except TimeoutError:
        raise BackendFailed(f"the host could not be {what} within {deadline_secs:g} s") from None
    except OSError as error:
        raise BackendFailed(f"the host cannot be {what}: {error.strerror}") from error
    if done.status == 0:
        return done.stdout
    if done.status == 1:
        try:
            info = ErrorInfo.model_validate_json(done.stdout)
        except ValidationError as error:
            log.debug("what the worker printed is not understood: %s", error)
        else:
            raise error_from_info(info)
    raise unexplained(done.stderr, done.status, what)


def unexplained(stderr: bytes, status: int, what: str) -> BackendFailed:
    log.warning("a worker ended with status %d: %s", status, stderr.decode(errors="replace")[-2000:])
    return BackendFailed(f"the host could not be {what}", hint="see 'journalctl -u bootcd'")


class Comparisons:
    """Compares deployments, and /etc with the image's; few at a time."""

    def __init__(self, worker: Sequence[str]) -> None:
        self._worker = tuple(worker)
        self._turns = asyncio.Semaphore(COMPARISONS)

    async def deployments(self, sysroot: str, before: str, after: str) -> bytes:
        """Return a `DeploymentDiff` as JSON. Raises BootcdError."""
        return await self._ask("diff", sysroot, before, after)

    async def config(self, sysroot: str) -> bytes:
        """Return a `ConfigDiff` as JSON. Raises BootcdError."""
        return await self._ask("config-diff", sysroot)

    async def _ask(self, verb: str, sysroot: str, *arguments: str) -> bytes:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + COMPARISON_SECS
        try:
            async with asyncio.timeout_at(deadline):
                await self._turns.acquire()
        except TimeoutError:
            raise Busy("other comparisons are under way", hint="try again in a moment") from None
        try:
            return await ask_worker(
                (*self._worker, verb, "--sysroot", sysroot, *arguments),
                deadline_secs=max(1.0, deadline - loop.time()),
                limit=COMPARISON_LIMIT,
                what="compared",
            )
        finally:
            self._turns.release()
