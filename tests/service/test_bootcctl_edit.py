"""bootcctl edit with a real editor, against the real D-Bus front end with scripted work behind it."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bootcd.model.errors import WrongState
from tests.support.bootcctl import Command, start_bootcctl
from tests.support.scripted_service import ScriptedService, deployment, host, open_bus, shown_on


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    async with open_bus(tmp_path) as address:
        yield address


@pytest.fixture
async def service(address: str) -> AsyncIterator[ScriptedService]:
    scripted = ScriptedService()
    scripted.on_start = lambda record: scripted.end(record, changed=True)
    document = host(booted=deployment("1.0", "a"), rollback=deployment("0.9", "b"))
    scripted.publish(host=document, host_json=document.to_json())
    async with shown_on(address, scripted):
        yield scripted


def editor(tmp_path: Path, old: str, new: str) -> str:
    """Return an editor that replaces a text in the file, as a person would."""
    script = tmp_path / "editor.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\n"
        f"path = Path(sys.argv[-1])\npath.write_text(path.read_text().replace({old!r}, {new!r}))\n"
    )
    return f"{sys.executable} '{script}' --wait"


async def run(address: str, *argv: str, **environ: str) -> Command:
    command = await start_bootcctl(address, "edit", *argv, **environ)
    await command.ended()
    return command


async def test_another_image_is_switched_to(address: str, service: ScriptedService, tmp_path: Path) -> None:
    command = await run(
        address, EDITOR="false", VISUAL=editor(tmp_path, "os:1", "os:2"), TMPDIR=str(tmp_path)
    )
    assert command.code == 0, command.err
    [(kind, options)] = service.requests
    assert (kind, options["image"]) == ("switch", "registry.example/os:2")
    assert list(tmp_path.glob("bootcctl-edit-*")) == []


async def test_demanded_signature_is_a_switch_that_enforces_the_policy(
    address: str, service: ScriptedService, tmp_path: Path
) -> None:
    demand = editor(tmp_path, "transport: registry", "transport: registry\n    signature: containerPolicy")
    command = await run(address, EDITOR=demand, TMPDIR=str(tmp_path))
    assert command.code == 0, command.err
    [(kind, options)] = service.requests
    assert (kind, options["image"]) == ("switch", "registry.example/os:1")
    assert options["enforce_container_sigpolicy"] is True


async def test_another_boot_order_is_a_rollback(
    address: str, service: ScriptedService, tmp_path: Path
) -> None:
    other = editor(tmp_path, "bootOrder: default", "bootOrder: rollback")
    command = await run(address, "--ignore-inhibitors", EDITOR=other)
    assert command.code == 0, command.err
    [(kind, options)] = service.requests
    assert (kind, options["ignore_inhibitors"]) == ("rollback", True)


async def test_text_left_as_it_is_changes_nothing(
    address: str, service: ScriptedService, tmp_path: Path
) -> None:
    command = await run(address, EDITOR="true", TMPDIR=str(tmp_path))
    assert (command.code, command.out) == (0, "Nothing was changed\n")
    assert service.requests == []
    assert list(tmp_path.glob("bootcctl-edit-*")) == []


async def kept_text(command: Command) -> str:
    match = re.search(r"bootcctl edit --filename (\S+)", command.err)
    assert match, command.err
    return await asyncio.to_thread(Path(match[1]).read_text)


async def test_text_that_is_wrong_is_kept(address: str, service: ScriptedService, tmp_path: Path) -> None:
    command = await run(address, EDITOR=editor(tmp_path, "bootOrder", "botOrder"), TMPDIR=str(tmp_path))
    assert command.code == 2
    assert "bootcctl: the host cannot be changed so: spec.botOrder is not known\n" in command.err
    assert "botOrder: default" in await kept_text(command)
    assert service.requests == []


async def test_text_that_cannot_be_carried_out_is_kept(
    address: str, service: ScriptedService, tmp_path: Path
) -> None:
    service.refusals["rollback"] = WrongState("there is nothing to roll back to")
    edited = editor(tmp_path, "bootOrder: default", "bootOrder: rollback")
    command = await run(address, EDITOR=edited, TMPDIR=str(tmp_path))
    assert command.code == 5
    assert "bootOrder: rollback" in await kept_text(command)


@pytest.mark.parametrize("program", ["false", "/absent/editor", "'unbalanced"])
async def test_editor_that_fails_changes_nothing(
    address: str, service: ScriptedService, tmp_path: Path, program: str
) -> None:
    command = await run(address, EDITOR=program, TMPDIR=str(tmp_path))
    assert command.code in (1, 2)
    assert "Traceback" not in command.err
    assert service.requests == []


async def test_file_is_taken_instead_of_an_editor(
    address: str, service: ScriptedService, tmp_path: Path
) -> None:
    file = tmp_path / "host.yaml"
    status = await start_bootcctl(address, "status", "--format=yaml")
    await status.ended()
    file.write_text(status.out.replace("registry.example/os:1", "registry.example/other:7", 1))
    command = await run(address, "--filename", str(file), "--no-wait", EDITOR="false")
    assert command.code == 0, command.err
    assert service.requests[0][1]["image"] == "registry.example/other:7"
    missing = await run(address, "-f", str(tmp_path / "absent"))
    assert (missing.code, "cannot be read" in missing.err) == (2, True)
