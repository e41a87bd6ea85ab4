"""Progress of a job as text: a bar for a terminal, lines for a log. Pure: strings from data and times.

A job is the document of `documents.job_document`. Text that comes from outside (image names, version
labels) goes through `clean`, because an image must not be able to write escape sequences to a terminal.
"""

from __future__ import annotations

from typing import Any, NamedTuple

PHASES = {
    "prepare": "Preparing",
    "resolve": "Resolving image",
    "fetch": "Downloading",
    "import": "Importing",
    "bound-images": "Pulling bound images",
    "stage": "Staging",
    "cleanup": "Cleaning up",
    "reboot": "Rebooting",
}

_BAR_MIN, _BAR_MAX = 10, 40
_LINE_INTERVAL_SECS = 3.0
_LINE_STEP_PERCENT = 10


class Style(NamedTuple):
    """What the terminal can show."""

    colour: bool = False
    unicode: bool = False

    def paint(self, text: str, code: str) -> str:
        """Wrap text in an SGR sequence; see ECMA-48, 8.3.117."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and text and code else text

    def bold(self, text: str) -> str:
        return self.paint(text, "1")

    def dim(self, text: str) -> str:
        return self.paint(text, "2")


PLAIN = Style()


def clean(text: object, limit: int = 300) -> str:
    """Make a text harmless on one line of a terminal: no control, format or line separator characters."""
    out = str(text)
    if not (out.isascii() and out.isprintable()):
        out = "".join(char if char.isprintable() else "�" for char in out[: limit + 1])
    return out if len(out) <= limit else out[: limit - 1] + "…"


def clean_lines(text: str) -> str:
    """Make a text of several lines harmless on a terminal likewise."""
    return "\n".join(clean(line.expandtabs(), limit=4096) for line in text.split("\n"))


def format_bytes(count: float) -> str:
    """Format a size in decimal units with three significant digits, as 12.3 MB."""
    value, units = float(max(count, 0)), ["B", "kB", "MB", "GB", "TB", "PB"]
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop(0)
    if units[0] == "B" or value >= 99.95:
        return f"{value:.0f} {units[0]}"
    return f"{value:.1f} {units[0]}"


def format_duration(secs: float) -> str:
    """Format a time span by its largest unit or two, as 3 h 5 min."""
    total = max(int(secs), 0)
    for size, unit, smaller, small_unit in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if total >= size:
            rest = total % size // smaller
            # Beyond ten of a unit the smaller one is noise.
            return f"{total // size} {unit}" + (f" {rest} {small_unit}" if rest and total < 10 * size else "")
    return f"{total} s"


def format_clock(secs: float) -> str:
    """Format a time left, as 0:07, 12:30 or 1:02:03."""
    total = max(int(secs + 0.5), 0)
    hours, minutes, seconds = total // 3600, total // 60 % 60, total % 60
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def percent(job: dict[str, Any]) -> int:
    """Return how far a job is, 0 to 100; -1 while unknown. 100 is reached by its end only."""
    progress = job["progress"]
    if progress < 0:
        return -1
    return min(int(progress * 100), 100 if job["state"] == "done" else 99)


class SpeedMeter:
    """Bytes per second, smoothed over a few seconds; told the time, never asks for it."""

    _WINDOW_SECS = 5.0

    def __init__(self) -> None:
        self._samples: list[tuple[float, int]] = []

    def update(self, now: float, bytes_done: int) -> float:
        """Add a sample; return the speed, 0 while unknown."""
        if self._samples and bytes_done < self._samples[-1][1]:
            self._samples.clear()
        self._samples.append((now, bytes_done))
        while len(self._samples) > 2 and now - self._samples[1][0] >= self._WINDOW_SECS:
            self._samples.pop(0)
        (start, first), (end, last) = self._samples[0], self._samples[-1]
        return (last - first) / (end - start) if end - start >= 0.2 else 0.0


def _phase_name(job: dict[str, Any]) -> str:
    if job["state"] == "cancelling":
        return "Cancelling"
    return PHASES.get(job["phase"], clean(job["phase"], 20))


def _bytes_text(job: dict[str, Any]) -> str:
    if job["bytes-total"]:
        return f"{format_bytes(job['bytes-done'])} of {format_bytes(job['bytes-total'])}"
    return format_bytes(job["bytes-done"]) if job["bytes-done"] else ""


def render_bar(job: dict[str, Any], speed: float, width: int, style: Style = PLAIN) -> str:
    """Render one line of at most `width` columns; what matters least goes first when it is narrow."""
    fetching = job["phase"] == "fetch" and job["state"] == "running"
    done = percent(job)
    steps = f"{job['steps-done']}/{job['steps-total']} layers" if job["steps-total"] else ""
    parts = {
        "phase": _phase_name(job),
        "percent": f"{done:>3} %" if done >= 0 else "",
        "bytes": _bytes_text(job) if fetching else "",
        "steps": steps if not fetching else "",
        "speed": f"{format_bytes(speed)}/s" if fetching and speed > 0 else "",
        "left": f"{format_clock(job['eta-usec'] / 1e6)} left" if fetching and job["eta-usec"] else "",
    }
    for dropped in ("speed", "steps", "bytes", "left"):
        if len(_join(parts)) <= width:
            break
        del parts[dropped]
    text = _join(parts)
    if len(text) > width:
        return text[: max(width, 0)]
    shown = [part for part in parts.values() if part]
    room = min(width - len(text) - 2, _BAR_MAX)
    painted = [style.bold(parts["phase"]), *shown[1:]]
    if done >= 0 and room >= _BAR_MIN:
        painted.insert(1, _bar(done, room, style))
    return "  ".join(painted)


def _join(parts: dict[str, str]) -> str:
    return "  ".join(part for part in parts.values() if part)


def _bar(done: int, width: int, style: Style) -> str:
    if style.unicode:
        filled = width * done // 100
        return style.paint("━" * filled, "32") + style.dim("─" * (width - filled))
    filled = (width - 2) * done // 100
    return "[" + "#" * filled + "." * (width - 2 - filled) + "]"


class ProgressLog:
    """Progress as lines for a log: each change of phase, and every tenth of the way, not too often."""

    def __init__(self) -> None:
        self._phase = ""
        self._percent = 0
        self._when = 0.0

    def line(self, now: float, job: dict[str, Any], speed: float = 0.0) -> str:
        """Return the line that is due, or an empty text."""
        phase, done = _phase_name(job), percent(job)
        if phase != self._phase:
            self._phase, self._percent, self._when = phase, max(done, 0), now
            return phase
        advanced = done - self._percent >= _LINE_STEP_PERCENT
        if not advanced or now - self._when < _LINE_INTERVAL_SECS:
            return ""
        self._percent, self._when = done - done % _LINE_STEP_PERCENT, now
        details = [f"{phase}: {done} %"]
        if job["phase"] == "fetch":
            details += [_bytes_text(job), f"{format_bytes(speed)}/s" if speed > 0 else ""]
            details.append(f"{format_clock(job['eta-usec'] / 1e6)} left" if job["eta-usec"] else "")
        return ", ".join(text for text in details if text)
