"""The end of a boot and the state of units, asked of a real service manager."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parents[2] / "support"
NAMESPACES = ["unshare", "--mount", "--cgroup", "--pid", "--fork", "--mount-proc", "--kill-child"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a service manager of its own needs namespaces")
def test_boot_is_judged_under_a_real_service_manager() -> None:
    tests = Path(__file__).with_name("under_user_manager.py")
    options = ["-q", "-p", "no:cacheprovider", "--basetemp=/run/t"]
    done = subprocess.run(
        [*NAMESPACES, SUPPORT / "user_manager.sh", sys.executable, "-m", "pytest", *options, tests],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
