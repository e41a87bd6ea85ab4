from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.registry.pauses import MAX_PAUSE_SECS, Pauses


class SetClock:
    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def boottime(self) -> float:
        return 0.0

    def turn(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


def reloaded(path: Path, clock: SetClock) -> Pauses:
    pauses = Pauses(path, clock)
    pauses.load()
    return pauses


def test_pause_holds_for_the_next_process_and_ends(tmp_path: Path, clock: SetClock) -> None:
    path = tmp_path / "pauses.json"
    reloaded(path, clock).note("a.test", 429, 60)
    clock.turn(20)
    assert reloaded(path, clock).remaining("a.test") == (429, 40.0)
    assert reloaded(path, clock).remaining("b.test") == (0, 0.0)
    clock.turn(39.5)
    assert reloaded(path, clock).remaining("a.test") == (0, 0.0)


@pytest.mark.parametrize("turned", [-1, -86400, 86400 * 400, 3601])
def test_clock_that_jumps_ends_a_pause(tmp_path: Path, clock: SetClock, turned: float) -> None:
    path = tmp_path / "pauses.json"
    reloaded(path, clock).note("a.test", 503, MAX_PAUSE_SECS)
    clock.turn(turned)
    assert reloaded(path, clock).remaining("a.test") == (0, 0.0)


def test_pause_is_bounded(tmp_path: Path, clock: SetClock) -> None:
    pauses = reloaded(tmp_path / "pauses.json", clock)
    pauses.note("a.test", 429, 10**9)
    assert pauses.remaining("a.test") == (429, float(MAX_PAUSE_SECS))


def test_servers_are_bounded_and_ended_pauses_make_room(tmp_path: Path, clock: SetClock) -> None:
    path = tmp_path / "pauses.json"
    pauses = reloaded(path, clock)
    for number in range(1000):
        pauses.note(f"{number}.test", 429, 60)
    assert path.stat().st_size < 16 << 10
    clock.turn(61)
    pauses.note("new.test", 429, 60)
    assert json.loads(path.read_text()).keys() == {"new.test"}


def test_file_that_cannot_be_written_is_no_obstacle(tmp_path: Path, clock: SetClock) -> None:
    pauses = reloaded(tmp_path / "gone/pauses.json", clock)
    pauses.note("a.test", 429, 60)
    assert pauses.remaining("a.test")[0] == 429


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"a.test": 1}', '{"a.test": [1, 2]}', '{"a.test": ["x", "y", 429]}', "\0" * 100_000],
)
def test_file_of_another_form_holds_nothing(tmp_path: Path, clock: SetClock, content: str) -> None:
    path = tmp_path / "pauses.json"
    path.write_text(content)
    assert reloaded(path, clock).remaining("a.test") == (0, 0.0)


@given(since=st.floats(), until=st.floats(), status=st.integers())
def test_any_entry_pauses_for_no_more_than_an_hour(
    tmp_path_factory: pytest.TempPathFactory, since: float, until: float, status: int
) -> None:
    path = tmp_path_factory.mktemp("pauses") / "pauses.json"
    path.write_text(json.dumps({"a.test": [since, until, status]}))
    assert 0 <= reloaded(path, SetClock()).remaining("a.test")[1] <= MAX_PAUSE_SECS
