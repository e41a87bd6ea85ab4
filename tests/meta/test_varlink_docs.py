"""The interface definition that is shipped is the one the service gives."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bootcd.varlink.description import description
from tests.support.machine import REPOSITORY
from tests.support.varlink import VARLINKCTL

FILE = REPOSITORY / "docs/io.bootcd.varlink"


def test_shipped_definition_is_up_to_date() -> None:
    # As it is printed, in a process that knows no more errors than it needs to.
    done = subprocess.run(
        [sys.executable, "-m", "bootcd.varlink.description"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert FILE.read_text() == done.stdout == description(), "run: python -m bootcd.varlink.description"


def test_shipped_definition_is_valid_to_systemd() -> None:
    if not VARLINKCTL.exists():
        pytest.skip("varlinkctl was not fetched, see tests/varlink-tools.sh")
    done = subprocess.run(
        [VARLINKCTL, "validate-idl", FILE], capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
