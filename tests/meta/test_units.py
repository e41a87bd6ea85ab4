"""systemd itself judges the unit files."""

import configparser
import os
import re
import subprocess
from pathlib import Path

import pytest

from bootcd.config import Config, load_config

REPOSITORY = Path(__file__).resolve().parents[2]
SERVICE = REPOSITORY / "systemd/bootcd.service"


def run(*argv: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, env={**os.environ, **environ}, capture_output=True, text=True, timeout=50, check=False
    )


def settings(section: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(SERVICE)
    return dict(parser[section])


@pytest.mark.parametrize("name", ["bootcd", "bootcd-health", "bootcd-boot-counter", "bootcd-fleet-lock"])
def test_service_is_accepted_without_a_word(tmp_path: Path, name: str) -> None:
    # The programs and manual pages are where they will be installed, and here they are not yet.
    unit = tmp_path / f"{name}.service"
    text = SERVICE.with_name(unit.name).read_text()
    unit.write_text(re.sub("(ExecStart|ExecStop)=/usr/bin/.*", r"\1=/bin/true", text))
    for page in (REPOSITORY / "docs/man").iterdir():
        directory = tmp_path / f"man/man{page.suffix[1:]}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / page.name).symlink_to(page)
    done = run("systemd-analyze", "verify", str(unit), MANPATH=f"{tmp_path}/man")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_unit_of_the_session_is_accepted_without_a_word(tmp_path: Path) -> None:
    unit = tmp_path / "bootcd-notify.service"
    text = (REPOSITORY / "systemd/user" / unit.name).read_text()
    unit.write_text(re.sub("ExecStart=/usr/bin/.*", "ExecStart=/bin/true", text))
    (tmp_path / "man/man1").mkdir(parents=True)
    (tmp_path / "man/man1/bootcctl.1").symlink_to(REPOSITORY / "docs/man/bootcctl.1")
    environment = {"MANPATH": f"{tmp_path}/man", "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}
    done = run("systemd-analyze", "--user", "verify", str(unit), **environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    preset = (REPOSITORY / "systemd/user/90-bootcd.preset").read_text().splitlines()
    assert f"enable {unit.name}" in preset
    assert "WantedBy=graphical-session.target" in text.splitlines()


@pytest.mark.parametrize("name", ["bootcd", "bootcd-health", "bootcd-boot-counter", "user/bootcd-notify"])
def test_unit_runs_where_a_composefs_image_is_booted(name: str) -> None:
    text = (SERVICE.parent / f"{name}.service").read_text()
    conditions = [line for line in text.splitlines() if line.startswith("Condition")]
    assert "ConditionPathExists=|/run/ostree-booted" in conditions
    booted = f"root=UUID=1 composefs=?{'0a' * 64} rw"
    assert run("systemd-analyze", "condition", *conditions, SYSTEMD_PROC_CMDLINE=booted).returncode == 0
    assert run("systemd-analyze", "condition", *conditions, SYSTEMD_PROC_CMDLINE="rw").returncode == 1


def test_service_that_is_wrong_is_noticed(tmp_path: Path) -> None:
    unit = tmp_path / "bootcd.service"
    unit.write_text(SERVICE.read_text().replace("RestrictRealtime=yes", "RestrictRealtime=perhaps"))
    assert "Failed to parse boolean value" in run("systemd-analyze", "verify", str(unit)).stderr


def test_service_exposure_stays_low() -> None:
    done = run("systemd-analyze", "security", "--offline=true", "--threshold=25", str(SERVICE))
    assert done.returncode == 0, done.stdout
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found
    assert float(found[1]) <= 2.5


def test_service_has_neither_network_nor_capability() -> None:
    service = settings("Service")
    assert service["CapabilityBoundingSet"] == ""
    assert service["PrivateNetwork"] == "yes"
    assert service["RestrictAddressFamilies"] == "AF_UNIX"
    assert service["ProtectSystem"] == "strict"
    assert "ReadWritePaths" not in service


def test_service_of_the_bus_and_of_systemd_agree_on_names() -> None:
    activation = (REPOSITORY / "dbus/org.bootcd1.service").read_text().splitlines()
    assert f"Name={settings('Service')['BusName']}" in activation
    assert f"SystemdService={SERVICE.name}" in activation


def test_service_is_enabled_by_the_preset_and_starts_at_boot() -> None:
    assert "enable bootcd.service" in (REPOSITORY / "systemd/90-bootcd.preset").read_text().splitlines()
    assert settings("Install")["WantedBy"] == "multi-user.target"


def test_health_check_stands_before_the_completion_of_every_boot() -> None:
    preset = (REPOSITORY / "systemd/90-bootcd.preset").read_text().splitlines()
    unit = SERVICE.with_name("bootcd-health.service").read_text().splitlines()
    assert "enable bootcd-health.service" in preset
    assert {"Before=boot-complete.target", "RequiredBy=boot-complete.target"} <= set(unit)


def test_service_removes_every_file_it_publishes() -> None:
    published = {"status.json", "service.json"}
    source = (REPOSITORY / "bootcd/agent/service.py").read_text()
    assert {name for name in re.findall(r'"([a-z]+\.json)"', source)} >= published
    for name in published:
        assert f"%t/bootcd/{name}" in settings("Service")["ExecStopPost"]


def test_tmpfiles_are_created_as_written(tmp_path: Path) -> None:
    done = run("systemd-tmpfiles", "--create", f"--root={tmp_path}", str(REPOSITORY / "systemd/bootcd.conf"))
    if os.geteuid() != 0:
        pytest.skip("needs root: the directories belong to root")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "run/bootcd/config.d").is_dir()


# Of workers, of the watch on the host, of bounded output, of the lock, of the bus.
NEEDED_CALLS = {
    "pidfd_open", "pidfd_send_signal", "inotify_add_watch", "memfd_create", "flock", "sendmsg", "fchmod",
    "accept4", "fchmodat", "renameat", "fsync", "setsid",
}  # fmt: skip


def test_system_calls_the_daemon_makes_are_allowed() -> None:
    listed = run("systemd-analyze", "syscall-filter", "--no-pager").stdout
    blocks = [block.split() for block in re.split(r"\n(?=@)", listed) if block.startswith("@")]
    sets = {name: set(members) for name, *members in blocks}

    def expand(group: str) -> set[str]:
        return {call for one in sets[group] for call in (expand(one) if one in sets else {one})}

    allowed: set[str] = set()
    for line in re.findall(r"^SystemCallFilter=(.*)", SERVICE.read_text(), re.MULTILINE):
        calls = {call for group in line.removeprefix("~").split() for call in expand(group)}
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    assert allowed >= NEEDED_CALLS
    assert "mount" not in allowed


def test_default_configuration_is_accepted_and_changes_nothing() -> None:
    loaded = load_config([REPOSITORY / "systemd/config"])
    assert loaded.config == Config()
    assert loaded.warnings == ()


def test_default_configuration_names_true_defaults(tmp_path: Path) -> None:
    text = (REPOSITORY / "systemd/config/10-defaults.toml").read_text()
    everything = re.sub(r"^#(?=[a-z])", "", text, flags=re.MULTILINE)
    assert everything.count(" = ") == text.count(" = ") > 8
    (tmp_path / "10-defaults.toml").write_text(everything)
    assert load_config([tmp_path]).config == Config()
