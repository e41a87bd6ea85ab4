"""Following one job to its end, through Ctrl-C and restarts of the service.

A job is known by its uuid; its object path may be another one after the service came back.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

from bootcctl.client import JOB, BusGone, Changed, Client, Gap, Interrupt, Owner
from bootcctl.documents import ENDED, ended_job_properties, job_document
from bootcctl.exitcodes import Failure
from bootcctl.terminal import Terminal

RETURN_SECS = 60.0
"How long a service that left the bus may take to come back."
SILENCE_SECS = 30.0
"A job that says nothing for so long is asked for."


class Detached(Exception):
    """The user left; the job goes on. `job` is its last known document."""

    def __init__(self, job: dict[str, Any]) -> None:
        super().__init__()
        self.job = job


class JobFollower:
    """Follows the job at `path`; the client must have subscribed before the job was started."""

    def __init__(
        self,
        client: Client,
        terminal: Terminal,
        path: str,
        watch: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> None:
        """`watch` is called with every document of the job that is at work."""
        self._client = client
        self._terminal = terminal
        self._path = path
        self._watch = watch
        self._properties: dict[str, Any] = {}
        self._interrupts = 0
        self._cancelling: asyncio.Task[None] | None = None

    async def run(self, *, cancel_on_interrupt: bool = True) -> dict[str, Any]:
        """Follow the job and return its document when it has ended.

        Ctrl-C asks for the job to be cancelled if this command started it; the second one, or the
        first where the job is somebody else's, leaves.

        Raises:
            Detached: by Ctrl-C.
            Failure: the service or the job cannot be found any more.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._on_sigint, asyncio.current_task())
        try:
            await self._read()
            while self._properties.get("State") not in ENDED:
                self._terminal.progress(self.document)
                self._watch(self.document)
                await self._step(cancel_on_interrupt)
        except asyncio.CancelledError:
            if self._interrupts < 2:
                raise
            raise Detached(self.document) from None
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            if self._cancelling:
                self._cancelling.cancel()
            self._terminal.wipe()
        return self.document

    def _on_sigint(self, following: asyncio.Task[Any] | None) -> None:
        self._interrupts += 1
        if self._interrupts == 1:
            self._client.interrupt()
        elif following:
            # Leaves at once, whatever is being waited for.
            following.cancel()

    @property
    def document(self) -> dict[str, Any]:
        return job_document(self._path, self._properties)

    async def _step(self, cancel_on_interrupt: bool) -> None:
        match await self._client.next_event(SILENCE_SECS):
            case Changed(path=self._path, interface="org.bootcd1.Job", values=values, stale=stale):
                self._properties.update(values)
                if stale:
                    await self._read()
            case None | Gap():
                await self._read()
            case Owner(present=False):
                await self._find_again()
            case BusGone():
                if not self._rebooting:
                    raise Failure("Unreachable", "the system bus closed the connection; the job may go on")
                self._end_by_reboot()
            case Interrupt():
                await self._on_interrupt(cancel_on_interrupt)
            case _:
                pass

    async def _read(self) -> None:
        try:
            self._properties = await self._client.get_all(self._path, JOB)
        except Failure as failure:
            # Without a bus there is an event for it in the queue; without the service it has to be awaited.
            if failure.kind not in ("Unreachable", "NoSuchJob") or not self._properties:
                raise
            await self._find_again()

    @property
    def _rebooting(self) -> bool:
        return self._properties.get("Phase") == "reboot"

    def _end_by_reboot(self) -> None:
        # The host goes down under the service: that is what was asked for.
        self._properties.update(State="done", Outcome={"changed": True, "reboot": True})

    async def _find_again(self) -> None:
        """Wait for the service to come back, and look for the job in what it shows and remembers."""
        if not self._client.service_present:
            await self._await_return()
        if self._properties.get("State") in ENDED:
            return
        uuid = self._properties.get("Uuid")
        for path, properties in (await self._client.jobs()).items():
            if properties.get("Uuid") == uuid:
                self._path, self._properties = path, properties
                return
        for entry in await self._client.history(100):
            if entry.get("uuid") == uuid:
                # How far it came was heard before; the history does not keep it.
                self._properties.update(ended_job_properties(entry))
                return
        raise Failure(
            "Interrupted",
            f"the service no longer knows the job {uuid}",
            "see: bootcctl status, bootcctl history",
        )

    async def _await_return(self) -> None:
        self._terminal.note("The service left the bus; the job goes on, waiting for the service to come back")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + RETURN_SECS
        while not self._client.service_present:
            match await self._client.next_event(max(deadline - loop.time(), 0)):
                case Interrupt():
                    raise Detached(self.document)
                case BusGone() if self._rebooting:
                    self._end_by_reboot()
                    return
                case None if self._rebooting:
                    self._end_by_reboot()
                    return
                case None | BusGone():
                    raise Failure(
                        "Unreachable",
                        f"the bootcd service did not come back within {RETURN_SECS:.0f} s; the job may go on",
                        "see: systemctl status bootcd.service, and bootcctl jobs when it runs again",
                    )
                case _:
                    pass

    async def _on_interrupt(self, cancel_on_interrupt: bool) -> None:
        if not cancel_on_interrupt or not await self._is_own():
            raise Detached(self.document)
        self._terminal.note("Cancelling; press Ctrl-C again to leave without waiting for it")
        # Beside the loop: progress goes on while the service decides, or a person types a password.
        self._cancelling = asyncio.create_task(self._cancel())

    async def _cancel(self) -> None:
        try:
            await self._client.call(self._path, JOB, "Cancel", "a{sv}", [{}])
        except Failure as failure:
            self._terminal.note(
                f"Not cancelled: {failure.message}; press Ctrl-C again to leave the job running"
            )

    async def _is_own(self) -> bool:
        """Whether this process started the job, rather than joined one that was at work."""
        pid = self._properties.get("Requester", {}).get("pid", 0)
        try:
            return pid in (0, await self._client.own_pid())
        except Failure:
            return True
