from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bootcd.agent.publication import Publication, render_service
from bootcd.agent.snapshot import NextAction, Snapshot
from bootcd.model.host import BootEntry, Host, HostState, OstreeStatus
from bootcd.model.job import ImageUpdate
from bootcd.model.report import DeploymentDetails
from bootcd.model.trust import Verdict
from tests.support.jobs import ended_record

WHEN = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
USEC = 1772366400250000


def entry(checksum: str) -> BootEntry:
    return BootEntry(ostree=OstreeStatus(stateroot="default", checksum=checksum * 64, deploy_serial=1))


def test_empty_service_says_nothing_is_known() -> None:
    snapshot = Snapshot(version="1.2", backend="ostree", state="unknown", state_since=WHEN)
    assert json.loads(render_service(snapshot, None)) == {
        "version": "1.2",
        "backend": "ostree",
        "state": "unknown",
        "state-since": USEC,
        "generation": 0,
        "booted": "",
        "staged": "",
        "rollback": "",
        "reboot-required": False,
        "active-job": None,
        "last-check": 0,
        "last-check-result": "",
        "available": None,
        "mode": "off",
        "scheduled-apply": None,
        "paused": None,
        "next-action": {"action": "", "reason": "", "when": 0},
        "signatures": {},
    }


def test_service_says_who_signed_what_is_deployed() -> None:
    verdict = Verdict(scope="docker r", method="fulcio", key="sha256:1", signer="a@b", time=WHEN)
    booted, rollback = entry("a"), entry("c")
    snapshot = Snapshot(
        version="1.2",
        backend="ostree",
        state="idle",
        state_since=WHEN,
        host=Host(status=HostState(booted=booted, rollback=rollback)),
        details={booted.id: DeploymentDetails(trust=verdict), rollback.id: DeploymentDetails()},
    )
    assert json.loads(render_service(snapshot, None))["signatures"] == {
        booted.id: {
            "scope": "docker r",
            "verified": True,
            "method": "fulcio",
            "key": "sha256:1",
            "signer": "a@b",
            "identity": "",
            "time": USEC,
        },
        rollback.id: {},
    }


def test_full_service_says_everything() -> None:
    record = ended_record(4)
    snapshot = Snapshot(
        version="1.2",
        backend="ostree",
        state="checking",
        state_since=WHEN,
        generation=9,
        host=Host(status=HostState(booted=entry("a"), staged=entry("b"), rollback=entry("c"))),
        active_job=record.request.uuid,
        reboot_required=True,
        last_check=WHEN,
        last_check_result="available",
        available=ImageUpdate(image="r/a:1", digest="sha256:d", version="2", created=WHEN, download_bytes=5),
        mode="stage",
        next_action=NextAction("stage", "an update is available", WHEN),
    )
    document = json.loads(render_service(snapshot, record))
    assert (document["booted"], document["staged"]) == ("a" * 64 + ".1", "b" * 64 + ".1")
    assert document["active-job"] == {"uuid": record.request.uuid, "number": 4, "kind": "check"}
    assert document["available"] == {
        "image": "r/a:1",
        "transport": "registry",
        "digest": "sha256:d",
        "version": "2",
        "created": USEC,
        "download-size": 5,
        "has-notes": False,
    }
    assert document["next-action"] == {"action": "stage", "reason": "an update is available", "when": USEC}


async def published(publication: Publication) -> None:
    """Let everything offered so far be written."""
    publication.close()
    await publication.run()


async def test_newest_content_is_written_for_the_world_to_read(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    publication = Publication()
    publication.offer(path, b"old")
    publication.offer(path, b"new")
    await published(publication)
    assert await asyncio.to_thread(path.read_bytes) == b"new"
    assert (await asyncio.to_thread(path.stat)).st_mode & 0o777 == 0o644


async def test_same_content_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    publication = Publication()
    publication.offer(path, b"same")
    await published(publication)
    before = await asyncio.to_thread(path.stat)
    publication.offer(path, b"other")
    publication.offer(path, b"same")
    await published(publication)
    assert await asyncio.to_thread(path.stat) == before


async def test_file_that_cannot_be_written_is_offered_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "later" / "status.json"
    publication = Publication()
    publication.offer(path, b"text")
    await published(publication)
    assert "cannot write" in caplog.text
    path.parent.mkdir()
    publication.offer(path, b"text")
    await published(publication)
    assert await asyncio.to_thread(path.read_bytes) == b"text"
