import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcctl.runfiles import SIZE_LIMIT, parse_document, read_text, run_directory


@pytest.mark.parametrize(
    ("environ", "bus", "directory"),
    [
        ({}, "", "/run/bootcd"),
        ({}, "unix:path=/other", ""),
        ({"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/other"}, "", ""),
        ({"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/other", "BOOTCD_RUN_DIR": "/r"}, "", "/r"),
        ({"BOOTCD_RUN_DIR": ""}, "", "/run/bootcd"),
    ],
)
def test_run_directory_belongs_to_the_service_on_that_bus(
    environ: dict[str, str], bus: str, directory: str
) -> None:
    assert run_directory(environ, bus) == directory


def test_read_text_returns_the_file(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"a":"ü"}')
    assert read_text(str(tmp_path), "status.json") == '{"a":"ü"}'


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "oversized", "binary", "empty"])
def test_read_text_of_anything_else_is_empty(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "status.json"
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "oversized":
            with path.open("wb") as stream:
                stream.truncate(SIZE_LIMIT + 1)
        case "binary":
            path.write_bytes(b"\xff\xfe{")
        case "empty":
            path.touch()
    assert read_text(str(tmp_path), "status.json") == ""


def test_read_text_without_a_directory_is_empty() -> None:
    assert read_text("", "status.json") == ""


@pytest.mark.parametrize("text", ["", "[]", "1", "{", '{"a":', "[" * 100_000, "null"])
def test_parse_document_of_no_object_is_none(text: str) -> None:
    assert parse_document(text) is None


@given(st.text())
def test_parse_document_takes_any_text(text: str) -> None:
    document = parse_document(text)
    assert document is None or isinstance(document, dict)
