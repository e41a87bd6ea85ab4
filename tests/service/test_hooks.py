"""Hooks of a real host refuse an update and a reboot, and are told what comes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.host import Host

pytestmark = [pytest.mark.machine, pytest.mark.timeout(300)]


def hook(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


async def test_hooks_refuse_an_update_and_a_reboot_with_nothing_changed(host: Host) -> None:
    hooks = host.machine.path("/etc/bootcd/hooks.d")
    digest = await host.publish("v2")

    refusing = hook(hooks / "pre-stage/10-backup", 'echo "no backup before $BOOTCD_DIGEST"; exit 1')
    refused = await host.ctl("upgrade", "--json", check=False)
    assert refused.returncode == 1
    error = json.loads(refused.stdout)["error"]
    assert error["name"] == "HookFailed"
    assert error["message"] == (
        "the pre-stage hook /etc/bootcd/hooks.d/pre-stage/10-backup refused: exit status 1:"
        f" no backup before {digest}"
    )
    assert (await host.status())["staged"] is None

    refusing.unlink()
    hook(hooks / "post-stage/10-tell", 'echo "$BOOTCD_KIND $BOOTCD_DIGEST" >/var/told; exit 1')
    staged = await host.ctl("upgrade")
    assert "Warning: the post-stage hook /etc/bootcd/hooks.d/post-stage/10-tell failed" in staged.stderr
    assert (await host.status())["staged"]["image"]["imageDigest"] == digest
    assert host.machine.path("/var/told").read_text() == f"upgrade {digest}\n"
    assert "the post-stage hook /etc/bootcd/hooks.d/post-stage/10-tell failed" in host.log.read_text()

    hook(hooks / "pre-reboot/10-users", 'echo "not now: $BOOTCD_KIND $BOOTCD_DIGEST"; exit 1')
    refused = await host.ctl("apply", "--json", check=False)
    assert refused.returncode == 1
    assert f"not now: apply {digest}" in json.loads(refused.stdout)["error"]["message"]
    assert (await host.status())["staged"]["image"]["imageDigest"] == digest
