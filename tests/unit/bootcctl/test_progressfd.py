import json
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from bootcctl import progressfd
from bootcctl.exitcodes import USAGE, Failure
from bootcctl.progressfd import ProgressReport
from tests.unit.bootcctl.test_progressevents import A, counts, job


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for end in (reader, writer):
        try:
            os.close(end)
        except OSError:
            pass  # the test has closed it


def lines(reader: int) -> list[dict[str, Any]]:
    os.set_blocking(reader, False)
    text = os.read(reader, 1 << 16).decode()
    found = [json.loads(line) for line in text.splitlines()]
    canonical = [json.dumps(line, sort_keys=True, separators=(",", ":")) for line in found]
    assert text == "".join(f"{line}\n" for line in canonical)
    return found


def test_report_without_descriptor_says_nothing() -> None:
    said: list[str] = []
    with ProgressReport(None, said.append) as report:
        report.end(job("cleanup", "done", **counts(300)))
    assert said == []


def test_report_begins_with_start_and_ends_once(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    last = job("cleanup", "done", **counts(300, steps=2))
    with ProgressReport(writer, print) as report:
        report.end(last)
        report.end(last)
    types = [line["type"] for line in lines(reader)]
    assert types[:2] == ["Start", "ProgressBytes"]
    assert types.count("End") == types[-1:].count("End") == 1


def test_report_of_nothing_to_do_is_the_end_alone(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    with ProgressReport(writer, print) as report:
        report.end(job("resolve", "done", changed=False, Digest=""))
    assert lines(reader) == [{"type": "End", "result": "done", "changed": False, "error": None}]


@pytest.mark.parametrize(
    ("error", "name"),
    [(Failure("Busy", "later"), "Busy"), (KeyboardInterrupt(), "Failed")],
    ids=["refused", "ended"],
)
def test_report_of_a_command_that_fails_ends(pipe: tuple[int, int], error: BaseException, name: str) -> None:
    reader, writer = pipe
    with pytest.raises(type(error)), ProgressReport(writer, print):
        raise error
    [line] = lines(reader)
    assert (line["result"], line["error"]["name"]) == ("failed", name)


def test_report_leaves_out_what_comes_too_fast_and_nothing_else(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = pipe
    now = 100.0
    monkeypatch.setattr(progressfd.time, "monotonic", lambda: now)
    with ProgressReport(writer, print) as report:
        for done in range(1, 41):
            now += 0.05
            report.show(job("fetch", **counts(done, (A, "layer", done, 100))))
        report.show(job("fetch", **counts(100, (A, "layer", 100, 100), steps=1)))
    shown = [line["bytes"] for line in lines(reader) if line["type"] == "ProgressBytes"]
    assert len(shown) <= 2.0 / 0.2 + 2
    assert shown[-1] == 100


def test_report_to_a_reader_who_has_gone_says_so_once_and_goes_on(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    said: list[str] = []
    with ProgressReport(writer, said.append) as report:
        report.end(job("cleanup", "done", **counts(300, steps=2)))
    assert said == [f"Progress is not written to descriptor {writer} any more: Broken pipe"]


def test_report_to_a_reader_who_does_not_read_does_not_hang(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progressfd, "PATIENCE_SECS", 0.01)
    _, writer = pipe
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writer, True)
    said: list[str] = []
    with ProgressReport(writer, said.append) as report:
        report.show(job("fetch", **counts(1, (A, "layer", 1, 100))))
    assert said == [f"Progress is not written to descriptor {writer} any more: its reader does not read"]


def test_report_takes_a_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with ProgressReport(theirs.fileno(), print) as report:
            report.end(job("resolve", "done", changed=False, Digest=""))
        assert ours.recv(4096).endswith(b'"type":"End"}\n')


def test_report_to_anything_but_a_writing_end_is_a_usage_failure(
    pipe: tuple[int, int], tmp_path: Any
) -> None:
    reader, writer = pipe
    with (tmp_path / "file").open("w") as file:
        for descriptor in (reader, file.fileno()):
            with pytest.raises(Failure) as caught:
                ProgressReport(descriptor, print)
            assert caught.value.code == USAGE
    os.close(writer)
    with pytest.raises(Failure) as caught:
        ProgressReport(writer, print)
    assert "is not open" in caught.value.message
