"""What `bootcctl health` makes of the record, for people and for programs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from bootcctl.health import health_document, render_health

LAST: dict[str, Any] = {
    "boot_id": "1" * 32,
    "digest": "sha256:" + "a" * 64,
    "image": "registry.example/os:1",
    "version": "41",
    "time": "2026-01-02T03:04:05Z",
    "good": True,
    "problems": [],
    "warnings": ["clock: exit status 1"],
    "action": "mark-good",
    "reason": "",
}
FAILURE: dict[str, Any] = {
    "uuid": "00000000-0000-0000-0000-000000000001",
    "digest": "sha256:" + "b" * 64,
    "image": "registry.example/os:1",
    "version": "42",
    "time": "2026-01-01T03:04:05Z",
    "reasons": ["disk: exit status 1: no \x1b[31mspace"],
    "journal": "",
    "state": "rolled-back",
}


def test_good_boot_is_told_with_what_does_not_count() -> None:
    document = health_document({"last": LAST, "good": [], "failures": [], "cleared": []})

    assert (document["health"], document["failures"]) == ("good", [])
    assert document["time"] == int(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()) * 1_000_000
    assert render_health(document, UTC) == (
        "The boot of 41 sha256:aaaaaaaaaaaa is good\n  not counted: clock: exit status 1\n"
    )


def test_bad_boot_says_why_nothing_is_done_about_it() -> None:
    last = {**LAST, "good": False, "problems": ["net: exit status 2"], "warnings": [], "action": "leave"}
    document = health_document({"last": {**last, "reason": "greenboot decides on this host"}})

    assert render_health(document, UTC).splitlines() == [
        "The boot of 41 sha256:aaaaaaaaaaaa is bad",
        "  net: exit status 2",
        "Nothing is done about it: greenboot decides on this host",
    ]


def test_failed_version_is_listed_with_its_whole_digest_and_harmless_text() -> None:
    journal = {**FAILURE, "journal": "[  3.1] kernel: oh\x1b[2J\n[  3.2] disk: no\n"}
    document = health_document({"last": LAST, "failures": [journal]})
    text = render_health(document, UTC)

    assert f"Failed: 42 {FAILURE['digest']}\n  2026-01-01 03:04, rolled back\n" in text
    assert "\x1b" not in text
    assert "    [  3.2] disk: no\n" in text
    assert "until: bootcctl health clear" in text


def test_document_of_a_record_without_journals_has_none() -> None:
    [failure] = health_document({"last": LAST, "failures": [FAILURE]})["failures"]

    assert "journal" not in failure
    assert failure["state"] == "rolled-back"
