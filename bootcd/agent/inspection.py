"""Looks at the host: when somebody asks, and when somebody else changed it.

Each look is a short-lived worker process, so that libostree, its memory and its crashes stay out of the
daemon: `<worker> inspect --sysroot <path>` prints a `HostReport` and exits 0, or prints an
`ErrorInfo` and exits 1.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from bootcd.agent.errand import ask_worker, unexplained
from bootcd.host.watch import DirectoryWatch
from bootcd.model.errors import BootcdError
from bootcd.model.report import HostReport

log = logging.getLogger(__name__)

DEADLINE_SECS = 120.0
OUTPUT_LIMIT = 4 << 20
"Bytes; an entry is about a kilobyte, and hosts have a handful of deployments."

_RETRY_FIRST_SECS, _RETRY_LAST_SECS = 10.0, 3600.0
"Between looks at a host that cannot be looked at."
PROMPT_LOOKS, SPACING_SECS = 5, 2.0
"Looks others cause at once; more of them, one after the other, have that much time between them."
_AGAIN_SECS = 0.1


class HostWatcher:
    """Calls `seen` with the report after every look that succeeded.

    `inspect` takes the system root to look at and may raise BootcdError.
    """

    def __init__(
        self,
        inspect: Callable[[str], Awaitable[HostReport]],
        sysroot: str,
        seen: Callable[[HostReport], None],
    ) -> None:
        self._inspect = inspect
        self._sysroot = sysroot
        self._seen = seen
        self._watch = DirectoryWatch(watched_paths(sysroot), self._changed)
        self._turn = asyncio.Lock()
        self._asked = self._done = 0
        self._looks: deque[float] = deque(maxlen=PROMPT_LOOKS)
        self._succeeded = False
        self._error: BootcdError | None = None
        self._first = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._retry_secs = _RETRY_FIRST_SECS
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch, and take the first look."""
        self._watch.start()
        self._look_in(0.0)

    async def stop(self) -> None:
        self._watch.stop()
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def move(self, sysroot: str) -> None:
        """Look at another system root from now on."""
        if sysroot != self._sysroot:
            self._sysroot = sysroot
            self._watch.stop()
            self._watch = DirectoryWatch(watched_paths(sysroot), self._changed)
            self._watch.start()

    async def ready(self) -> None:
        """Return once a look has succeeded; raise what went wrong if the first one failed."""
        await self._first.wait()
        if not self._succeeded and self._error is not None:
            raise self._error

    async def look(self) -> None:
        """Look at the host, beginning not before this call; calls meanwhile share the next look.

        A look that fails is logged and tried again later.
        """
        self._asked += 1
        ticket = self._asked
        async with self._turn:
            if self._done >= ticket:
                return
            begun = self._asked
            try:
                report = await self._inspect(self._sysroot)
            except BootcdError as error:
                self._failed(error)
            else:
                self._succeeded, self._error, self._retry_secs = True, None, _RETRY_FIRST_SECS
                self._seen(report)
            self._done = begun
            self._looks.append(asyncio.get_running_loop().time())
            self._first.set()

    def _failed(self, error: BootcdError) -> None:
        if self._error is None or self._error.message != error.message:
            log.warning("%s; trying again in %g s", error.message, self._retry_secs)
        self._error = error
        self._look_in(self._retry_secs)
        self._retry_secs = min(self._retry_secs * 2, _RETRY_LAST_SECS)

    def _changed(self) -> None:
        # Others may change the host all the time; what they change now and then is shown at once.
        now = asyncio.get_running_loop().time()
        busy = len(self._looks) == PROMPT_LOOKS and now - self._looks[0] < PROMPT_LOOKS * SPACING_SECS
        self._look_in(max(0.0, SPACING_SECS - (now - self._looks[-1])) if busy else 0.0)

    def _look_in(self, secs: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(secs, self._look_now)

    def _look_now(self) -> None:
        if self._task is not None and not self._task.done():
            # The look under way may have missed what happened; it is followed by another.
            self._look_in(_AGAIN_SECS)
            return
        self._task = asyncio.get_running_loop().create_task(self.look())
        self._task.add_done_callback(_log_defect)


def watched_paths(sysroot: str) -> tuple[Path, ...]:
    """Return the directories libostree and bootc touch when they change what is deployed.

    libostree sets the time of `ostree/deploy` at every change of deployments, and keeps what is staged,
    whether it is locked, and which /usr has an overlay in /run/ostree. Who edits kernel arguments in place
    does it in the boot entries. On a composefs-native host bootc keeps what is staged in /run/composefs.
    """
    root = Path(sysroot)
    # On a booted host the physical root is at /sysroot; `ostree` at the top is a link to it.
    return (
        root / "ostree/deploy",
        root / "ostree/bootc",
        root / "boot/loader",
        root / "boot/loader/entries",
        Path("/run/ostree"),
        Path("/run/ostree/deployment-state"),
        Path("/run/composefs"),
    )


def _log_defect(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("a look at the host failed", exc_info=error)


async def inspect_host(worker: Sequence[str], sysroot: str, *options: str) -> HostReport:
    """Return what is on the host now. Raises the error the worker reports, or BackendFailed."""
    argv = (*worker, "inspect", "--sysroot", sysroot, *options)
    answer = await ask_worker(argv, deadline_secs=DEADLINE_SECS, limit=OUTPUT_LIMIT, what="looked at")
    try:
        return HostReport.model_validate_json(answer)
    except ValidationError as error:
        log.debug("output of the inspection is not understood: %s", error)
        raise unexplained(b"an answer that is not understood", 0, "looked at") from None
