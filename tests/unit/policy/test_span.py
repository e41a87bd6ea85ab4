from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.policy.span import LONGEST_SPAN, parse_span, quoted


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("90", 90),
        ("90s", 90),
        ("6h", 6 * 3600),
        ("30min", 1800),
        ("30m", 1800),
        ("1h 30min", 5400),
        ("1h30m", 5400),
        ("2 h", 7200),
        (" 1d ", 86400),
        ("1week", 7 * 86400),
        ("1M", 30.44 * 86400),
        ("1y", 365.25 * 86400),
        ("1.5h", 5400),
        ("55s500ms", 55.5),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("2h 30", 7230),
    ],
)
def test_parse_span_of_systemd_time_gives_its_length(text: str, seconds: float) -> None:
    assert parse_span(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "h",
        "-1h",
        "+1h",
        "1H",
        "1 fortnight",
        "infinity",
        "1h,",
        "1..5h",
        "1.h",
        "0x10",
        "1e3",
        "1h\0",
        "٣h",
    ],
)
def test_parse_span_of_other_text_is_refused_and_named(text: str) -> None:
    with pytest.raises(ValueError, match="is no time span such as 6h") as caught:
        parse_span(text)
    assert quoted(text) in str(caught.value)


@pytest.mark.parametrize("text", ["367d", "9y", "999999999999y", "1y 1w"])
def test_parse_span_beyond_a_year_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="longer than 366 days"):
        parse_span(text)


@pytest.mark.parametrize("text", ["9" * 13, "9" * 100_000 + "h", "1." + "0" * 10])
def test_parse_span_with_more_digits_than_any_span_has_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no time span"):
        parse_span(text)


@given(st.text(alphabet="0123456789.hmsdMy µ-", max_size=30) | st.text(max_size=30))
def test_parse_span_of_any_text_gives_a_span_in_range_or_one_line(text: str) -> None:
    try:
        span = parse_span(text)
    except ValueError as error:
        message = str(error)
    else:
        message = ""
        assert timedelta(0) <= span <= LONGEST_SPAN
    assert message.isascii()
    assert message.isprintable()


@given(
    days=st.integers(0, 300), hours=st.integers(0, 99), minutes=st.integers(0, 99), seconds=st.integers(0, 99)
)
def test_parse_span_adds_its_parts(days: int, hours: int, minutes: int, seconds: int) -> None:
    expected = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    assert parse_span(f"{days}d {hours}h{minutes}min {seconds}") == expected


def test_quoted_cuts_and_escapes() -> None:
    assert quoted("x" * 61) == '"' + "x" * 60 + '..."'
    assert quoted("a\n\x1bb") == r'"a\n\x1bb"'
