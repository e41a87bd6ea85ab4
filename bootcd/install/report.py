"""What an installation tells while it works, for people on a terminal and for programs as JSON lines.

A line of JSON has `type` and, for `phase`, `phase`, `bytes` and `bytesTotal`, which are 0 where nothing is
counted; `warning` has `message`; the last line is `done` with `image` and `digest`, or `error` with
`name`, `message` and `hint`.
"""

from __future__ import annotations

import json
import sys
import time
from enum import StrEnum
from typing import Any, TextIO

from bootcd.model.errors import BootcdError

_INTERVAL_SECS = 0.2
_WIDTH = 24


class Step(StrEnum):
    """In their order; what a kind of installation does not do is left out."""

    RESOLVE = "resolve"
    FETCH = "fetch"
    SURVEY = "survey"
    PARTITION = "partition"
    FORMAT = "format"
    IMPORT = "import"
    BOUND_IMAGES = "bound-images"
    DEPLOY = "deploy"
    BOOTLOADER = "bootloader"
    FINALIZE = "finalize"


_WORDS = {
    Step.RESOLVE: "Looking up the image",
    Step.FETCH: "Downloading",
    Step.SURVEY: "Looking into the image",
    Step.PARTITION: "Partitioning",
    Step.FORMAT: "Making file systems",
    Step.IMPORT: "Writing the image",
    Step.BOUND_IMAGES: "Getting the bound images",
    Step.DEPLOY: "Deploying",
    Step.BOOTLOADER: "Installing the boot loader",
    Step.FINALIZE: "Flushing to the disk",
}


class Reporter:
    """Writes to one stream: a line a phase, on a terminal with a bar that moves."""

    def __init__(
        self, stream: TextIO | None = None, *, json_lines: bool = False, quiet: bool = False
    ) -> None:
        self._stream = stream or (sys.stdout if json_lines else sys.stderr)
        self._json = json_lines
        self._quiet = quiet
        self._terminal = not json_lines and self._stream.isatty()
        self._step: Step | None = None
        self._last: tuple[Step, int, int] | None = None
        self._shown = 0.0
        self._open_line = False

    def step(self, step: Step, done: int = 0, total: int = 0) -> None:
        """Tell how far a phase is; as often as there is news."""
        first, ends = step is not self._step, bool(total) and done >= total
        now = time.monotonic()
        if self._last == (step, done, total) or not (first or ends or now - self._shown >= _INTERVAL_SECS):
            return
        self._step, self._shown, self._last = step, now, (step, done, total)
        if self._json:
            self._line({"type": "phase", "phase": step.value, "bytes": done, "bytesTotal": total})
        elif self._quiet:
            return
        elif self._terminal:
            if first:
                self.end_line()
            self._write(f"\r\x1b[K{_bar(_WORDS[step], done, total)}")
            self._open_line = True
        elif first:
            self._text(_WORDS[step])

    def warning(self, message: str) -> None:
        if self._json:
            self._line({"type": "warning", "message": message})
        else:
            self._text(f"warning: {message}")

    def done(self, image: str, digest: str) -> None:
        if self._json:
            self._line({"type": "done", "image": image, "digest": digest})
        elif not self._quiet:
            self._text(f"Installed {image} ({digest})")

    def error(self, error: BootcdError) -> None:
        if self._json:
            self._line(
                {
                    "type": "error",
                    "name": error.name,
                    "message": error.message,
                    "hint": error.hint,
                    **error.fields,
                }
            )
            return
        self._text(f"bootcd-install: {error.message}")
        if error.hint:
            self._text(f"  {error.hint}")

    def end_line(self) -> None:
        if self._open_line:
            self._write("\n")
            self._open_line = False

    def _text(self, text: str) -> None:
        self.end_line()
        self._write(f"{text}\n")

    def _line(self, document: dict[str, Any]) -> None:
        self._write(json.dumps(document, ensure_ascii=False) + "\n")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            pass  # nobody listens any more; the work goes on


def _bar(words: str, done: int, total: int) -> str:
    if not total:
        return words
    share = min(1.0, done / total)
    filled = round(share * _WIDTH)
    return f"{words:<28} [{'=' * filled:<{_WIDTH}}] {share:4.0%} of {total / 1e6:.0f} MB"
