"""bootcctl as users run it, against the real D-Bus front end with scripted work behind it."""

import json
import os
import re
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Message, Variant
from dbus_fast.aio import MessageBus

from bootcctl.yamltext import render_yaml
from bootcd.agent.snapshot import NextAction
from bootcd.model.errors import (
    AccessDenied,
    BootcdError,
    Busy,
    DigestMismatch,
    DowngradeRefused,
    InvalidConfig,
    NotBootcSystem,
    NotCancellable,
    NotFound,
    OutOfSpace,
    RegistryRateLimited,
    Stalled,
    WrongState,
)
from bootcd.model.host import Host
from bootcd.model.job import JobKind, JobState, Requester
from bootcd.model.report import DeploymentDetails
from bootcd.update.facts import Action
from bootcd.update.gates import Gate
from tests.support.bootcctl import Command, start_bootcctl
from tests.support.scripted_service import (
    EPOCH,
    ScriptedService,
    available,
    deployment,
    host,
    open_bus,
    shown_on,
)


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    async with open_bus(tmp_path) as address:
        yield address


@pytest.fixture
async def service(address: str) -> AsyncIterator[ScriptedService]:
    scripted = ScriptedService()
    async with shown_on(address, scripted):
        yield scripted


async def run(address: str, *argv: str, **environ: str) -> Command:
    command = await start_bootcctl(address, *argv, **environ)
    await command.ended()
    return command


# status


async def test_status_json_over_the_bus_is_the_document_byte_for_byte(
    address: str, service: ScriptedService
) -> None:
    command = await run(address, "status", "--json")
    assert (command.code, command.out, command.err) == (0, service.snapshot.host_json, "")


async def test_status_booted_json_leaves_out_the_other_roles(address: str, service: ScriptedService) -> None:
    document = host(booted=deployment("1.0", "a"), staged=deployment("2.0", "b"))
    service.publish(host=document, host_json=document.to_json())
    status = json.loads((await run(address, "status", "--booted", "--format=json")).out)["status"]
    assert status["staged"] is None
    assert status["booted"]["image"]["version"] == "1.0"


async def test_status_shows_the_active_job_with_its_progress(address: str, service: ScriptedService) -> None:
    record = service.add(JobKind.UPGRADE)
    service.advance(record, 12.0, phase="fetch", bytes_done=5_000_000, bytes_total=10_000_000)
    command = await run(address, "status", "--format=humanreadable")
    assert "Job        upgrade, number 1, downloading, 50 %, 5.0 MB of 10.0 MB, 12 s left\n" in command.out
    assert "Booted     registry.example/os:1\n" in command.out


async def test_status_from_the_files_needs_no_bus(tmp_path: Path) -> None:
    text = host(booted=deployment("7.7", "a")).to_json()
    (tmp_path / "status.json").write_text(text)
    (tmp_path / "service.json").write_text('{"state":"idle","active-job":null}')
    nowhere = f"unix:path={tmp_path}/absent"
    command = await run(nowhere, "status", "--format=human", BOOTCD_RUN_DIR=str(tmp_path))
    assert command.code == 0
    assert "State      idle\n" in command.out
    assert "  Version  7.7, built" in command.out
    command = await run(nowhere, "status", "--json", BOOTCD_RUN_DIR=str(tmp_path))
    assert command.out == text


async def test_status_from_the_files_asks_the_bus_for_the_progress_of_the_active_job(
    address: str, service: ScriptedService, tmp_path: Path
) -> None:
    record = service.add(JobKind.UPGRADE)
    service.advance(record, phase="import", steps_done=1, steps_total=4)
    (tmp_path / "status.json").write_text(host(booted=deployment("7.7", "a")).to_json())
    active = {"uuid": record.request.uuid, "number": 1, "kind": "upgrade"}
    (tmp_path / "service.json").write_text(json.dumps({"state": "working", "active-job": active}))
    command = await run(address, "status", "--format=human", BOOTCD_RUN_DIR=str(tmp_path))
    assert "Job        upgrade, number 1, importing, 25 %\n" in command.out


async def test_status_from_the_files_with_a_job_and_no_bus_still_answers(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(host(booted=deployment("7.7", "a")).to_json())
    active = {"uuid": "u", "number": 1, "kind": "upgrade"}
    (tmp_path / "service.json").write_text(json.dumps({"state": "working", "active-job": active}))
    command = await run(
        f"unix:path={tmp_path}/absent", "status", "--format=human", BOOTCD_RUN_DIR=str(tmp_path)
    )
    assert command.code == 0
    assert "Job        upgrade, number 1\n" in command.out


async def test_status_into_a_pipe_is_yaml(address: str, service: ScriptedService, tmp_path: Path) -> None:
    document = host(booted=deployment("7.7", "a"))
    service.publish(host=document, host_json=document.to_json())
    (tmp_path / "status.json").write_text(document.to_json())
    from_bus = await run(address, "status")
    from_file = await run(f"unix:path={tmp_path}/absent", BOOTCD_RUN_DIR=str(tmp_path))
    assert from_bus.out == from_file.out == render_yaml(json.loads(document.to_json()))


@pytest.mark.parametrize("argv", [["--json"], ["--format=json"], ["--booted", "--json"]], ids=" ".join)
async def test_status_of_a_system_without_service_or_deployment_is_the_host_bootc_prints(
    tmp_path: Path, argv: list[str]
) -> None:
    command = await run(f"unix:path={tmp_path}/absent", "status", *argv, container="podman")
    assert (command.code, command.out, command.err) == (0, Host().to_json(), "")


async def test_status_of_a_system_that_is_not_image_based_is_the_host_bootc_prints(
    address: str, service: ScriptedService
) -> None:
    service.publish(host_json="")
    service.refusals["status"] = NotBootcSystem("there is none")
    assert (await run(address, "status", "--json")).out == Host().to_json()
    assert (await run(address, "status", "--format=human")).out.startswith("No deployment")


async def test_status_with_a_damaged_file_asks_the_bus(
    address: str, service: ScriptedService, tmp_path: Path
) -> None:
    (tmp_path / "status.json").write_text('{"half')
    command = await run(address, "status", "--json", BOOTCD_RUN_DIR=str(tmp_path))
    assert command.out == service.snapshot.host_json


# Jobs that run to their end


async def test_check_with_an_update_exits_0_and_names_it(address: str, service: ScriptedService) -> None:
    service.on_start = lambda record: service.end(record, update=available())
    command = await run(address, "check")
    assert command.code == 0
    assert command.out == (
        "Update available: registry.example/os:1 2.0 sha256:bbbbbbbbbbbb, 12.3 MB to download\n"
    )


async def test_why_shows_the_plan_and_every_gate_with_its_end(address: str, service: ScriptedService) -> None:
    opens = datetime(2026, 1, 15, 21, tzinfo=UTC)
    service.publish(
        mode="apply",
        next_action=NextAction("check", "regular \x1b[31mcheck", opens),
        gates=(
            Gate("window", "the next one opens later", opens, (Action.APPLY,)),
            Gate("attempts", "it was given up", None, (Action.CHECK, Action.STAGE)),
        ),
    )
    command = await run(address, "why", TZ="UTC")
    assert command.out.splitlines() == [
        "Mode apply",
        "Next look for an update at Thu 2026-01-15 21:00: regular \ufffd[31mcheck",
        "Apply held up by window: the next one opens later (until Thu 2026-01-15 21:00)",
        "Check, stage held up by attempts: it was given up",
    ]
    document = json.loads((await run(address, "why", "--json")).out)
    usec = int(opens.timestamp()) * 1_000_000
    assert [(gate["gate"], gate["until"], gate["actions"]) for gate in document["blocked-by"]] == [
        ("window", usec, ["apply"]),
        ("attempts", 0, ["check", "stage"]),
    ]


async def test_why_shows_what_the_plan_would_be_if_things_were_otherwise(
    address: str, service: ScriptedService
) -> None:
    service.publish(mode="stage")
    options = ("--at", "2035-01-15 21:00", "--metered=yes", "--on-battery=no", "--battery-percent", "0")
    command = await run(address, "why", *options, TZ="UTC")
    assert command.out.splitlines() == [
        "Supposed: it is Mon 2035-01-15 21:00, metered yes, on-battery no, battery-percent 0",
        "Mode stage",
        "Next look for an update at Thu 2026-01-01 00:00: regular check",
        "Stage held up by metered: the network connection is metered",
    ]
    at = datetime(2035, 1, 15, 21, tzinfo=UTC)
    facts = {"metered": True, "on_battery": False, "battery_percent": 0}
    assert service.requests == [("simulate", {"at": at, **facts})]
    document = json.loads((await run(address, "why", "--json", "--power-saver=yes")).out)
    assert document["supposed"] == {"power-saver": True}
    assert [gate["gate"] for gate in document["blocked-by"]] == ["metered"]
    assert "supposed" not in json.loads((await run(address, "why", "--json")).out)
    assert (await run(address, "why", "--at", "noon")).code == 2


async def test_check_of_late_is_told_and_not_made_again(address: str, service: ScriptedService) -> None:
    last = EPOCH - timedelta(minutes=30)
    service.publish(last_check=last, last_check_result="available", available=available())
    command = await run(address, "check", "--max-age", "1h", TZ="UTC")
    assert (command.code, command.out.splitlines()) == (
        0,
        [
            "Update available: registry.example/os:1 2.0 sha256:bbbbbbbbbbbb, 12.3 MB to download",
            "So the registry said at Wed 2025-12-31 23:30",
        ],
    )
    service.publish(available=None, last_check_result="up-to-date")
    command = await run(address, "check", "--max-age=1h", "--no-wait", "--json")
    usec = int(last.timestamp()) * 1_000_000
    known = {"kind": "check", "state": "done", "last-check": usec, "outcome": {}}
    assert (command.code, json.loads(command.out)) == (77, known)
    assert service.requests == []

    service.on_start = service.end
    assert (await run(address, "check", "--max-age", "20min")).out == "Up to date\n"
    assert (await run(address, "check", "--max-age", "soon")).code == 2
    assert service.requests == [("check", {})]


async def test_check_says_that_there_are_notes_and_notes_shows_them(
    address: str, service: ScriptedService
) -> None:
    update = available().model_copy(update={"has_notes": True})
    service.on_start = lambda record: service.end(record, update=update)
    assert "bootcctl notes" in (await run(address, "check")).out
    assert (await run(address, "notes")).out == "There are no release notes\n"
    service.release_notes = "# 2\n\n- \x1b[31mred\n"
    command = await run(address, "notes")
    assert (command.code, command.out) == (0, "# 2\n\n- \ufffd[31mred\n")
    assert json.loads((await run(address, "notes", "--json")).out) == {"notes": service.release_notes}


async def test_log_is_that_of_the_newest_job_or_of_the_one_named(
    address: str, service: ScriptedService
) -> None:
    command = await run(address, "log")
    assert (command.code, command.out) != (0, "")
    assert "there is no job" in command.err
    service.on_start = lambda record: service.end(record)
    for verb in ("check", "rollback"):
        await run(address, verb)
    assert (await run(address, "log")).out == "log of rollback\n\ufffd[31mred\n"
    first = next(record for record in service.records.values() if record.request.kind == "check")
    shown = json.loads((await run(address, "log", str(first.number), "--json")).out)
    assert shown == {
        "number": first.number,
        "uuid": first.request.uuid,
        "log": "log of check\n\x1b[31mred\n",
    }


@pytest.mark.parametrize("argv", [("check",), ("upgrade", "--check")], ids=" ".join)
async def test_check_without_an_update_exits_77(
    address: str, service: ScriptedService, argv: tuple[str, ...]
) -> None:
    service.on_start = lambda record: service.end(record)
    command = await run(address, *argv)
    assert (command.code, command.out) == (77, "Up to date\n")
    assert [kind for kind, _ in service.requests] == ["check"]


@pytest.mark.parametrize(
    ("argv", "request_"),
    [
        (["upgrade"], ("upgrade", {})),
        (["upgrade", "--download-only"], ("upgrade", {"download_only": True})),
        (["upgrade", "--apply"], ("upgrade", {"apply": True})),
        (
            ["switch", "quay.io/x/y:1", "--apply"],
            ("switch", {"image": "quay.io/x/y:1", "apply": True}),
        ),
        (
            ["switch", "--transport", "oci", "/mnt/usb/os:1"],
            ("switch", {"image": "/mnt/usb/os:1", "transport": "oci"}),
        ),
        (["rollback"], ("rollback", {})),
        (["rollback", "--apply"], ("rollback", {"apply": True})),
        (["apply"], ("apply", {})),
        (["apply", "--soft-reboot=auto"], ("apply", {"soft_reboot": "auto"})),
        (
            ["upgrade", f"--expect-digest=sha256:{'a' * 64}"],
            ("upgrade", {"expect_digest": f"sha256:{'a' * 64}"}),
        ),
        (["upgrade", "--from-downloaded"], ("upgrade", {"from_downloaded": True})),
        (["upgrade", "--allow-downgrade"], ("upgrade", {"allow_downgrade": True})),
        (
            ["upgrade", "--tag", "edge", "--soft-reboot", "required"],
            ("upgrade", {"tag": "edge", "soft_reboot": "required"}),
        ),
        (["switch", "--tag", "prod", "--apply"], ("upgrade", {"tag": "prod", "apply": True})),
        (["switch", "quay.io/x/y:1", "--retain"], ("switch", {"image": "quay.io/x/y:1", "retain": True})),
        (
            ["kargs", "--append", "a=1", "--append", "b", "--delete", "c", "--replace", "d=1"],
            ("kernel-arguments", {"append": ("a=1", "b"), "delete": ("c",), "replace": ("d=1",)}),
        ),
        (["pin"], ("pin", {"deployment": "booted"})),
        (["unpin", "1"], ("unpin", {"deployment": "1"})),
        (["drop", "staged"], ("drop", {"deployment": "staged"})),
        (["usr-overlay", "--read-only"], ("usr-overlay", {"read_only": True})),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_verb_asks_for_what_its_options_say(
    address: str, service: ScriptedService, argv: list[str], request_: tuple[str, dict[str, Any]]
) -> None:
    service.on_start = lambda record: service.end(record, changed=True)
    command = await run(address, *argv)
    assert command.code == 0, command.err
    assert service.requests == [request_]


async def test_kargs_without_a_change_shows_them_to_anybody(address: str, service: ScriptedService) -> None:
    booted = deployment("1.0", "a")
    details = {booted.id: DeploymentDetails(kernel_arguments=("root=LABEL=root", "rw"))}
    service.publish(details=details)

    for arguments in ((), ("--json",)):
        command = await run(address, "kargs", *arguments)
        assert (command.code, command.err) == (0, "")
        if not arguments:
            assert command.out == "Booted     root=LABEL=root rw\n"
        else:
            assert json.loads(command.out) == {
                "deployments": [
                    {"id": booted.id, "role": "booted", "kernel-arguments": ["root=LABEL=root", "rw"]}
                ]
            }
    assert service.requests == []


async def test_upgrade_shows_progress_on_stderr_and_the_result_on_stdout(
    address: str, service: ScriptedService
) -> None:
    command = await start_bootcctl(address, "upgrade")
    record = await service.started.get()
    service.advance(record, phase="resolve")
    await command.says("Resolving image")
    service.advance(record, phase="fetch", bytes_done=0, bytes_total=10_000_000)
    await command.says("Downloading")
    service.advance(record, phase="stage")
    await command.says("Staging")
    service.end(record, changed=True, update=available(), bytes_fetched=10_000_000)
    assert await command.ended() == 0
    assert command.out == (
        "Staged registry.example/os:1 2.0 sha256:bbbbbbbbbbbb, 10.0 MB downloaded;"
        " it comes at the next boot\n"
    )


async def test_upgrade_json_prints_one_document_after_the_end(address: str, service: ScriptedService) -> None:
    command = await start_bootcctl(address, "upgrade", "--json")
    record = await service.started.get()
    service.advance(record, phase="fetch", bytes_done=1, bytes_total=2)
    await command.says("Downloading")
    assert command.out == ""
    service.end(record, changed=True, update=available())
    assert await command.ended() == 0
    job = json.loads(command.out)
    assert job["uuid"] == record.request.uuid
    assert (job["state"], job["error"]) == ("done", None)
    assert job["outcome"]["digest"] == available().digest
    assert job["requester"]["uid"] == os.getuid()


async def test_job_that_ends_before_the_answer_is_read_is_not_missed(
    address: str, service: ScriptedService
) -> None:
    service.on_start = lambda record: service.end(record, changed=False)
    for _ in range(5):
        command = await run(address, "upgrade")
        assert (command.code, command.out) == (0, "Already up to date\n")


async def test_quiet_prints_nothing_but_errors(address: str, service: ScriptedService) -> None:
    service.on_start = lambda record: service.end(record, changed=True)
    command = await run(address, "-q", "upgrade")
    assert (command.code, command.out, command.err) == (0, "", "")
    service.refusals["upgrade"] = Busy("another job is at work")
    command = await run(address, "-q", "upgrade")
    assert (command.code, command.err) == (3, "bootcctl: another job is at work\n")


async def test_no_wait_returns_while_the_job_runs(address: str, service: ScriptedService) -> None:
    command = await run(address, "upgrade", "--no-wait", "--json")
    assert command.code == 0
    assert json.loads(command.out)["state"] == "running"
    assert not service.records[json.loads(command.out)["uuid"]].state.ended


async def test_apply_ends_well_when_the_host_goes_down_under_it(tmp_path: Path) -> None:
    service = ScriptedService()
    async with open_bus(tmp_path) as address, shown_on(address, service):
        command = await start_bootcctl(address, "apply")
        record = await service.started.get()
        service.advance(record, phase="reboot", cancellable=False)
        await command.says("Rebooting")
    assert await command.ended() == 0
    assert command.out == "Done; the host reboots\n"


# Errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Busy("job 3 is at work", hint="wait for it"), 3),
        (AccessDenied("not authorised", hint="run it as root"), 4),
        (WrongState("nothing is staged"), 5),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BootcdError) else str(value),
)
async def test_refused_verb_is_a_sentence_a_hint_and_a_code(
    address: str, service: ScriptedService, error: BootcdError, code: int
) -> None:
    service.refusals["upgrade"] = error
    command = await run(address, "upgrade")
    hint = f"hint: {error.hint}\n" if error.hint else ""
    assert (command.code, command.out, command.err) == (code, "", f"bootcctl: {error.message}\n{hint}")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RegistryRateLimited("registry.example asks to wait", hint="try later"), 7),
        (NotFound("no tag 9 in registry.example/os"), 8),
        (DigestMismatch("layer 3 is not what was asked for"), 9),
        (DowngradeRefused("1 is older than 2", hint="allow it"), 9),
        (OutOfSpace("300 MB are missing", hint="remove something"), 10),
        (Stalled("no byte for 60 s"), 12),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BootcdError) else str(value),
)
async def test_failed_job_is_a_sentence_a_hint_and_a_code(
    address: str, service: ScriptedService, error: BootcdError, code: int
) -> None:
    service.on_start = lambda record: service.fail(record, error)
    command = await run(address, "upgrade", "--json")
    hint = f"hint: {error.hint}\n" if error.hint else ""
    assert command.code == code
    assert command.err == f"bootcctl: {error.message}\n{hint}"
    assert json.loads(command.out)["error"] == {
        "name": error.name,
        "message": error.message,
        "hint": error.hint,
    }


async def test_refused_verb_with_json_prints_one_error_document(
    address: str, service: ScriptedService
) -> None:
    service.refusals["switch"] = Busy("job 3 is at work", hint="wait")
    command = await run(address, "switch", "quay.io/x/y", "--json")
    assert json.loads(command.out) == {
        "error": {"name": "Busy", "message": "job 3 is at work", "hint": "wait"}
    }


async def test_error_text_from_a_hostile_registry_cannot_write_escape_sequences(
    address: str, service: ScriptedService
) -> None:
    service.on_start = lambda record: service.fail(record, NotFound("no \x1b[2J tag\x07", hint="\x9b1m"))
    command = await run(address, "upgrade")
    assert all(line.isprintable() for line in command.err.splitlines())


async def test_job_that_vanished_with_its_worker_is_interrupted(
    address: str, service: ScriptedService
) -> None:
    service.on_start = lambda record: service.end(record, JobState.INTERRUPTED)
    command = await run(address, "upgrade")
    assert command.code == 12
    assert command.err.startswith("bootcctl: the upgrade was interrupted\nhint: ")


async def test_service_that_is_not_there_is_unreachable(address: str) -> None:
    command = await run(address, "upgrade")
    assert command.code == 13
    assert command.err.startswith("bootcctl: the bootcd service cannot be reached")


@pytest.mark.parametrize("bus", ["unix:path={tmp}/absent", "nonsense", "unix:abstract=/nobody/listens"])
async def test_bus_that_is_not_there_is_unreachable(bus: str, tmp_path: Path) -> None:
    command = await run(bus.format(tmp=tmp_path), "jobs")
    assert command.code == 13
    assert command.err.startswith("bootcctl: the system bus cannot be reached: ")
    assert "Traceback" not in command.err


async def test_bus_option_is_used_instead_of_the_environment(
    address: str, service: ScriptedService, tmp_path: Path
) -> None:
    command = await run(f"unix:path={tmp_path}/absent", "--bus", address, "status", "--json")
    assert (command.code, command.out) == (0, service.snapshot.host_json)


async def test_wrong_option_is_a_usage_error(tmp_path: Path) -> None:
    command = await run(f"unix:path={tmp_path}/absent", "upgrade", "--nonsense")
    assert command.code == 2
    assert command.err == "bootcctl: unrecognized arguments: --nonsense\nhint: see: bootcctl --help\n"


async def test_output_that_nobody_reads_is_no_error(address: str, service: ScriptedService) -> None:
    for _ in range(30):
        service.end(service.add(JobKind.CHECK))
    reader, writer = os.pipe()
    os.close(reader)
    command = await start_bootcctl(address, "history", "--limit=1000", stdout=writer)
    os.close(writer)
    assert await command.ended() == 141
    assert command.err == ""


# Ctrl-C


async def test_ctrl_c_cancels_the_job_and_waits_for_its_end(address: str, service: ScriptedService) -> None:
    service.on_cancel = lambda _: None
    command = await start_bootcctl(address, "upgrade")
    record = await service.started.get()
    service.advance(record, phase="fetch", bytes_done=1, bytes_total=100)
    await command.says("Downloading")
    command.send_signal(signal.SIGINT)
    await service.cancelled.get()
    assert command.running
    service.end(record, JobState.CANCELLED)
    assert await command.ended() == 11
    assert "Cancelling; press Ctrl-C again" in command.err
    assert command.err.endswith("bootcctl: the upgrade was cancelled\n")


async def test_second_ctrl_c_leaves_the_job(address: str, service: ScriptedService) -> None:
    service.on_cancel = lambda _: None
    command = await start_bootcctl(address, "upgrade")
    record = await service.started.get()
    service.advance(record, phase="stage")
    await command.says("Staging")
    command.send_signal(signal.SIGINT)
    await service.cancelled.get()
    command.send_signal(signal.SIGINT)
    assert await command.ended() == 130
    assert "bootcctl: job 1 goes on without this command\nhint: " in command.err
    assert not service.records[record.request.uuid].state.ended


async def test_ctrl_c_at_a_step_that_must_end_says_so_and_goes_on(
    address: str, service: ScriptedService
) -> None:
    service.refusals["cancel"] = NotCancellable("the deployment is being written")
    command = await start_bootcctl(address, "upgrade")
    record = await service.started.get()
    service.advance(record, phase="stage")
    await command.says("Staging")
    command.send_signal(signal.SIGINT)
    await command.says("Not cancelled: the deployment is being written")
    service.end(record, changed=True)
    assert await command.ended() == 0


async def test_ctrl_c_of_a_client_that_joined_leaves_the_job_of_the_other(
    address: str, service: ScriptedService
) -> None:
    record = service.add(JobKind.UPGRADE, Requester(uid=0, pid=1, name="agent"))
    service.advance(record, phase="stage")
    command = await start_bootcctl(address, "upgrade")
    await command.says("Staging")
    command.send_signal(signal.SIGINT)
    assert await command.ended() == 130
    assert service.cancelled.empty()


# Restarts of the service


async def test_follower_finds_the_job_again_under_another_number(
    address: str,
) -> None:
    service = ScriptedService()
    async with shown_on(address, service):
        command = await start_bootcctl(address, "upgrade")
        record = await service.started.get()
        service.advance(record, phase="resolve")
        await command.says("Resolving image")
    await command.says("waiting for the service to come back")
    service.renumber(record, 42)
    async with shown_on(address, service):
        service.advance(record, phase="stage")
        await command.says("Staging")
        service.end(record, changed=True)
        assert await command.ended() == 0
    assert command.err.count("come back") == 1


async def test_follower_learns_from_the_history_how_a_job_ended_meanwhile(address: str) -> None:
    service = ScriptedService()
    async with shown_on(address, service):
        command = await start_bootcctl(address, "upgrade", "--json")
        record = await service.started.get()
        service.advance(record, phase="resolve")
        await command.says("Resolving image")
    service.fail(record, NotFound("no such tag"))
    service.forget(record)
    async with shown_on(address, service):
        assert await command.ended() == 8
    assert json.loads(command.out)["error"]["name"] == "NotFound"


async def test_follower_of_a_job_nobody_remembers_is_interrupted(address: str) -> None:
    service = ScriptedService()
    async with shown_on(address, service):
        command = await start_bootcctl(address, "upgrade")
        record = await service.started.get()
        service.advance(record, phase="resolve")
        await command.says("Resolving image")
    async with shown_on(address, ScriptedService()):
        assert await command.ended() == 12
    assert f"no longer knows the job {record.request.uuid}" in command.err


async def test_ctrl_c_while_the_service_is_away_leaves(address: str) -> None:
    service = ScriptedService()
    async with shown_on(address, service):
        command = await start_bootcctl(address, "upgrade")
        service.advance(await service.started.get(), phase="resolve")
        await command.says("Resolving image")
    await command.says("come back")
    command.send_signal(signal.SIGINT)
    assert await command.ended() == 130


async def test_bus_that_ends_is_unreachable(tmp_path: Path) -> None:
    service = ScriptedService()
    async with open_bus(tmp_path) as address, shown_on(address, service):
        command = await start_bootcctl(address, "upgrade")
        service.advance(await service.started.get(), phase="resolve")
        await command.says("Resolving image")
        await stop_bus(address)
        assert await command.ended() == 13
    assert "Traceback" not in command.err


async def ask_bus(bus: MessageBus, member: str, *argument: str) -> Any:
    reply = await bus.call(
        Message(
            destination="org.freedesktop.DBus",
            path="/org/freedesktop/DBus",
            interface="org.freedesktop.DBus",
            member=member,
            signature="s" * len(argument),
            body=list(argument),
        )
    )
    assert reply is not None
    return reply.body[0]


async def stop_bus(address: str) -> None:
    bus = await MessageBus(bus_address=address).connect()
    os.kill(await ask_bus(bus, "GetConnectionUnixProcessID", "org.freedesktop.DBus"), signal.SIGTERM)
    with pytest.raises(EOFError):
        await bus.wait_for_disconnect()


# What others send


async def test_signal_of_a_stranger_does_not_end_the_job(address: str, service: ScriptedService) -> None:
    command = await start_bootcctl(address, "upgrade")
    record = await service.started.get()
    service.advance(record, phase="fetch", bytes_done=1, bytes_total=100)
    await command.says("Downloading")
    stranger = await MessageBus(bus_address=address).connect()
    lie = {"State": Variant("s", "done"), "Phase": Variant("s", "reboot")}
    for name in await ask_bus(stranger, "ListNames"):
        if name.startswith(":"):
            message = Message.new_signal(
                "/org/bootcd1/job/_1",
                "org.freedesktop.DBus.Properties",
                "PropertiesChanged",
                "sa{sv}as",
                ["org.bootcd1.Job", lie, []],
            )
            message.destination = name
            await stranger.send(message)
    await ask_bus(stranger, "GetId")
    stranger.disconnect()
    service.advance(record, phase="stage")
    await command.says("Staging")
    service.end(record, changed=True)
    assert await command.ended() == 0
    assert "Rebooting" not in command.err


# cancel, jobs, history, reload


async def test_cancel_stops_the_active_job_and_waits(address: str, service: ScriptedService) -> None:
    service.end(service.add(JobKind.CHECK))
    record = service.add(JobKind.UPGRADE)
    command = await run(address, "cancel")
    assert (command.code, command.out) == (0, "Job 2 was cancelled\n")
    assert service.records[record.request.uuid].state is JobState.CANCELLED


@pytest.mark.parametrize("by", ["number", "uuid"])
async def test_cancel_finds_the_job_named(address: str, service: ScriptedService, by: str) -> None:
    record = service.add(JobKind.UPGRADE)
    name = {"number": "1", "uuid": record.request.uuid}[by]
    command = await run(address, "cancel", name, "--no-wait", "--json")
    assert command.code == 0
    assert json.loads(command.out)["uuid"] == record.request.uuid


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["cancel"], 5, "no job is at work"),
        (["cancel", "1"], 5, "job 1 has ended already: done"),
        (["cancel", "99"], 8, "there is no job 99"),
        (["cancel", "../../x"], 8, "there is no job ../../x"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_cancel_of_what_cannot_be_cancelled_fails(
    address: str, service: ScriptedService, argv: list[str], code: int, words: str
) -> None:
    service.end(service.add(JobKind.CHECK))
    command = await run(address, *argv)
    assert (command.code, command.err.splitlines()[0]) == (code, f"bootcctl: {words}")


async def test_cancel_of_a_job_that_ends_well_nevertheless_says_so(
    address: str, service: ScriptedService
) -> None:
    service.on_cancel = lambda record: service.end(record, changed=True)
    service.add(JobKind.UPGRADE)
    command = await run(address, "cancel")
    assert command.code == 5
    assert "job 1 ended before it could be cancelled: done" in command.err


async def test_jobs_lists_ended_and_active_ones(address: str, service: ScriptedService) -> None:
    service.end(service.add(JobKind.CHECK), update=available())
    service.add(JobKind.SWITCH, image="quay.io/x/y:1")
    command = await run(address, "jobs")
    assert [line.split()[:3] for line in command.out.splitlines()[1:]] == [
        ["1", "check", "done"],
        ["2", "switch", "running"],
    ]
    jobs = json.loads((await run(address, "jobs", "--json")).out)["jobs"]
    assert [(job["number"], job["kind"], job["image"]) for job in jobs] == [
        (1, "check", ""),
        (2, "switch", "quay.io/x/y:1"),
    ]


async def test_history_asks_for_as_many_entries_as_wanted(address: str, service: ScriptedService) -> None:
    service.fail(service.add(JobKind.UPGRADE), NotFound("no such tag"))
    service.end(service.add(JobKind.CHECK))
    command = await run(address, "history", "--limit", "1", "--json")
    assert service.requests == [("history", {"limit": 1})]
    assert [entry["kind"] for entry in json.loads(command.out)["entries"]] == ["check"]
    entries = json.loads((await run(address, "history", "--json")).out)["entries"]
    assert (entries[1]["error-name"], entries[1]["error-message"]) == ("NotFound", "no such tag")
    assert "no such tag" in (await run(address, "history")).out


async def test_reload_reads_the_configuration_or_says_what_is_wrong_with_it(
    address: str, service: ScriptedService
) -> None:
    command = await run(address, "reload", "--json")
    assert (command.code, json.loads(command.out)) == (0, {"reloaded": True})
    service.refusals["reload"] = InvalidConfig("line 3 of 10-x.toml is no TOML", hint="mend it")
    command = await run(address, "reload")
    assert (command.code, command.err) == (
        1,
        "bootcctl: line 3 of 10-x.toml is no TOML\nhint: mend it\n",
    )


async def test_pause_names_its_end_and_resume_ends_it(address: str, service: ScriptedService) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    command = await run(address, "pause", "--until", f"{tomorrow:%Y-%m-%d}", TZ="UTC")
    assert (command.code, service.requests[-1]) == (0, ("pause", {"until": tomorrow}))
    assert f"until {tomorrow:%a %Y-%m-%d} 00:00\n" in command.out
    assert "is done all the same" in command.out
    assert " more, by user 0" in (await run(address, "status", "--format=human")).out
    assert json.loads((await run(address, "pause", "indefinitely", "--json")).out)["until"] == 0
    assert "until it is ended, by user 0" in (await run(address, "status", "--format=human")).out
    assert (await run(address, "resume")).code == 0
    assert service.snapshot.paused is None
    assert (await run(address, "pause", "3x")).code == 2


async def test_apply_at_a_time_is_scheduled_shown_and_called_off(
    address: str, service: ScriptedService
) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).replace(hour=3, minute=0, second=0, microsecond=0)
    command = await run(address, "apply", "--at", "tomorrow 03:00", "--soft-reboot", "auto", TZ="UTC")
    asked = {"when": tomorrow, "soft_reboot": "auto"}
    assert (command.code, service.requests[-1]) == (0, ("schedule-apply", asked))
    assert f"reboots at {tomorrow:%a %Y-%m-%d} 03:00" in command.out
    assert "asked for by user 0; to call it off" in (await run(address, "status", "--format=human")).out
    before = datetime.now(UTC)
    assert (await run(address, "apply", "--defer", "2h")).code == 0
    assert service.snapshot.appointment
    assert before + timedelta(hours=2) <= service.snapshot.appointment.when
    assert json.loads((await run(address, "apply", "--cancel", "--json")).out) == {"when": 0}
    assert service.snapshot.appointment is None
    assert (await run(address, "apply", "--at", "noon")).code == 2


# monitor


async def test_monitor_json_tells_service_jobs_and_absence_until_ctrl_c(address: str) -> None:
    service = ScriptedService()
    async with shown_on(address, service):
        command = await start_bootcctl(address, "monitor", "--json")
        first = await command.document()
        assert (first["event"], first["service"]["state"]) == ("service", "idle")
        assert first["service"]["active-job"] is None
        record = service.add(JobKind.UPGRADE)
        service.advance(record, phase="fetch", bytes_done=1, bytes_total=4)
        seen = [await command.document()]
        while seen[-1]["event"] != "job":
            seen.append(await command.document())
        assert seen[-1]["job"]["uuid"] == record.request.uuid
        assert seen[-1]["job"]["progress"] == 0.25
        assert seen[0]["service"]["active-job"]["number"] == 1
        service.end(record, changed=True)
        while seen[-1]["event"] != "job" or seen[-1]["job"]["state"] != "done":
            seen.append(await command.document())
    while seen[-1]["event"] != "gone":
        seen.append(await command.document())
    service.publish(state="staged", reboot_required=True)
    async with shown_on(address, service):
        back = await command.document()
        assert (back["event"], back["service"]["state"]) == ("service", "staged")
        command.send_signal(signal.SIGINT)
        assert await command.ended() == 0
    assert all(isinstance(event["time"], int) for event in seen)


async def test_monitor_tells_a_person_the_same_in_lines(address: str) -> None:
    command = await start_bootcctl(address, "monitor")
    await command.prints("the service is not running")
    service = ScriptedService()
    async with shown_on(address, service):
        await command.prints("state: idle")
        record = service.add(JobKind.UPGRADE)
        service.advance(record, phase="fetch", bytes_done=1, bytes_total=4)
        await command.prints("job 1 (upgrade): Downloading")
        service.fail(record, NotFound("no such tag"))
        await command.prints("job 1 (upgrade): failed: no such tag")
        command.send_signal(signal.SIGINT)
        assert await command.ended() == 0
    assert all(re.match(r"\d\d:\d\d:\d\d  ", line) for line in command.out.splitlines())


async def test_interrupt_while_the_service_thinks_leaves_at_once(
    address: str, service: ScriptedService
) -> None:
    service.answers_history.clear()
    command = await start_bootcctl(address, "history")
    await service.asked_history.wait()
    command.send_signal(signal.SIGINT)
    assert await command.ended() == 130
    assert "Traceback" not in command.err
    service.answers_history.set()


# Documents in a descriptor


async def test_diff_asks_for_the_deployments_that_are_meant(address: str, service: ScriptedService) -> None:
    document = host(booted=deployment("1.0", "a"), staged=deployment("2.0", "b"))
    service.publish(host=document, host_json=document.to_json())
    command = await run(address, "diff", "--json")
    found = json.loads(command.out)
    names = [entry.id for entry in (document.status.booted, document.status.staged) if entry]
    assert (command.code, [found["before"]["id"], found["after"]["id"]]) == (0, names)
    assert service.requests[-1] == ("diff", {"before": names[0], "after": names[1]})
    assert (await run(address, "config-diff")).out == "M    /etc/fstab\n"
    command = await run(address, "diff", "rollback")
    assert (command.code, command.err.partition("\n")[0]) == (5, "bootcctl: there is no rollback deployment")
    service.refusals["diff"] = Busy("others are at it")
    assert (await run(address, "diff")).code == 3
