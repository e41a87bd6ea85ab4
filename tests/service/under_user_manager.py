"""Units of a real service manager, as systemctl shows them; run by test_log_control.py."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from tests.support.dbusmock import dbusmock
from tests.support.machine import REPOSITORY
from tests.support.scripted_service import ScriptedService, deployment, host, open_bus, shown_on


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
    units.mkdir(parents=True, exist_ok=True)
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


async def test_unit_of_the_session_tells_of_an_update_and_ends_with_the_session(tmp_path: Path) -> None:
    Path("/run/ostree-booted").touch()
    units = Path(os.environ["XDG_RUNTIME_DIR"], "systemd/user")
    wanted = units / "graphical-session.target.wants"
    wanted.mkdir(parents=True)
    session = os.environ["DBUS_SESSION_BUS_ADDRESS"]
    async with open_bus(tmp_path) as address, shown_on(address, service := ScriptedService()):
        text = (REPOSITORY / "systemd/user/bootcd-notify.service").read_text()
        program = f"{Path(sys.executable).with_name('bootcctl')} notify"
        environment = f"Environment=DBUS_SYSTEM_BUS_ADDRESS={address} XDG_STATE_HOME={tmp_path}/state"
        text = text.replace("ExecStart=/usr/bin/bootcctl notify", f"{environment}\nExecStart={program}")
        assert program in text
        (units / "bootcd-notify.service").write_text(text)
        (wanted / "bootcd-notify.service").symlink_to(units / "bootcd-notify.service")
        # What desktops start; they may not start the other one themselves.
        (units / "desktop.target").write_text(
            "[Unit]\nBindsTo=graphical-session.target\nBefore=graphical-session.target\n"
        )
        ready = host(booted=deployment("1", "a"), staged=deployment("2", "b"))
        service.publish(host=ready, host_json=ready.to_json(), reboot_required=True)
        server = ("notification_daemon", "org.freedesktop.Notifications", "/org/freedesktop/Notifications")
        async with dbusmock(session, *server, session=True, capabilities="body actions") as mock:
            await asyncio.to_thread(systemctl, "daemon-reload")
            await asyncio.to_thread(systemctl, "start", "desktop.target")
            async with asyncio.timeout(30):
                while not (calls := await mock.calls("Notify")):
                    pass
            assert calls[0][3] == "A system update is ready"
            await asyncio.to_thread(systemctl, "stop", "desktop.target")
            async with asyncio.timeout(30):
                show = ("show", "--property=ActiveState,Result", "bootcd-notify.service")
                while "ActiveState=inactive" not in (told := await asyncio.to_thread(systemctl, *show)):
                    pass
            assert "Result=success" in told
