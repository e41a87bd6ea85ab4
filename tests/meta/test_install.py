"""`make install` puts every file where a distribution expects it, and what is installed works."""

import os
import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

EXPECTED = {
    "usr/bin/bootcctl": 0o755,
    "usr/bin/bootcd": 0o755,
    "usr/bin/bootcd-health": 0o755,
    "usr/bin/bootcd-image": 0o755,
    "usr/bin/bootcd-install": 0o755,
    "usr/bin/bootcd-worker": 0o755,
    "usr/lib/bootcd/config.d/10-defaults.toml": 0o644,
    "usr/lib/systemd/system/bootcd-boot-counter.service": 0o644,
    "usr/lib/systemd/system/bootcd-fleet-lock.service": 0o644,
    "usr/lib/systemd/system/bootcd-health.service": 0o644,
    "usr/lib/systemd/system/bootcd.service": 0o644,
    "usr/lib/systemd/system-preset/90-bootcd.preset": 0o644,
    "usr/lib/systemd/user/bootcd-notify.service": 0o644,
    "usr/lib/systemd/user-preset/90-bootcd.preset": 0o644,
    "usr/lib/tmpfiles.d/bootcd.conf": 0o644,
    "usr/share/bash-completion/completions/bootcctl": 0o644,
    "usr/share/bootcd/bootcd1.py": 0o644,
    "usr/share/bash-completion/completions/bootcd-image": 0o644,
    "usr/share/bash-completion/completions/bootcd-install": 0o644,
    "usr/share/dbus-1/interfaces/org.bootcd1.Deployment.xml": 0o644,
    "usr/share/dbus-1/interfaces/org.bootcd1.Job.xml": 0o644,
    "usr/share/dbus-1/interfaces/org.bootcd1.Manager.xml": 0o644,
    "usr/share/dbus-1/system-services/org.bootcd1.service": 0o644,
    "usr/share/dbus-1/system.d/org.bootcd1.conf": 0o644,
    "usr/share/fish/vendor_completions.d/bootcctl.fish": 0o644,
    "usr/share/fish/vendor_completions.d/bootcd-image.fish": 0o644,
    "usr/share/fish/vendor_completions.d/bootcd-install.fish": 0o644,
    "usr/share/licenses/bootcd/LICENSE": 0o644,
    "usr/share/man/man1/bootcctl.1": 0o644,
    "usr/share/man/man1/bootcd-image.1": 0o644,
    "usr/share/man/man8/bootcd.8": 0o644,
    "usr/share/man/man8/bootcd-health.8": 0o644,
    "usr/share/man/man8/bootcd-install.8": 0o644,
    "usr/share/polkit-1/actions/org.bootcd1.policy": 0o644,
    "usr/share/varlink/io.bootcd.varlink": 0o644,
    "usr/share/zsh/site-functions/_bootcctl": 0o644,
    "usr/share/zsh/site-functions/_bootcd-image": 0o644,
    "usr/share/zsh/site-functions/_bootcd-install": 0o644,
}


def install(destination: Path, *variables: str) -> None:
    command = ["make", "--no-print-directory", "install", f"DESTDIR={destination}", *variables]
    # A packager's umask must not show in what is installed.
    done = subprocess.run(
        ["sh", "-c", 'umask 022; exec "$@"', "sh", *command],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    destination = tmp_path_factory.mktemp("destination")
    install(destination)
    return destination


@pytest.fixture(scope="module")
def site(installed: Path) -> Path:
    [package] = installed.glob("usr/lib/python3*/*-packages/bootcd")
    return package.parent


def files(directory: Path) -> dict[str, int]:
    return {
        str(path.relative_to(directory)): path.stat().st_mode & 0o777
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_install_puts_every_file_in_its_place_and_nothing_else(installed: Path, site: Path) -> None:
    prefix = str(site.relative_to(installed)) + "/"
    rest = {name: mode for name, mode in files(installed).items() if not name.startswith(prefix)}
    assert rest == EXPECTED


def test_install_takes_every_module_and_its_byte_code(installed: Path, site: Path) -> None:
    sources = {
        str(path.relative_to(REPOSITORY))
        for name in ("bootcd", "bootcctl")
        for path in (REPOSITORY / name).rglob("*.py")
    }
    found = files(site)
    assert {name for name in found if name.endswith(".py")} == sources
    assert len([name for name in found if name.endswith(".pyc")]) == len(sources)
    assert all(name.endswith((".py", ".pyc")) for name in found)
    assert set(found.values()) == {0o644}


def test_byte_code_is_valid_whatever_the_time_of_its_source(site: Path) -> None:
    # PEP 552: flags 0b01 is hash-based and not checked against the source.
    for path in site.rglob("*.pyc"):
        assert path.read_bytes()[4:8] == b"\x01\0\0\0", path


def test_installed_files_name_no_place_of_the_machine_that_built_them(installed: Path) -> None:
    traces = [str(REPOSITORY).encode(), str(installed).encode(), b"/.venv"]
    for path in installed.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [trace for trace in traces if trace in content], path


def test_install_twice_gives_the_same_bytes(installed: Path, tmp_path: Path) -> None:
    install(tmp_path)
    first, second = ({name: (d / name).read_bytes() for name in files(d)} for d in (installed, tmp_path))
    assert first == second


def test_install_with_another_prefix_starts_the_program_from_there(tmp_path: Path) -> None:
    install(tmp_path, "PREFIX=/opt/bootcd")
    unit = (tmp_path / "opt/bootcd/lib/systemd/system/bootcd.service").read_text()
    assert "ExecStart=/opt/bootcd/bin/bootcd\n" in unit
    # The one place where the service looks for the configuration of the image.
    assert (tmp_path / "usr/lib/bootcd/config.d/10-defaults.toml").exists()


def test_install_writes_nothing_outside_its_destination(tmp_path: Path) -> None:
    def state() -> dict[str, tuple[int, int]]:
        places = ("bootcd", "bootcctl", "dbus", "systemd", "docs")
        paths = [path for place in places for path in (REPOSITORY / place).rglob("*")]
        return {
            str(path): (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in paths
            if "__pycache__" not in str(path) and path.is_file()
        }

    before = state()
    install(tmp_path / "inside")
    assert state() == before
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


@pytest.mark.parametrize(
    "script", ["bootcctl", "bootcd", "bootcd-health", "bootcd-image", "bootcd-install", "bootcd-worker"]
)
def test_script_runs_the_installed_package(installed: Path, site: Path, script: str) -> None:
    done = subprocess.run(
        [REPOSITORY / ".venv/bin/python", installed / "usr/bin" / script, "--help"],
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {script} ")


def in_installed_system(installed: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script where /usr is a read-only file system with what was installed."""
    overlay = f"mount -t overlay overlay -o lowerdir={installed}/usr:/usr /usr"
    return subprocess.run(
        ["unshare", "--mount", "sh", "-ec", f"{overlay}\n{script}"],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.fixture(scope="module")
def system(installed: Path) -> Path:
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts what was installed over /usr")
    probe = in_installed_system(installed, "true")
    if probe.returncode:
        pytest.skip(f"needs overlay mounts: {probe.stderr.strip()}")
    return installed


def test_installed_commands_run_by_name(system: Path) -> None:
    done = in_installed_system(system, "bootcctl --version; bootcd --version")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"bootcctl [0-9.]+\nbootcd [0-9.]+\n", done.stdout)


def test_installed_command_uses_its_byte_code(system: Path) -> None:
    done = in_installed_system(system, "/usr/bin/python3 -v -I /usr/bin/bootcctl --version")
    assert re.search(
        r"matches \S+/bootcctl/cli\.py|code object from '\S+/bootcctl/__pycache__/cli", done.stderr
    )
    assert "wrote" not in done.stderr


def test_installed_unit_and_manual_pages_are_found(system: Path) -> None:
    units = "bootcd.service bootcd-health.service bootcd-boot-counter.service"
    done = in_installed_system(system, f"systemd-analyze verify {units}; man -w bootcctl; man -w 8 bootcd")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["/usr/share/man/man1/bootcctl.1", "/usr/share/man/man8/bootcd.8"]
