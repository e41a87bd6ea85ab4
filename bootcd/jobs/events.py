"""What happens to jobs, as the manager tells its one observer."""

from __future__ import annotations

from dataclasses import dataclass

from bootcd.model.job import JobRecord


@dataclass(frozen=True, slots=True)
class JobAdded:
    record: JobRecord


@dataclass(frozen=True, slots=True)
class JobChanged:
    """Progress or state of a job; the end of a job is the change whose record's state has ended."""

    record: JobRecord
    eta_secs: float = 0.0
    "Time left of the fetch; 0 while unknown."


@dataclass(frozen=True, slots=True)
class JobForgotten:
    """An ended job has lingered long enough; its object goes away."""

    record: JobRecord


JobEvent = JobAdded | JobChanged | JobForgotten
