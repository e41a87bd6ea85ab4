import subprocess
from pathlib import Path

import pytest

from bootcd.host.machineid import application_id, rollout_identity

MACHINE = "0123456789abcdef0123456789abcdef"
APPLICATION = "4b7d2cf05c0f4b3d9d0a5be0a1e3c76f"


def test_application_id_is_the_one_systemd_makes() -> None:
    argv = ["systemd-id128", "machine-id", f"--app-specific={APPLICATION}"]
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    made = application_id(Path("/etc/machine-id").read_text(), bytes.fromhex(APPLICATION))
    assert made.hex() == said


def test_rollout_identity_is_stable_and_not_the_machine_id(tmp_path: Path) -> None:
    path = tmp_path / "machine-id"
    path.write_text(MACHINE + "\n")
    identity = rollout_identity(path)
    assert identity is not None
    assert identity == rollout_identity(path)
    assert MACHINE not in identity.hex()


@pytest.mark.parametrize("content", [None, "", "uninitialized\n", "0" * 32, "x" * 32, "a" * 500])
def test_rollout_identity_without_a_machine_id_is_none(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "machine-id"
    if content is not None:
        path.write_text(content)
    assert rollout_identity(path) is None
