"""Log messages to the journal, each kind of event under an id of its own.

Administrators find events with `journalctl MESSAGE_ID=...` and alert on them, so an id never changes
its meaning and is never used again. Fields of an event are `BOOTCD_<NAME>` (systemd.journal-fields(7)).
Without a journal behind standard error the same messages go there as plain lines.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sys
import threading
from collections.abc import Iterator
from enum import StrEnum

IDENTIFIER = "bootcd"
LEVELS = {
    "emerg": logging.CRITICAL,
    "alert": logging.CRITICAL,
    "crit": logging.CRITICAL,
    "err": logging.ERROR,
    "warning": logging.WARNING,
    "notice": logging.INFO + 1,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}
"By the names syslog(3) has for them."
_BACKLOG = 1000


class Event(StrEnum):
    """MESSAGE_ID per kind of event."""

    JOB_STARTED = "3e85389cf6f84f1489b0365980689081"
    JOB_ENDED = "18152a7261784edb809c2226084236e6"
    UPDATE_AVAILABLE = "e599aa552d074c01a8f524edd9fa7a8c"
    HOST_CHANGED = "6608dac546e9421dbf4c8477747708ab"
    CONFIG_ERROR = "4e4e2b146e234925b9431d15f83c713c"
    BOOT_BAD = "a50e22bcc8b0490fbcfaca65b829a3e8"
    ROLLED_BACK = "c0da8b482a7b471b8fa2c3a37a6fbf79"


def fields(event: Event, **values: object) -> dict[str, str]:
    """Return the `extra` argument of a log call that records this event."""
    return {"MESSAGE_ID": event.value} | {f"BOOTCD_{name.upper()}": str(v) for name, v in values.items()}


@contextlib.contextmanager
def logging_configured(level: int = logging.INFO) -> Iterator[None]:
    """Send the log of this process to the journal if one listens, else to standard error.

    Records are written by a thread, as a journal that is behind would hold up the whole loop. More than
    `_BACKLOG` of them waiting are dropped.
    """
    handler: logging.Handler
    if _journal_behind_stderr():
        from systemd.journal import JournalHandler

        handler = JournalHandler(SYSLOG_IDENTIFIER=IDENTIFIER)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    backlog = _Backlog(handler)
    root = logging.getLogger()
    root.handlers[:] = [backlog]
    root.setLevel(level)
    try:
        yield
    finally:
        root.handlers[:] = [handler]
        backlog.end()


def level() -> str:
    """Return the name of the level from which on this process logs."""
    current = logging.getLogger().getEffectiveLevel()
    return next((name for name, number in LEVELS.items() if number <= current), "debug")


def set_level(name: str) -> None:
    """Log from the level of `LEVELS` on."""
    logging.getLogger().setLevel(LEVELS[name])


def target() -> str:
    """Return where the log goes, by systemd's names: "journal", or "console" for standard error."""
    return "journal" if _journal_behind_stderr() else "console"


class _Backlog(logging.Handler):
    """Hands records to a thread that gives them to `sink`.

    `logging.handlers` has the like, and with it half a mebibyte of what this service has no use for.
    """

    def __init__(self, sink: logging.Handler) -> None:
        super().__init__()
        self._sink = sink
        self._records: queue.Queue[logging.LogRecord | None] = queue.Queue(_BACKLOG)
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        # Rendered at once: what it is made of may be another thing by the time it is written.
        text = {"msg": self.format(record), "args": None, "exc_info": None, "exc_text": None}
        with contextlib.suppress(queue.Full):
            self._records.put_nowait(logging.makeLogRecord(record.__dict__ | text))

    def end(self) -> None:
        """Return once all that waits is written."""
        self._records.put(None)
        self._thread.join()

    def _write(self) -> None:
        while (record := self._records.get()) is not None:
            self._sink.handle(record)


def _journal_behind_stderr() -> bool:
    """Compare as systemd.exec(5) says: JOURNAL_STREAM is device and inode of the stream to the journal."""
    try:
        stderr = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stderr.st_dev}:{stderr.st_ino}"
