from __future__ import annotations

import pytest

from bootcd.update.surroundings import Conditions, OnSessions, Source

DEFAULT = Conditions()
EVERYTHING = Conditions(power_saver=True)


@pytest.mark.parametrize(
    ("conditions", "stages", "applies", "sources"),
    [
        (EVERYTHING, False, False, set()),
        (DEFAULT, True, False, {Source.NETWORK, Source.POWER, Source.BOOT}),
        (EVERYTHING, True, True, set(Source)),
        (
            Conditions(metered=False, least_battery_percent=0, sessions=OnSessions.IGNORE),
            True,
            True,
            {Source.SHUTDOWN, Source.BOOT},
        ),
    ],
    ids=["checks", "stages", "applies", "few"],
)
def test_only_what_can_hold_up_something_is_asked_for(
    conditions: Conditions, stages: bool, applies: bool, sources: set[Source]
) -> None:
    assert conditions.sources(stages=stages, applies=applies) == sources
