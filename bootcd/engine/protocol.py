"""What a host can do, as the worker asks it: one small interface, whatever drives the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from bootcd.model.job import JobRequest, Outcome, Progress
from bootcd.model.report import HostReport

Report = Callable[[Progress], None]
"Takes each progress value; called from the event loop, as often as there is news."


class Engine(Protocol):
    def read_report(self) -> HostReport:
        """Describe the host's deployments. Takes no lock, changes nothing. Blocks."""
        ...

    def prepare(self, request: JobRequest) -> None:
        """Check what can be checked at once and without the network. Blocks briefly.

        Raises: the typed error that makes the request impossible.
        """
        ...

    async def run(self, request: JobRequest, report: Report) -> Outcome:
        """Do the work. Cancelling the task stops it, unless the last progress was not cancellable."""
        ...
