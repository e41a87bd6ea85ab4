"""The service as a front end sees it."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bootcd.agent import service as service_module
from bootcd.agent.service import Settings
from bootcd.agent.snapshot import JobAdded, JobChanged, SnapshotChanged
from bootcd.host.journal import Event
from bootcd.model.errors import (
    BackendFailed,
    Busy,
    InvalidArguments,
    InvalidConfig,
    InvalidImage,
    NotBootcSystem,
    RegistryUnavailable,
    StaleGeneration,
    Unsupported,
    WrongState,
)
from bootcd.model.host import Host
from bootcd.model.job import JobKind, JobOptions, JobState
from bootcd.policy.rollout import Rollout
from bootcd.update.facts import Mode, Rules
from tests.support.jobs import DONE, SOMEBODY, SetClock, WorkerScript, eventually
from tests.support.service import (
    BOOTED,
    FAILED,
    FOUND,
    IMAGE,
    STAGED,
    TAKEN,
    ServiceBench,
    deployment,
    host_of,
    show_host,
    update_to,
)


async def test_host_is_looked_at_at_start(tmp_path: Path, script: WorkerScript) -> None:
    async with ServiceBench(tmp_path, script) as bench:
        assert bench.service.snapshot.state == "unknown"
        await bench.service.host_ready()
        snapshot = bench.service.snapshot
    assert (snapshot.state, snapshot.host, snapshot.generation) == ("idle", BOOTED, 1)
    assert snapshot.host_json == BOOTED.to_json()


async def test_host_that_cannot_be_looked_at_is_the_workers_error(
    tmp_path: Path, script: WorkerScript
) -> None:
    (script.sysroot / "host.json").unlink()
    async with ServiceBench(tmp_path, script) as bench:
        with pytest.raises(BackendFailed, match="the host is not there"):
            await bench.service.host_ready()
        show_host(script, BOOTED)
        await bench.shown(state="idle")
        await bench.service.host_ready()


async def test_host_that_makes_no_sense_is_a_typed_error(tmp_path: Path, script: WorkerScript) -> None:
    (script.sysroot / "host.json").write_text('{"kind": "Other"}')
    async with ServiceBench(tmp_path, script) as bench:
        with pytest.raises(BackendFailed):
            await bench.service.host_ready()


async def test_change_by_somebody_else_is_seen(
    tmp_path: Path, script: WorkerScript, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with ServiceBench(tmp_path, script) as bench:
        await bench.shown(state="idle")
        show_host(script, STAGED)
        snapshot = await bench.shown(state="staged")
    assert (snapshot.generation, snapshot.reboot_required) == (2, True)
    assert Event.HOST_CHANGED in [getattr(record, "MESSAGE_ID", "") for record in caplog.records]


async def test_job_for_another_generation_of_the_host_is_refused_and_nothing_begins(
    tmp_path: Path, script: WorkerScript
) -> None:
    async with ServiceBench(tmp_path, script) as bench:
        await bench.shown(state="idle")
        seen = bench.service.snapshot.generation
        show_host(script, STAGED)
        await bench.shown(state="staged")
        with pytest.raises(StaleGeneration) as refused:
            await bench.service.begin(JobKind.PIN, SOMEBODY, JobOptions(expect_generation=seen))
        assert refused.value.fields == {"expected": seen, "actual": seen + 1}
        assert bench.service.jobs() == ()
        await bench.service.begin(JobKind.PIN, SOMEBODY, JobOptions(expect_generation=seen + 1))


UUID = "00000000-0000-4000-8000-0000000000aa"


async def test_call_made_again_with_its_uuid_gets_the_same_job_and_begins_nothing(
    tmp_path: Path, script: WorkerScript
) -> None:
    script.steps(["ready"], *TAKEN)
    other = SOMEBODY.model_copy(update={"uid": SOMEBODY.uid + 1})
    async with ServiceBench(tmp_path, script) as bench:
        await bench.shown(state="idle")
        options = JobOptions(job_uuid=UUID, expect_generation=bench.service.snapshot.generation)
        record = await bench.service.begin(JobKind.UPGRADE, SOMEBODY, options)
        assert record.request.uuid == UUID
        ended = await bench.service.wait(UUID)
        again = await bench.service.begin(JobKind.UPGRADE, SOMEBODY, options)
        assert again == ended
        for kind, requester in ((JobKind.CHECK, SOMEBODY), (JobKind.UPGRADE, other)):
            with pytest.raises(InvalidArguments, match="of another request"):
                await bench.service.begin(kind, requester, options)
        assert len(bench.service.jobs()) == 1


@pytest.mark.parametrize(
    ("host", "state", "reboot"),
    [
        (host_of(), "unmanaged", False),
        (BOOTED, "idle", False),
        (STAGED, "staged", True),
        (host_of(deployment("a"), deployment("b", download_only=True)), "staged", False),
        (host_of(deployment("a"), rollback_queued=True), "rollback-queued", True),
    ],
    ids=["unmanaged", "idle", "staged", "locked", "rollback"],
)
async def test_state_and_need_to_reboot_follow_from_the_host(
    tmp_path: Path, script: WorkerScript, host: Host, state: str, reboot: bool
) -> None:
    show_host(script, host)
    async with ServiceBench(tmp_path, script) as bench:
        await bench.service.host_ready()
        assert bench.service.snapshot.state == state
        assert bench.service.snapshot.reboot_required is reboot


# Jobs


async def test_check_that_finds_an_update_makes_it_available(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["ready"], FOUND)
    async with ServiceBench(tmp_path, script) as bench:
        await bench.shown(state="idle")
        record = await bench.service.begin(JobKind.CHECK, SOMEBODY)
        ended = await bench.service.wait(record.request.uuid)
        snapshot = bench.service.snapshot
    assert ended.state is JobState.DONE
    assert (snapshot.state, snapshot.available) == ("available", update_to("b"))
    assert (snapshot.last_check, snapshot.last_check_result) == (bench.clock.now(), "available")
    assert snapshot.active_job == ""


async def test_version_was_first_seen_when_it_was_found_and_not_when_it_is_found_again(
    tmp_path: Path, script: WorkerScript
) -> None:
    script.steps(["ready"], FOUND)

    async def turn(bench: ServiceBench) -> datetime | None:
        rollout = Rollout(wariness=1, period=timedelta(days=1))
        rules = replace(bench.settings.rules, mode=Mode.STAGE, interval=timedelta(days=9), rollout=rollout)
        bench.settings = replace(bench.settings, rules=rules)
        await bench.service.reload()
        [gate] = bench.service.plan(now=bench.clock.now(), started=bench.clock.now(), chance=0.0).gates
        assert gate.name == "rollout"
        return gate.ends

    async with ServiceBench(tmp_path, script) as bench:
        await bench.shown(state="idle")
        seen = bench.clock.now()
        for _ in range(2):
            await bench.service.wait((await bench.service.begin(JobKind.CHECK, SOMEBODY)).request.uuid)
            assert await turn(bench) == seen + timedelta(days=1)
            bench.clock.move(hours=1)
        clock = bench.clock
    async with ServiceBench(tmp_path, script, clock=clock) as bench:
        await bench.shown(state="available")
        assert await turn(bench) == seen + timedelta(days=1)
        # The clock was ahead when the version was seen: from now on it counts anew.
        clock.move(days=-4000)
        assert await turn(bench) == clock.now() + timedelta(days=1)


async def test_notes_are_those_of_the_update_and_outlive_the_service_but_not_the_update(
    tmp_path: Path, script: WorkerScript
) -> None:
    found = {"state": "done", "update": update_to("b").model_dump(mode="json"), "notes": "# New"}
    script.steps(["ready"], ["outcome", found])
    async with ServiceBench(tmp_path, script) as bench:
        await bench.shown(state="idle")
        assert bench.service.notes() == ""
        await bench.service.wait((await bench.service.begin(JobKind.CHECK, SOMEBODY)).request.uuid)
        assert bench.service.notes() == "# New"
        [entry] = await bench.service.history(1)
        assert entry.outcome is not None
        assert entry.outcome.update == update_to("b")
        assert entry.outcome.notes == ""
    script.steps(["ready"], DONE)
    async with ServiceBench(tmp_path, script) as bench:
        await bench.shown(state="available")
        assert bench.service.notes() == "# New"
        await bench.service.wait((await bench.service.begin(JobKind.CHECK, SOMEBODY)).request.uuid)
        assert bench.service.notes() == ""


async def test_check_that_finds_nothing_is_up_to_date(tmp_path: Path, script: WorkerScript) -> None:
    async with ServiceBench(tmp_path, script) as bench:
        await bench.shown(state="idle")
        for steps in ([["ready"], FOUND], [["ready"], DONE]):
            script.steps(*steps)
            await bench.service.wait((await bench.service.begin(JobKind.CHECK, SOMEBODY)).request.uuid)
        snapshot = bench.service.snapshot
    assert (snapshot.state, snapshot.available, snapshot.last_check_result) == ("idle", None, "up-to-date")


@pytest.mark.parametrize(
    ("later", "result"),
    [
        (BOOTED, "up-to-date"),
        (host_of(deployment("a"), deployment("a")), "up-to-date"),
        (host_of(deployment("b")), ""),
        (STAGED, ""),
        (host_of(deployment("a"), rollback_queued=True), ""),
    ],
    ids=["same", "same staged", "another", "staged", "rollback"],
)
async def test_host_that_starts_another_version_next_is_not_up_to_date_by_the_last_check(
    tmp_path: Path, script: WorkerScript, later: Host, result: str
) -> None:
    script.steps(["ready"], DONE)
    async with ServiceBench(tmp_path, script) as bench:
        await bench.shown(state="idle")
        await bench.service.wait((await bench.service.begin(JobKind.CHECK, SOMEBODY)).request.uuid)
        assert bench.service.snapshot.last_check_result == "up-to-date"
        show_host(script, later)
        await bench.service.reload()
        assert bench.service.snapshot.last_check_result == result
        assert bench.service.snapshot.last_check is not None


async def test_check_that_fails_keeps_what_is_known(tmp_path: Path, script: WorkerScript) -> None:
    async with ServiceBench(tmp_path, script) as bench:
        await bench.shown(state="idle")
        for steps in ([["ready"], FOUND], [["ready"], FAILED]):
            script.steps(*steps)
            await bench.service.wait((await bench.service.begin(JobKind.CHECK, SOMEBODY)).request.uuid)
        snapshot = bench.service.snapshot
    assert (snapshot.state, snapshot.available) == ("available", update_to("b"))
    assert snapshot.last_check_result == "RegistryUnavailable"


async def test_whoever_waited_for_an_upgrade_sees_what_it_did(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["ready"], *TAKEN)
    async with ServiceBench(tmp_path, script) as bench:
        await bench.shown(state="idle")
        record = await bench.service.begin(JobKind.UPGRADE, SOMEBODY)
        await bench.service.wait(record.request.uuid)
        snapshot = bench.service.snapshot
    assert (snapshot.state, snapshot.host) == ("staged", STAGED)
    assert snapshot.last_check_result == "up-to-date"


async def test_changes_are_told_in_an_order_a_front_end_can_follow(
    tmp_path: Path, script: WorkerScript
) -> None:
    script.steps(["ready"], ["hold"], *TAKEN)
    async with ServiceBench(tmp_path, script) as bench:
        await bench.shown(state="idle")
        bench.changes.clear()
        record = await bench.service.begin(JobKind.UPGRADE, SOMEBODY)
        uuid = record.request.uuid
        added, working = bench.changes
        assert added == JobAdded(record)
        assert isinstance(working, SnapshotChanged)
        assert (working.snapshot.state, working.snapshot.active_job) == ("upgrading", uuid)
        bench.changes.clear()
        script.release()
        await bench.service.wait(uuid)
        last_change, settled = bench.changes[-2:]
        assert isinstance(last_change, JobChanged)
        assert last_change.record.state is JobState.DONE
        assert isinstance(settled, SnapshotChanged)
        assert (settled.snapshot.state, settled.snapshot.active_job) == ("staged", "")


async def test_verbs_carry_their_options_to_the_worker(tmp_path: Path, script: WorkerScript) -> None:
    show_host(script, STAGED)
    async with ServiceBench(tmp_path, script) as bench:
        await bench.shown(state="staged")
        service = bench.service
        for record in (
            await service.begin(JobKind.UPGRADE, SOMEBODY, JobOptions(download_only=True)),
            await service.wait(service.jobs()[-1].request.uuid),
        ):
            assert (record.request.kind, record.request.download_only) == (JobKind.UPGRADE, True)
        record = await service.begin(
            JobKind.SWITCH, SOMEBODY, JobOptions(image="quay.io/example/os", apply=True)
        )
        await service.wait(record.request.uuid)
        assert (record.request.image, record.request.apply) == ("quay.io/example/os:latest", True)
        record = await service.begin(JobKind.SWITCH, SOMEBODY, JobOptions(image="/mnt/os:1", transport="oci"))
        await service.wait(record.request.uuid)
        assert (record.request.image, record.request.transport) == ("/mnt/os:1", "oci")
        record = await service.begin(JobKind.ROLLBACK, SOMEBODY, JobOptions(apply=True))
        await service.wait(record.request.uuid)
        assert (record.request.kind, record.request.apply) == (JobKind.ROLLBACK, True)
        record = await service.begin(JobKind.APPLY, SOMEBODY)
        await service.wait(record.request.uuid)
        assert record.request.kind is JobKind.APPLY
        assert record.requester == SOMEBODY
        assert record.request.settings.sysroot == str(script.sysroot)
        assert [entry.number for entry in await service.history(10)] == [5, 4, 3, 2, 1]


async def test_second_verb_is_busy_or_joins(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["ready"], ["hold"], DONE)
    async with ServiceBench(tmp_path, script) as bench:
        await bench.shown(state="idle")
        record = await bench.service.begin(JobKind.CHECK, SOMEBODY)
        assert await bench.service.begin(JobKind.CHECK, SOMEBODY) == record
        with pytest.raises(Busy):
            await bench.service.begin(JobKind.UPGRADE, SOMEBODY)
        with pytest.raises(Busy):  # not that there is nothing to apply
            await bench.service.begin(JobKind.APPLY, SOMEBODY)
        script.release()
        await bench.service.wait(record.request.uuid)


async def test_text_that_is_no_image_is_refused_before_anything_else(
    tmp_path: Path, script: WorkerScript
) -> None:
    async with ServiceBench(tmp_path, script) as bench:
        with pytest.raises(InvalidImage):
            await bench.service.begin(JobKind.SWITCH, SOMEBODY, JobOptions(image="Not An Image"))
        for transport, name in (("oci", "os"), ("oci-archive", "./os.tar"), ("nonsense", "/os")):
            options = JobOptions(image=name, transport=transport)
            with pytest.raises(InvalidImage):
                await bench.service.begin(JobKind.SWITCH, SOMEBODY, options)
        options = JobOptions(image="os", transport="docker-daemon")
        with pytest.raises(Unsupported):
            await bench.service.begin(JobKind.SWITCH, SOMEBODY, options)
    assert script.pids() == []


async def test_verb_the_state_forbids_starts_nothing(tmp_path: Path, script: WorkerScript) -> None:
    async with ServiceBench(tmp_path, script) as bench:
        await bench.shown(state="idle")
        with pytest.raises(WrongState, match="nothing to apply"):
            await bench.service.begin(JobKind.APPLY, SOMEBODY)
        show_host(script, host_of())
        await bench.shown(state="unmanaged")
        with pytest.raises(NotBootcSystem):
            await bench.service.begin(JobKind.CHECK, SOMEBODY)
    assert script.pids() == []


async def test_reboot_that_was_agreed_ends_all_work_until_it_is_missed(
    tmp_path: Path, script: WorkerScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    show_host(script, STAGED)
    script.steps(["ready"], ["outcome", {"state": "done", "reboot": True}])
    monkeypatch.setattr(service_module, "REBOOT_SECS", 0.5)
    async with ServiceBench(tmp_path, script) as bench:
        await bench.shown(state="staged")
        record = await bench.service.begin(JobKind.APPLY, SOMEBODY)
        await bench.service.wait(record.request.uuid)
        assert bench.service.snapshot.state == "rebooting"
        with pytest.raises(WrongState, match="about to reboot"):
            await bench.service.begin(JobKind.CHECK, SOMEBODY)
        await bench.shown(state="staged")


async def test_cancel_reaches_the_worker(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["ready"], ["hold"])
    async with ServiceBench(tmp_path, script) as bench:
        await bench.shown(state="idle")
        record = await bench.service.begin(JobKind.CHECK, SOMEBODY)
        await bench.service.cancel(record.request.uuid)
        assert (await bench.service.wait(record.request.uuid)).state is JobState.CANCELLED
        assert bench.service.snapshot.last_check_result == "Cancelled"


# Restart and settings


async def test_update_and_generation_survive_a_restart(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["ready"], FOUND)
    async with ServiceBench(tmp_path, script) as bench:
        await bench.shown(state="idle")
        await bench.service.wait((await bench.service.begin(JobKind.CHECK, SOMEBODY)).request.uuid)
    async with ServiceBench(tmp_path, script) as bench:
        await bench.service.host_ready()
        snapshot = bench.service.snapshot
        assert (snapshot.state, snapshot.available, snapshot.generation) == ("available", update_to("b"), 1)
        assert snapshot.last_check_result == "available"
        assert [record.state for record in bench.service.jobs()] == [JobState.DONE]


async def test_job_at_work_over_a_restart_is_shown_and_ends(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["ready"], ["hold"], *TAKEN)
    async with ServiceBench(tmp_path, script) as bench:
        await bench.shown(state="idle")
        record = await bench.service.begin(JobKind.UPGRADE, SOMEBODY)
    async with ServiceBench(tmp_path, script) as bench:
        assert bench.service.snapshot.active_job == record.request.uuid
        assert bench.service.snapshot.state == "upgrading"
        await bench.service.host_ready()
        assert bench.service.snapshot.state == "upgrading"
        script.release()
        await bench.service.wait(record.request.uuid)
        assert bench.service.snapshot.state == "staged"


@pytest.mark.parametrize(("boot_id", "state"), [("this", "rebooting"), ("another", "staged")])
async def test_reboot_agreed_while_nobody_watched_is_ahead_in_this_boot_and_over_in_the_next(
    tmp_path: Path, script: WorkerScript, boot_id: str, state: str
) -> None:
    show_host(script, STAGED)
    script.steps(["ready"], ["hold"], ["outcome", {"state": "done", "reboot": True}])
    async with ServiceBench(tmp_path, script) as bench:
        await bench.shown(state="staged")
        await bench.service.begin(JobKind.APPLY, SOMEBODY)
    script.release()
    await eventually(lambda: all(has_ended(pid) for pid in script.pids()))
    async with ServiceBench(tmp_path, script, boot_id=boot_id) as bench:
        await bench.service.host_ready()
        assert [record.state for record in bench.service.jobs()] == [JobState.DONE]
        assert bench.service.snapshot.state == state
        applied = bench.service._memory.attempts.applied
        assert applied
        assert (applied.name, applied.count) == (f"{'b' * 64}.0", 1), "or it would be tried for ever"


def has_ended(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(") ")[2].startswith("Z")


async def test_job_that_ended_while_nobody_watched_still_counts(tmp_path: Path, script: WorkerScript) -> None:
    script.steps(["ready"], ["hold"], FOUND)
    async with ServiceBench(tmp_path, script) as bench:
        await bench.shown(state="idle")
        record = await bench.service.begin(JobKind.CHECK, SOMEBODY)
    script.release()
    outcome = bench.state / "jobs" / record.request.uuid / "outcome.json"
    await eventually(outcome.exists)
    async with ServiceBench(tmp_path, script) as bench:
        await bench.shown(state="available")
        assert bench.service.snapshot.last_check_result == "available"


async def test_reload_takes_new_settings_and_looks_again(tmp_path: Path, script: WorkerScript) -> None:
    async with ServiceBench(tmp_path, script) as bench:
        await bench.shown(state="idle")
        rules = Rules(mode=Mode.STAGE, interval=timedelta(hours=1), jitter=timedelta(0))
        bench.settings = Settings(rules=rules, worker=bench.settings.worker)
        (script.sysroot / "host.json").write_text(STAGED.to_json())  # and nothing that tells of it
        await bench.service.reload()
        assert (bench.service.snapshot.mode, bench.service.snapshot.state) == ("stage", "staged")


async def test_bad_settings_leave_the_old_ones_in_force(
    tmp_path: Path, script: WorkerScript, caplog: pytest.LogCaptureFixture
) -> None:
    async with ServiceBench(tmp_path, script, mode=Mode.CHECK) as bench:
        bench.load_error = InvalidConfig("line 3 makes no sense", path="/etc/x.toml")
        with pytest.raises(InvalidConfig):
            await bench.service.reload()
        assert bench.service.snapshot.mode == "check"
    logged = [record for record in caplog.records if getattr(record, "MESSAGE_ID", "") == Event.CONFIG_ERROR]
    assert [record.__dict__["BOOTCD_PATH"] for record in logged] == ["/etc/x.toml"]


async def test_observer_that_fails_harms_nobody(tmp_path: Path, script: WorkerScript) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("broken")

    async with ServiceBench(tmp_path, script) as bench:
        end = bench.service.subscribe(broken)
        bench.service.subscribe(lambda _: None)
        await bench.shown(state="idle")
        end()
        end()  # again is no error


# Published files


async def test_files_say_what_the_service_says(tmp_path: Path, script: WorkerScript) -> None:
    def read(name: str) -> Any:
        path = tmp_path / "run" / name
        return json.loads(path.read_text()) if path.exists() else {}

    script.steps(["ready"], ["hold"], FOUND)
    async with ServiceBench(tmp_path, script) as bench:
        await bench.shown(state="idle")
        record = await bench.service.begin(JobKind.CHECK, SOMEBODY)
        await eventually(lambda: read("service.json").get("state") == "checking")
        document = read("service.json")
        assert document["active-job"] == {"uuid": record.request.uuid, "number": 1, "kind": "check"}
        script.release()
        await bench.service.wait(record.request.uuid)
    document = read("service.json")
    assert (document["state"], document["active-job"]) == ("available", None)
    assert document["available"]["image"] == IMAGE
    assert document["booted"] == "a" * 64 + ".0"
    status = tmp_path / "run" / "status.json"
    assert status.read_text() == BOOTED.to_json()
    assert status.stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "state" / "agent.json").stat().st_mode & 0o777 == 0o600


async def test_clock_says_since_when_a_state_holds(tmp_path: Path, script: WorkerScript) -> None:
    clock = SetClock()
    async with ServiceBench(tmp_path, script, clock=clock) as bench:
        await bench.shown(state="idle")
        since = bench.service.snapshot.state_since
        clock.move(hours=1)
        show_host(script, STAGED)
        snapshot = await bench.shown(state="staged")
        assert snapshot.state_since == since + timedelta(hours=1)


async def test_check_is_recent_for_as_long_as_asked_for_and_only_if_the_registry_answered(
    tmp_path: Path, script: WorkerScript
) -> None:
    clock = SetClock()
    script.steps(["ready"], ["outcome", {"state": "done"}])
    async with ServiceBench(tmp_path, script, clock=clock) as bench:
        await bench.service.host_ready()
        assert not bench.service.checked_within(timedelta(days=1))
        await bench.service.wait((await bench.service.begin(JobKind.CHECK, SOMEBODY)).request.uuid)
        clock.move(minutes=30)
        assert bench.service.checked_within(timedelta(minutes=30))
        assert not bench.service.checked_within(timedelta(minutes=29))
        error = RegistryUnavailable("no").info().model_dump()
        script.steps(["ready"], ["outcome", {"state": "failed", "error": error}])
        await bench.service.wait((await bench.service.begin(JobKind.CHECK, SOMEBODY)).request.uuid)
        assert not bench.service.checked_within(timedelta(days=1))
