"""The settings of a machine and the day its life begins, drawn by chance."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from random import Random
from zoneinfo import ZoneInfo

from bootcd.policy.rollout import Rollout
from bootcd.policy.window import Window, parse_window
from bootcd.update.facts import Mode, Rules
from bootcd.update.surroundings import Conditions, OnSessions

_ZONES = (
    *("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana", "Asia/Kathmandu"),
    *("Africa/Cairo", "Pacific/Auckland", "America/Sao_Paulo", "Asia/Beirut", "Africa/Casablanca"),
)


def some_rules(random: Random) -> Rules:
    zone = ZoneInfo(random.choice(_ZONES))
    windows: list[Window] = []
    for _ in range(random.choice((0, 1, 1, 2, 3))):
        days = random.sample(("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"), random.randrange(1, 8))
        start = f"{','.join(days)} {random.randrange(24):02}:{random.choice((0, 0, 15, 30, 59)):02}"
        length = random.choice((1, 5, 30, 60, 240, 1440, 10080))
        windows.append(parse_window(start, timedelta(minutes=length)))
    rollout = Rollout(
        wariness=random.choice((0.0, 0.5, random.random(), 1.0)),
        period=random.choice((None, timedelta(hours=6), timedelta(days=2))),
        minimum_age=random.choice((timedelta(0), timedelta(hours=12))),
    )
    return Rules(
        mode=random.choices((Mode.APPLY, Mode.STAGE, Mode.CHECK, Mode.OFF), (16, 2, 1, 1))[0],
        interval=timedelta(hours=random.choice((1, 6, 24, 72))),
        jitter=timedelta(minutes=random.choice((0, 30, 600))),
        windows=tuple(windows),
        zone=zone,
        rollout=rollout,
        conditions=Conditions(
            metered=random.random() < 0.7,
            least_battery_percent=random.choice((0, 20, 50)),
            power_saver=random.random() < 0.3,
            sessions=random.choices((OnSessions.WARN, OnSessions.WAIT, OnSessions.IGNORE), (4, 1, 1))[0],
            courtesy=timedelta(minutes=random.choice((1, 10, 60))),
        ),
    )


def some_day(random: Random, zone: tzinfo) -> datetime:
    """Return a day of some year; often one soon before the clock changes."""
    moment = datetime(random.randrange(2018, 2032), 1, 1, tzinfo=UTC) + timedelta(
        seconds=random.randrange(365 * 86400)
    )
    if random.random() < 0.6:
        for _ in range(366):
            later = (moment + timedelta(days=5)).astimezone(zone)
            if later.utcoffset() != moment.astimezone(zone).utcoffset():
                break
            moment += timedelta(days=1)
    return moment
