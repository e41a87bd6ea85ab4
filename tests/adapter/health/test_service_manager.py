"""The end of a boot and the state of units, asked of a real service manager."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.user_manager import pass_under_user_manager


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a service manager of its own needs namespaces")
def test_boot_is_judged_under_a_real_service_manager() -> None:
    pass_under_user_manager(Path(__file__).with_name("under_user_manager.py"))
