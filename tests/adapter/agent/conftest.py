"""The service over real worker processes: it must never block while they run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bootcd.agent import inspection
from tests.support.blocking import no_blocking_calls as no_blocking_calls
from tests.support.jobs import WorkerScript
from tests.support.service import BOOTED, show_host


@pytest.fixture(autouse=True)
def impatient_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "SPACING_SECS", 0.05)


@pytest.fixture
def script(tmp_path: Path) -> Iterator[WorkerScript]:
    """A host that is booted from image a, with nothing staged."""
    made = WorkerScript(tmp_path / "sysroot")
    show_host(made, BOOTED)
    yield made
    made.close()
