"""The verb notify: tells who is at a desktop what comes of updates, until it is ended with the session.

It never starts the service. What was shown is remembered beside the user's other state, so that neither a new
session nor a restart of anything shows it twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

from bootcctl import exitcodes
from bootcctl.client import DEPLOYMENT, MANAGER, ROOT, BusGone, Changed, Client, Interrupt, Owner
from bootcctl.desktop import Desktop
from bootcctl.exitcodes import Failure
from bootcctl.notices import LATER, RESTART, Notice, next_look_usec, notices
from bootcctl.terminal import Terminal

_DAY_SECS = 86400.0
_HISTORY = 10
_REMEMBERED = 64
_MEMORY_LIMIT = 1 << 16


async def notify(client: Client, options: Namespace, terminal: Terminal) -> int:
    """Show notices until SIGINT or SIGTERM. Raises Failure."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, client.interrupt)
    notifier = _Notifier(client, options.bus, terminal, _Memory(_memory_path()))
    async with Desktop(notifier.chosen, notifier.look_soon, client.interrupt) as desktop:
        notifier.desktop = desktop
        await client.subscribe()
        try:
            await notifier.run()
        finally:
            await notifier.stop()
    return exitcodes.DONE


class _Memory:
    """Keys of what was shown, and where the last of it is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.keys: list[str] = []
        self.place: list[Any] = []
        self.shown = ""
        with suppress(OSError, ValueError, AttributeError):
            with path.open("rb") as file:
                document = json.loads(file.read(_MEMORY_LIMIT))
            self.keys = [key for key in document.get("keys", ()) if isinstance(key, str)][-_REMEMBERED:]
            self.place = list(document.get("place", ()))
            self.shown = str(document.get("shown", ""))

    def keep(self, shown: str, place: tuple[str, int]) -> None:
        self.shown = shown
        if shown and shown not in self.keys:
            self.keys = [*self.keys, shown][-_REMEMBERED:]
        text = json.dumps({"keys": self.keys, "shown": shown, "place": place})
        temporary = self._path.with_suffix(".new")
        # Without it there is only something that is shown once more.
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.write_text(text)
            temporary.replace(self._path)


class _Notifier:
    desktop: Desktop

    def __init__(self, client: Client, bus: str, terminal: Terminal, memory: _Memory) -> None:
        self._client = client
        self._bus = bus
        self._terminal = terminal
        self._memory = memory
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._inhibitor = -1
        self._look_at_usec = 0

    async def run(self) -> None:
        if not self.desktop.resume(self._memory.place):
            self._memory.shown = ""
        await self._look()
        while True:
            match await self._client.next_event(self._patience_secs()):
                case Interrupt():
                    return
                case BusGone():
                    raise Failure("Unreachable", "the system bus closed the connection")
                case Owner(present=False):
                    pass
                case Changed(interface=interface) if interface != MANAGER:
                    pass
                case _:
                    await self._look()

    def _patience_secs(self) -> float:
        if not self._look_at_usec:
            return _DAY_SECS
        return min(_DAY_SECS, max(1.0, self._look_at_usec / 1e6 - time.time()))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._let_go()

    def look_soon(self) -> None:
        """Look again, as something has changed beside the service."""
        self._spawn(self._look())

    def chosen(self, action: str) -> None:
        """Do what somebody chose on the notification."""
        if action == RESTART:
            self._spawn(self._restart())
        elif action == LATER:
            self._spawn(self._put_off())

    async def _look(self) -> None:
        """Show the first of what there is to tell and was not told, and take away what is no longer so."""
        async with self._turn:
            if not self._client.service_present:
                return
            try:
                found = await self._found()
            except Failure:
                return  # The service has gone again, and an event says so.
            passing = self._memory.shown.startswith(("ready:", "reboot:"))
            if passing and self._memory.shown not in [notice.key for notice in found]:
                await self.desktop.close()
                self._memory.keep("", self.desktop.place)
            for notice in found:
                if notice.key == self._memory.shown:
                    return
                if notice.key not in self._memory.keys:
                    await self._show(notice)
                    return

    async def _found(self) -> list[Notice]:
        manager = await self._client.get_all(ROOT, MANAGER)
        staged: dict[str, Any] = {}
        if (path := manager.get("Staged", "/")) != "/":
            with suppress(Failure):  # It may have gone meanwhile.
                staged = await self._client.get_all(path, DEPLOYMENT)
        history = await self._client.history(_HISTORY)
        now = time.time_ns() // 1000
        self._look_at_usec = next_look_usec(manager, now)
        return notices(manager, staged, history, now)

    async def _show(self, notice: Notice) -> None:
        if await self.desktop.show(notice):
            self._memory.keep(notice.key, self.desktop.place)
            self._terminal.event({"event": "notice", "key": notice.key, "summary": notice.summary})

    async def _restart(self) -> None:
        self._let_go()
        await self._ask(RESTART, "The restart was not possible")

    async def _put_off(self) -> None:
        await self.desktop.close()
        if self._memory.shown.startswith("reboot:"):
            self._let_go()  # Of one the service has ended.
            await self._ask(LATER, "The restart cannot be put off")

    async def _ask(self, action: str, summary: str) -> None:
        """Ask the service for it, where the user may have to give a password; tell if it refuses."""
        try:
            async with Client(self._bus, interactive=True, descriptors=True) as client:
                if action == RESTART:
                    await client.start_job("Apply", (), {})
                else:
                    wish = ["reboot", "desktop", "somebody at the desktop put it off", "delay", {}]
                    self._inhibitor = await client.descriptor("Inhibit", "ssssa{sv}", wish)
        except Failure as failure:
            text = f"{failure.message[:1].upper()}{failure.message[1:]}."
            async with self._turn:
                await self._show(Notice(f"refused:{time.time_ns()}", summary, text, bad=True))

    def _let_go(self) -> None:
        if self._inhibitor >= 0:
            os.close(self._inhibitor)
            self._inhibitor = -1

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _memory_path() -> Path:
    home = os.environ.get("XDG_STATE_HOME", "")
    base = Path(home) if home.startswith("/") else Path.home() / ".local/state"
    return base / "bootcd/notified.json"
