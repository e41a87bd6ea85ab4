"""What the service publishes: one immutable value per moment, and the changes between them.

Front ends (D-Bus today) render a `Snapshot`; they never look at the machinery behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from bootcd.jobs.events import JobAdded, JobChanged, JobForgotten
from bootcd.model.health import BootHealth, FailedBoot
from bootcd.model.host import Host
from bootcd.model.job import ImageUpdate
from bootcd.model.report import DeploymentDetails
from bootcd.model.trust import TrustPolicy
from bootcd.update.appointment import Appointment
from bootcd.update.driver import Driver
from bootcd.update.gates import Gate
from bootcd.update.inhibit import Inhibitor
from bootcd.update.pause import Pause
from bootcd.update.surroundings import Surroundings

__all__ = ["Change", "JobAdded", "JobChanged", "JobForgotten", "NextAction", "Snapshot", "SnapshotChanged"]


@dataclass(frozen=True, slots=True)
class NextAction:
    """What the daemon will do by itself; `action` is "check", "stage", "apply" or "" for nothing."""

    action: str = ""
    reason: str = ""
    when: datetime | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The service at one moment. `host_json` is the rendered form of `host`."""

    version: str
    backend: str
    state: str
    state_since: datetime
    generation: int = 0
    host: Host = field(default_factory=Host)
    host_json: str = ""
    details: Mapping[str, DeploymentDetails] = field(default_factory=dict)
    "Of the deployments of `host`, by their id."
    trust: TrustPolicy = field(default_factory=TrustPolicy)
    "What the signature policy says of the image the host tracks."
    active_job: str = ""
    "Uuid of the job at work, or empty."
    reboot_required: bool = False
    last_check: datetime | None = None
    last_check_result: str = ""
    available: ImageUpdate | None = None
    good: tuple[str, ...] = ()
    "Digests of versions that booted well here."
    boot_health: BootHealth | None = None
    "The verdict on this boot, once there is one."
    failures: tuple[FailedBoot, ...] = ()
    "Without their journals."
    failed: tuple[str, ...] = ()
    "Digests of versions that booted badly here, and are not taken again unasked."
    mode: str = "off"
    next_action: NextAction = NextAction()
    drivers: tuple[Driver, ...] = ()
    "Other programs that decide when the host is updated."
    appointment: Appointment | None = None
    "For a reboot somebody has asked for."
    paused: Pause | None = None
    inhibitors: tuple[Inhibitor, ...] = ()
    gates: tuple[Gate, ...] = ()
    "What holds up work that is done unasked, beside inhibitors."
    reboot_at: datetime | None = None
    "What people who are logged in were told."
    surroundings: Surroundings = field(default_factory=Surroundings)


@dataclass(frozen=True, slots=True)
class SnapshotChanged:
    snapshot: Snapshot


Change = SnapshotChanged | JobAdded | JobChanged | JobForgotten
