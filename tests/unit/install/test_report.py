"""What an installation tells while it works."""

import io
import json

from bootcd.install.report import Reporter, Step
from bootcd.model.errors import OutOfSpace


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_json_has_one_document_a_line_and_ends_with_the_result() -> None:
    stream = io.StringIO()
    reporter = Reporter(stream, json_lines=True)
    reporter.step(Step.RESOLVE)
    reporter.step(Step.IMPORT, 0, 100)
    reporter.step(Step.IMPORT, 1, 100)
    reporter.step(Step.IMPORT, 100, 100)
    reporter.warning("look out")
    reporter.done("image", "sha256:1")
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        {"type": "phase", "phase": "resolve", "bytes": 0, "bytesTotal": 0},
        {"type": "phase", "phase": "import", "bytes": 0, "bytesTotal": 100},
        {"type": "phase", "phase": "import", "bytes": 100, "bytesTotal": 100},
        {"type": "warning", "message": "look out"},
        {"type": "done", "image": "image", "digest": "sha256:1"},
    ]


def test_the_end_of_a_phase_is_told_once() -> None:
    stream = io.StringIO()
    reporter = Reporter(stream, json_lines=True)
    for _ in range(5):
        reporter.step(Step.IMPORT, 100, 100)
    assert len(stream.getvalue().splitlines()) == 1


def test_error_has_its_hint_and_its_facts() -> None:
    error = OutOfSpace("too small", hint="take a larger one", needed_bytes=2)
    stream = io.StringIO()
    Reporter(stream, json_lines=True).error(error)
    assert json.loads(stream.getvalue()) == {
        "type": "error",
        "name": "OutOfSpace",
        "message": "too small",
        "hint": "take a larger one",
        "needed_bytes": 2,
    }
    stream = io.StringIO()
    Reporter(stream).error(error)
    assert stream.getvalue() == "bootcd-install: too small\n  take a larger one\n"


def test_terminal_shows_a_bar_and_an_error_on_a_line_of_its_own() -> None:
    stream = Terminal()
    reporter = Reporter(stream)
    reporter.step(Step.IMPORT, 50_000_000, 100_000_000)
    reporter.error(OutOfSpace("too small"))
    text = stream.getvalue()
    assert " 50% of 100 MB" in text
    assert text.endswith("\nbootcd-install: too small\n")


def test_quiet_tells_warnings_and_errors_only() -> None:
    stream = io.StringIO()
    reporter = Reporter(stream, quiet=True)
    reporter.step(Step.IMPORT)
    reporter.done("image", "sha256:1")
    assert stream.getvalue() == ""
    reporter.warning("look out")
    assert stream.getvalue() == "warning: look out\n"


class Closed(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_nobody_who_listens_stops_nothing() -> None:
    reporter = Reporter(Closed(), json_lines=True)
    reporter.step(Step.IMPORT, 1, 2)
    reporter.done("image", "sha256:1")
