"""Jobs with real worker processes: the daemon's side must never block while they run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.blocking import no_blocking_calls as no_blocking_calls
from tests.support.jobs import WorkerScript


@pytest.fixture
def script(tmp_path: Path) -> Iterator[WorkerScript]:
    made = WorkerScript(tmp_path / "sysroot")
    yield made
    made.close()
