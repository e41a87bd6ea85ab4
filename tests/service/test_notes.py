"""Release notes from who makes an image to who runs it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.support.host import PERSON, PYTHON, REPOSITORY_NAME, Host

pytestmark = [pytest.mark.machine, pytest.mark.timeout(300)]


async def test_notes_pushed_beside_an_image_are_shown_until_it_is_booted(host: Host, tmp_path: Path) -> None:
    await host.publish("v2")
    notes = tmp_path / "notes.md"
    notes.write_text("# Version 2\n\nAll is new.\n")
    push = [PYTHON, "-m", "bootcd.image", "notes", "push", "--plain-http"]
    process = await asyncio.create_subprocess_exec(
        *push, f"{host.registry.host}/{REPOSITORY_NAME}:stable", notes
    )
    assert await process.wait() == 0
    assert "bootcctl notes" in (await host.ctl("check")).stdout
    for _ in ("available", "staged"):
        assert (await host.ctl("notes", user=PERSON)).stdout == "# Version 2\n\nAll is new.\n"
        await host.ctl("upgrade")
    await host.reboot()
    assert json.loads((await host.ctl("notes", "--json")).stdout) == {"notes": ""}
