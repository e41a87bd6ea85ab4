"""Standard output and error of the command: results on one, progress and messages on the other.

A progress bar is drawn on a terminal only, and is wiped before anything else is written there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from bootcctl.exitcodes import Failure
from bootcctl.render import ProgressLog, SpeedMeter, Style, clean, render_bar

_WIPE = "\r\x1b[K"


class Terminal:
    """Where a command writes; `json` and `quiet` decide what of it is shown."""

    def __init__(self, *, as_json: bool, quiet: bool, no_color: bool) -> None:
        self.as_json = as_json
        self._quiet = quiet
        dumb = os.environ.get("TERM", "dumb") == "dumb"
        self._bar = sys.stderr.isatty() and not dumb
        # https://no-color.org: any value but an empty one switches colours off.
        plain = no_color or bool(os.environ.get("NO_COLOR")) or dumb
        self.style = _style(sys.stdout, plain)
        self._error_style = _style(sys.stderr, plain)
        self._bar_drawn = False
        self._answered = False
        self._speed = SpeedMeter()
        self._log = ProgressLog()

    def result(self, text: str) -> None:
        """Print the answer for a person."""
        if not self.as_json and not self._quiet and text:
            self.wipe()
            print(text, end="" if text.endswith("\n") else "\n")

    def document(self, document: dict[str, Any]) -> None:
        """Print the answer for a program, on one line; only the first one, for there is one to a command."""
        if not self._answered:
            self._answered = True
            self.event(document)

    def event(self, document: dict[str, Any]) -> None:
        """Print one of many documents, on one line."""
        if self.as_json:
            self._answered = True
            self.wipe()
            print(json.dumps(document, ensure_ascii=False), flush=True)

    def line(self, text: str) -> None:
        """Print one line of an answer that goes on."""
        if not self.as_json and not self._quiet:
            self.wipe()
            print(text, flush=True)

    def note(self, text: str) -> None:
        """Tell a person something beside the answer."""
        if not self._quiet:
            self.wipe()
            print(text, file=sys.stderr, flush=True)

    def failure(self, failure: Failure) -> None:
        """Print what went wrong, and what to do about it; also when quiet."""
        self.wipe()
        label = self._error_style.paint("bootcctl:", "1;31")
        print(f"{label} {clean(failure.message, 2000)}", file=sys.stderr)
        if failure.hint:
            print(f"hint: {clean(failure.hint, 2000)}", file=sys.stderr)

    def progress(self, job: dict[str, Any]) -> None:
        """Show how far a job is."""
        now = time.monotonic()
        speed = self._speed.update(now, job["bytes-done"])
        if self._quiet:
            return
        if not self._bar:
            text = self._log.line(now, job, speed)
            if text:
                print(text, file=sys.stderr, flush=True)
            return
        # One column less than there are, because a full line wraps on some terminals.
        sys.stderr.write(_WIPE + render_bar(job, speed, _columns() - 1, self._error_style))
        sys.stderr.flush()
        self._bar_drawn = True

    def wipe(self) -> None:
        """Take the bar away."""
        if self._bar_drawn:
            sys.stderr.write(_WIPE)
            sys.stderr.flush()
            self._bar_drawn = False


def _style(stream: Any, plain: bool) -> Style:
    encoding = (getattr(stream, "encoding", "") or "").lower().replace("-", "")
    return Style(colour=not plain and stream.isatty(), unicode=encoding == "utf8")


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        return 80
