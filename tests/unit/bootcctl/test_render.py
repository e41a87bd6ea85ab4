from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcctl.documents import job_document
from bootcctl.render import (
    PHASES,
    ProgressLog,
    SpeedMeter,
    Style,
    clean,
    format_bytes,
    format_clock,
    format_duration,
    percent,
    render_bar,
)
from bootcd.model.job import Phase


def job(**properties: Any) -> dict[str, Any]:
    fetching = {
        "Kind": "upgrade",
        "State": "running",
        "Phase": "fetch",
        "Progress": 0.455,
        "BytesDone": 123_400_000,
        "BytesTotal": 271_000_000,
        "StepsDone": 3,
        "StepsTotal": 12,
        "EtaUsec": 12_000_000,
    }
    return job_document("/org/bootcd1/job/_3", fetching | properties)


def test_phases_have_words_for_each_phase_of_the_service() -> None:
    assert set(PHASES) == {phase.value for phase in Phase}


def test_bar_on_a_wide_terminal_shows_everything() -> None:
    assert render_bar(job(), 12_300_000, 100) == (
        "Downloading  [#################.....................]   45 %  123 MB of 271 MB  12.3 MB/s  0:12 left"
    )


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (70, "Downloading  [#####.......]   45 %  123 MB of 271 MB  12.3 MB/s  0:12 left"),
        (62, "Downloading   45 %  123 MB of 271 MB  12.3 MB/s  0:12 left"),
        (50, "Downloading   45 %  123 MB of 271 MB  0:12 left"),
        (40, "Downloading   45 %  0:12 left"),
        (28, "Downloading   45 %"),
        (18, "Downloading   45 %"),
        (17, "Downloading   45"),
        (5, "Downl"),
        (1, "D"),
        (0, ""),
        (-3, ""),
    ],
)
def test_bar_on_a_narrow_terminal_drops_what_matters_least(width: int, line: str) -> None:
    rendered = render_bar(job(), 12_300_000, width)
    assert len(rendered) <= max(width, 0)
    assert rendered.split("[")[0].rstrip() == line.split("[")[0].rstrip()[: max(width, 0)]


@pytest.mark.parametrize(
    "document",
    [
        job(),
        job(Progress=-1.0, BytesTotal=0, EtaUsec=0),
        job(Progress=-1.0, BytesTotal=0, BytesDone=0, EtaUsec=0, StepsTotal=0),
        job(Phase="import"),
        job(Phase="a phase from the future \x1b[31m" * 9),
        job(State="cancelling"),
        job(Progress=1.0, BytesDone=10**18, BytesTotal=10**18, EtaUsec=10**15),
    ],
    ids=["fetch", "no-total", "nothing-known", "import", "unknown-phase", "cancelling", "huge"],
)
def test_bar_never_exceeds_the_width_nor_holds_a_control_character(
    document: dict[str, Any],
) -> None:
    for width in range(140):
        for style in (Style(), Style(unicode=True)):
            line = render_bar(document, 12_300_000, width, style)
            assert len(line) <= width
            assert line.isprintable()


def test_bar_colours_take_no_columns() -> None:
    plain = render_bar(job(), 0, 100, Style(unicode=True))
    coloured = render_bar(job(), 0, 100, Style(colour=True, unicode=True))
    for code in ("\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[0m"):
        coloured = coloured.replace(code, "")
    assert coloured == plain


def test_bar_without_a_total_shows_bytes_and_speed_only() -> None:
    line = render_bar(job(Progress=-1.0, BytesTotal=0, EtaUsec=0), 2_000_000, 80)
    assert line == "Downloading  123 MB  2.0 MB/s"


def test_bar_of_a_later_phase_shows_layers_instead_of_bytes() -> None:
    line = render_bar(job(Phase="import", Progress=0.25), 2_000_000, 80)
    assert line.startswith("Importing  [")
    assert line.endswith(" 25 %  3/12 layers")


@pytest.mark.parametrize(
    ("progress", "state", "shown"),
    [
        (-1.0, "running", -1),
        (0.0, "running", 0),
        (0.999, "running", 99),
        (1.0, "running", 99),
        (1.0, "done", 100),
    ],
)
def test_percent_reaches_a_hundred_only_at_the_end(progress: float, state: str, shown: int) -> None:
    assert percent(job(Progress=progress, State=state)) == shown


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (-5, "0 B"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_949, "99.9 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (12_345_678, "12.3 MB"),
        (5_000_000_000, "5.0 GB"),
        (10**19, "10000 PB"),
    ],
)
def test_format_bytes_has_about_three_digits(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("secs", "text"),
    [
        (-1, "0 s"),
        (0.9, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (600, "10 min"),
        (659, "10 min"),
        (3600, "1 h"),
        (3 * 3600 + 300, "3 h 5 min"),
        (86400 + 7200, "1 d 2 h"),
        (30 * 86400 + 7200, "30 d"),
    ],
)
def test_format_duration_uses_at_most_two_units(secs: float, text: str) -> None:
    assert format_duration(secs) == text


@pytest.mark.parametrize(
    ("secs", "text"), [(0, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (750, "12:30"), (3723, "1:02:03")]
)
def test_format_clock_counts_down_in_digits(secs: float, text: str) -> None:
    assert format_clock(secs) == text


@given(st.text(), st.integers(1, 50))
def test_clean_text_is_printable_and_short(text: str, limit: int) -> None:
    cleaned = clean(text, limit)
    assert cleaned.isprintable()
    assert len(cleaned) <= limit


@pytest.mark.parametrize("text", ["a b", "größe ✓", ""])
def test_clean_leaves_a_harmless_text_alone(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize("hostile", ["\x1b[31m", "\x9b31m", "\r", "\n", "\u2028", "\u202e", "\x07", "\x00"])
def test_clean_replaces_what_moves_a_terminal(hostile: str) -> None:
    assert clean(f"a{hostile}b").isprintable()


def test_speed_is_unknown_at_first_and_then_the_mean_of_the_last_seconds() -> None:
    meter = SpeedMeter()
    assert meter.update(100.0, 0) == 0
    assert meter.update(100.1, 500) == 0
    assert meter.update(101.0, 1000) == pytest.approx(1000)
    for second in range(2, 20):
        speed = meter.update(100.0 + second, 1000 + (second - 1) * 50)
    assert speed == pytest.approx(50)


def test_speed_starts_anew_when_a_count_falls() -> None:
    meter = SpeedMeter()
    meter.update(0.0, 1000)
    meter.update(1.0, 2000)
    assert meter.update(2.0, 100) == 0
    assert meter.update(3.0, 400) == pytest.approx(300)


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 10**12)), max_size=60))
def test_speed_is_never_negative_and_samples_are_bounded(samples: list[tuple[float, int]]) -> None:
    meter, now = SpeedMeter(), 0.0
    for step, count in samples:
        now += step
        assert meter.update(now, count) >= 0


def test_log_says_each_phase_once() -> None:
    log = ProgressLog()
    phases = ["prepare", "prepare", "resolve", "fetch", "fetch", "import", "stage"]
    lines = [log.line(0.0, job(Phase=phase, Progress=-1.0)) for phase in phases]
    assert [line for line in lines if line] == [
        "Preparing",
        "Resolving image",
        "Downloading",
        "Importing",
        "Staging",
    ]


def test_log_says_every_tenth_but_not_too_often() -> None:
    log = ProgressLog()
    said = [(now, log.line(now, job(Progress=now / 100), 1_000_000)) for now in range(101)]
    times = [now for now, line in said if line]
    assert times[0] == 0
    assert all(later - earlier >= 10 for earlier, later in pairwise(times))
    assert said[10][1] == "Downloading: 10 %, 123 MB of 271 MB, 1.0 MB/s, 0:12 left"


def test_log_of_a_fast_job_stays_short() -> None:
    log = ProgressLog()
    lines = [log.line(step / 100, job(Progress=step / 100)) for step in range(101)]
    assert len([line for line in lines if line]) == 1
