"""Image times: the text form of status documents, and the datetime beside it."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootcd.oci.timestamp import normalise_timestamp, parse_timestamp


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
        ("2026-01-02t03:04:05z", "2026-01-02T03:04:05Z"),
        ("2026-01-02 03:04:05+00:00", "2026-01-02T03:04:05Z"),
        ("2026-01-01T00:30:00+01:00", "2025-12-31T23:30:00Z"),
        ("2026-01-01T00:30:00-00:45", "2026-01-01T01:15:00Z"),
        ("2026-01-02T03:04:05.1Z", "2026-01-02T03:04:05.100Z"),
        ("2026-01-02T03:04:05.100000Z", "2026-01-02T03:04:05.100Z"),
        ("2026-01-02T03:04:05.000Z", "2026-01-02T03:04:05Z"),
        ("2026-01-02T03:04:05.1234Z", "2026-01-02T03:04:05.123400Z"),
        ("2026-01-02T03:04:05.123456789Z", "2026-01-02T03:04:05.123456789Z"),
        ("2026-01-02T03:04:05.1234567899Z", "2026-01-02T03:04:05.123456789Z"),
        ("2016-12-31T23:59:60Z", "2016-12-31T23:59:60Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
    ],
)
def test_time_is_brought_to_utc_with_its_fraction_kept(text, expected):
    assert normalise_timestamp(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "yesterday",
        "2026-01-02",
        "2026-01-02T03:04Z",
        "2026-01-02T03:04:05",
        "2026-13-02T03:04:05Z",
        "2026-02-30T03:04:05Z",
        "2026-01-02T24:00:00Z",
        "2026-01-02T03:04:61Z",
        "2026-01-02T03:04:05.Z",
        "2026-01-02T03:04:05Z\n",
        "2026-01-02T03:04:05+24:00",
        "2026-01-02T03:04:05+0100",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:00-01:00",
        "٢٠٢٦-01-02T03:04:05Z",
        "2026-01-02T03:04:05." + "1" * 33 + "Z",
    ],
)
def test_text_that_is_no_time_is_none(text):
    assert normalise_timestamp(text) is None
    assert parse_timestamp(text) is None


def test_leap_second_is_the_next_minute_as_a_datetime():
    assert parse_timestamp("2016-12-31T23:59:60Z") == datetime(2017, 1, 1, tzinfo=UTC)
    assert parse_timestamp("9999-12-31T23:59:60Z") is None


FIRST, LAST = (datetime(year, 1, 1) for year in (2, 9998))  # noqa: DTZ001  # hypothesis adds the zone
OFFSETS = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timedelta(minutes=minutes))


@given(
    st.datetimes(min_value=FIRST, max_value=LAST, timezones=st.just(UTC)),
    OFFSETS,
)
def test_any_time_in_any_offset_is_the_same_moment(moment, offset):
    sign = "-" if offset < timedelta(0) else "+"
    minutes = abs(offset) // timedelta(minutes=1)
    local = (moment + offset).replace(tzinfo=None).isoformat()
    text = f"{local}{sign}{minutes // 60:02}:{minutes % 60:02}"
    assert parse_timestamp(text) == moment
    assert parse_timestamp(normalise_timestamp(text)) == moment
