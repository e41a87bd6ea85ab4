"""What the daemon is made of, as the configuration has it."""

from __future__ import annotations

from bootcd.app import WORKER, inspector_of
from bootcd.config import Config


def test_host_that_bootc_drives_is_looked_at_outside_of_the_sandbox() -> None:
    config = Config.model_validate({"worker": {"runner": "systemd"}})
    assert inspector_of("ostree", config) == WORKER
    command = inspector_of("bootc", config)
    assert command[0] == "systemd-run"
    assert {"--pipe", "--wait", "--property=RuntimeMaxSec=120"} < {*command}
    assert tuple(command[command.index("--") + 1 :]) == tuple(WORKER)
    assert inspector_of("bootc", Config.model_validate({"worker": {"runner": "subprocess"}})) == WORKER
