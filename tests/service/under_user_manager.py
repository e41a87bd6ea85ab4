"""The daemon as a unit of a real service manager, as systemctl shows it; run by test_log_control.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.machine import REPOSITORY


def systemctl(*arguments: str) -> str:
    done = subprocess.run(
        ["systemctl", "--user", *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_level_of_the_log_is_changed_by_systemctl(tmp_path: Path) -> None:
    for name in ("conf", "sysroot", "state", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "conf/test.toml").write_text(f'[host]\nsysroot = "{tmp_path}/sysroot"\n')
    directories = (
        f"--{name}-dir={tmp_path}/{short}" for name, short in (("state", "state"), ("runtime", "run"))
    )
    command = f"{sys.executable} -m bootcd --config-dir={tmp_path}/conf {' '.join(directories)}"
    units = Path(os.environ["XDG_RUNTIME_DIR"], "systemd/user")
    units.mkdir(parents=True)
    (units / "bootcd.service").write_text(
        "[Service]\nType=notify\nBusName=org.bootcd1\n"
        f"Environment=PYTHONPATH={REPOSITORY}\n"
        f"ExecStart={command} --bus={os.environ['DBUS_SESSION_BUS_ADDRESS']}\n"
    )
    systemctl("daemon-reload")
    systemctl("start", "bootcd.service")
    assert systemctl("service-log-level", "bootcd.service") == "info"
    systemctl("service-log-level", "bootcd.service", "debug")
    assert systemctl("service-log-level", "bootcd.service") == "debug"
    assert systemctl("service-log-target", "bootcd.service") == "console"
