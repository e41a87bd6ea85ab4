"""An installation that is stopped, or killed, leaves nothing mounted and nothing attached."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.install import (
    await_detached,
    command,
    entry_of,
    install,
    loop_devices_of,
    partition,
    small_image,
    write_layout,
)
from tests.support.oci_image import file, make_layer


def start(disk: Path, source: str, *more: str) -> subprocess.Popen[str]:
    words = (
        "to-disk",
        "--json",
        "--via-loopback",
        "--filesystem=ext4",
        "--source-imgref",
        source,
        *more,
        disk,
    )
    return subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def await_phase(process: subprocess.Popen[str], phase: str) -> None:
    """Return at the first word of a phase."""
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("phase") == phase:
            return
    raise AssertionError(f"the installation ended before {phase}: {process.communicate()}")


def assert_nothing_left() -> None:
    # What is for one installation alone nobody else has seen.
    assert list(Path("/run/bootcd-install").iterdir()) == []


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image whose import takes a while."""
    layers = [
        make_layer([file(f"usr/share/{n}", os.urandom(16 << 20))], compression="none") for n in range(3)
    ]
    return write_layout(small_image(*layers), tmp_path_factory.mktemp("large"))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("phase", ["survey", "format", "import"])
def test_stopped_installation_leaves_nothing_behind(phase: str, large: str, disk: Path) -> None:
    process = start(disk, large)
    await_phase(process, phase)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 11, errors
    last = json.loads(output.splitlines()[-1])
    assert (last["type"], last["name"]) == ("error", "Cancelled")
    assert "Traceback" not in errors
    await_detached(disk)
    assert str(disk) not in Path("/proc/self/mountinfo").read_text()
    assert_nothing_left()


@pytest.mark.timeout(120)
def test_killed_installation_leaves_a_disk_the_next_one_takes(large: str, disk: Path, tmp_path: Path) -> None:
    process = start(disk, large)
    await_phase(process, "import")
    assert loop_devices_of(disk)
    process.kill()
    process.communicate()
    # The kernel takes down the mounts with the process, and the loop device with the last of them.
    await_detached(disk)
    assert_nothing_left()
    refused = install(
        *("to-disk", "--via-loopback", "--filesystem=ext4", "--source-imgref", large, disk), check=False
    )
    assert refused.returncode == 5
    assert "--wipe" in refused.stderr
    install("to-disk", "--wipe", "--via-loopback", "--filesystem=xfs", "--source-imgref", large, disk)
    with partition(disk, tmp_path / "root") as root:
        assert "ostree=/ostree/boot." in entry_of(root)["options"]
