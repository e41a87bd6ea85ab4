"""Tests run under a service manager of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_NAMESPACES = ["unshare", "--mount", "--cgroup", "--pid", "--fork", "--mount-proc", "--kill-child"]


def pass_under_user_manager(tests: Path) -> None:
    """Run the tests of a file under a real `systemd --user`, see user_manager.sh; fail if one does."""
    # Below a /run that ends with the namespace, and short, as paths of sockets must be.
    options = ["-q", "-p", "no:cacheprovider", "--basetemp=/run/t"]
    script = Path(__file__).with_name("user_manager.sh")
    done = subprocess.run(
        [*_NAMESPACES, script, sys.executable, "-m", "pytest", *options, tests],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
