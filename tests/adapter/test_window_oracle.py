"""Starts of windows beside what systemd-analyze(1) makes of the same words."""

import re
import subprocess
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from bootcd.policy.window import next_opening, parse_window


@pytest.mark.parametrize(
    ("start", "zone", "base"),
    [
        pytest.param("Mon..Fri 22:00", "Europe/Berlin", "2026-01-15 12:00:00", id="range"),
        pytest.param("Mon..Fri 22:00", "Europe/Berlin", "2026-01-16 22:00:00", id="over the week end"),
        pytest.param(
            "Sat,Sun 03:30", "America/New_York", "2026-03-08 01:00:00", id="day of the spring change"
        ),
        pytest.param("Sun 23:30", "Australia/Lord_Howe", "2026-04-04 00:00:00", id="change of half an hour"),
        pytest.param("Mon 03:30", "Europe/Berlin", "2026-10-24 00:00:00", id="after the autumn change"),
        pytest.param("05:45", "Asia/Kathmandu", "2026-12-31 12:00:00", id="daily, over the year"),
    ],
)
def test_next_opening_is_where_systemd_says_it_is(start: str, zone: str, base: str) -> None:
    command = ["systemd-analyze", "calendar", f"--base-time={base} UTC", f"{start} {zone}"]
    answer = subprocess.run(command, env={"TZ": "UTC"}, capture_output=True, text=True, check=True).stdout
    elapse = re.search(r"Next elapse: \w+ (\S+ \S+) UTC", answer)
    assert elapse
    now = datetime.fromisoformat(base).replace(tzinfo=UTC)
    opening = next_opening([parse_window(start, timedelta(hours=1))], ZoneInfo(zone), now)
    assert opening
    assert opening.opens == datetime.fromisoformat(elapse[1]).replace(tzinfo=UTC)
