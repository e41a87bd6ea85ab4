"""Worker processes as units of a real service manager, started by the test for the test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.user_manager import pass_under_user_manager


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a service manager of its own needs namespaces")
def test_jobs_under_a_real_service_manager() -> None:
    pass_under_user_manager(Path(__file__).with_name("under_user_manager.py"))
