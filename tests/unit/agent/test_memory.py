from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from bootcd.agent.memory import Memory, load_memory
from bootcd.model.job import ImageUpdate
from bootcd.update.attempts import Attempts, StageFailures

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FULL = Memory(
    attempts=Attempts(
        last_check=NOW,
        check_failures=2,
        stage_cancelled=NOW,
        stage_failures=(StageFailures("sha256:" + "a" * 64, NOW, 3, 1),),
    ),
    last_check_result="available",
    image="quay.io/example/os:1",
    available=ImageUpdate(image="quay.io/example/os:1", digest="sha256:" + "b" * 64, created=NOW),
    generation=7,
    fingerprint="f",
)


def test_memory_survives_a_restart(tmp_path: Path) -> None:
    (tmp_path / "agent.json").write_bytes(FULL.to_json())
    assert load_memory(tmp_path / "agent.json") == FULL


def test_no_file_is_an_empty_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_memory(tmp_path / "agent.json") == Memory()
    assert caplog.text == ""


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b'{"generation": "x"}', b'{"attempts": {"last_check": 1e400}}', b"x" * (1 << 21)),
        b'{"attempts": {"last_check": "2026-01-01T00:00:00"}}',
        b'{"attempts": {"stage_cancelled": "2026-01-01T00:00:00"}}',
        b'{"attempts": {"stage_failures": [{"digest": "d", "last": "2026-01-01T00:00:00Z", "count": -1}]}}',
        b'{"attempts": {"check_failures": -1}}',
        b'{"available": {"image": "i", "digest": "d", "created": "2026-01-01T00:00:00"}}',
    ],
    ids=[
        *("empty", "cut", "list", "type", "infinite", "huge"),
        *("local check", "local cancel", "negative count", "negative failures", "local creation"),
    ],
)
def test_file_that_is_not_understood_is_ignored_with_a_warning(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "agent.json").write_bytes(content)
    assert load_memory(tmp_path / "agent.json") == Memory()
    assert "proceeding without" in caplog.text


def test_fields_of_later_versions_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "agent.json").write_text('{"generation": 3, "news": {"x": 1}}')
    assert load_memory(tmp_path / "agent.json") == Memory(generation=3)
