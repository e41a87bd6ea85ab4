from __future__ import annotations

from typing import Any

import pytest

from bootcctl.notices import LATER, RESTART, next_look_usec, notices

NOW = 1_790_000_000_000_000
HOUR = 3_600_000_000
STAGED = {"Id": "abc.0", "Version": "2.0", "DownloadOnly": False}
READY = {"RebootRequired": True, "AvailableUpdate": {"digest": "sha256:b"}}
WAITING = {
    **READY,
    "NextAction": ("apply", "an update is staged", NOW + HOUR),
    "BlockedBy": [("sessions", "ann is logged in", NOW + HOUR, {})],
}


def failed(**fields: Any) -> dict[str, Any]:
    return {
        "uuid": "u1",
        "kind": "upgrade",
        "state": "failed",
        "finished": NOW - HOUR,
        "error-name": "org.bootcd1.Error.OutOfSpace",
        "error-message": "there is no room",
        "hint": "remove something",
        **fields,
    }


def test_nothing_is_told_of_a_host_that_is_up_to_date() -> None:
    assert notices({}, {}, [], NOW) == []
    assert notices({"RebootRequired": False}, {}, [], NOW) == []


def test_staged_version_is_told_unless_it_is_locked() -> None:
    [notice] = notices(READY, STAGED, [], NOW)
    assert (notice.key, notice.body) == ("ready:abc.0", "Version 2.0 comes at the next restart.")
    assert notice.actions == (RESTART, LATER)
    assert notices(READY, {**STAGED, "DownloadOnly": True}, [], NOW) == []
    [unnamed] = notices(READY, {"Id": "x", "Version": ""}, [], NOW)
    assert unnamed.body == "It comes at the next restart."


def test_reboot_that_waits_for_people_comes_first_and_stays() -> None:
    first, second = notices(WAITING, STAGED, [], NOW)
    assert (first.key, first.urgent) == (f"reboot:{NOW + HOUR}", True)
    assert first.summary.startswith("This computer restarts at ")
    assert second.key == "ready:abc.0"


@pytest.mark.parametrize(
    "changes",
    [
        {"BlockedBy": [("window", "a window opens", NOW + HOUR, {})]},
        {"BlockedBy": [("sessions", "ann is logged in", 0, {}), ("window", "later", NOW + HOUR, {})]},
        {"NextAction": ("apply", "", NOW - 1), "BlockedBy": [("sessions", "", NOW - 1, {})]},
        {"NextAction": ("check", "", NOW + HOUR)},
    ],
    ids=["window", "waited for", "past", "check"],
)
def test_reboot_people_do_not_have_to_know_of_is_not_told(changes: dict[str, Any]) -> None:
    assert [notice.key for notice in notices({**WAITING, **changes}, STAGED, [], NOW)] == ["ready:abc.0"]


def test_reboot_somebody_has_asked_for_is_told_a_quarter_of_an_hour_before() -> None:
    quarter = HOUR // 4
    asked_for = {**READY, "ScheduledApply": {"when": NOW + HOUR, "uid": 0}}
    assert [notice.key for notice in notices(asked_for, STAGED, [], NOW)] == ["ready:abc.0"]
    assert next_look_usec(asked_for, NOW) == NOW + HOUR - quarter
    first, *_ = notices(asked_for, STAGED, [], NOW + HOUR - quarter)
    assert (first.key, first.actions) == (f"reboot:{NOW + HOUR}", (RESTART,))
    assert next_look_usec(asked_for, NOW + HOUR - quarter) == 0
    assert [notice.key for notice in notices(asked_for, STAGED, [], NOW + HOUR)] == ["ready:abc.0"]
    assert next_look_usec(READY, NOW) == 0


def test_failure_is_told_once_for_a_version_and_an_error() -> None:
    found = notices(READY, {}, [failed(uuid="u2"), failed()], NOW)
    assert len({notice.key for notice in found}) == 1
    assert found[0].summary == "The system update failed"
    assert found[0].body == "There is no room. Remove something."


@pytest.mark.parametrize(
    "changes",
    [
        {"error-name": "org.bootcd1.Error.RegistryUnavailable"},
        {"error-name": "org.bootcd1.Error.Busy"},
        {"state": "cancelled", "error-name": "org.bootcd1.Error.Cancelled"},
        {"kind": "check"},
        {"finished": NOW - 8 * 24 * HOUR},
    ],
    ids=["no network", "busy", "cancelled", "check", "old"],
)
def test_failure_nobody_has_to_do_anything_about_is_not_told(changes: dict[str, Any]) -> None:
    assert notices(READY, {}, [failed(**changes)], NOW) == []


def test_host_that_went_back_by_itself_is_told_with_its_reason() -> None:
    entry = {
        "uuid": "u3",
        "kind": "rollback",
        "state": "done",
        "requester": "health",
        "finished": NOW,
        "reason": "the first boot of 2.0 was bad: disk\n\x1b[1m",
    }
    [notice] = notices({}, {}, [entry], NOW)
    assert notice.key == "rolled-back:u3"
    assert notice.body == "The first boot of 2.0 was bad: disk��[1m."
    assert notices({}, {}, [{**entry, "requester": "bootcctl"}], NOW) == []
